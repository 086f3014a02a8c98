"""The VQ-VAE of configs/vqvae_cifar10.py in torch, with vector-quantize-pytorch's codebook.

An independent implementation to compare reconstructions, use of codes and speed with: the same
network, batches, learning rates and steps. Needs torch, vector-quantize-pytorch and an npz file
with x_train and x_test; nothing of gen_jax.

    python bench/vqvae_torch.py --data cifar10.npz --steps 5000
"""

import argparse
import json
import math
import time

import numpy as np
import torch
from torch import nn
from vector_quantize_pytorch import VectorQuantize


class Residuals(nn.Module):
    def __init__(self, channels, hidden, num_blocks):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(channels, hidden, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(hidden, channels, 1),
            )
            for _ in range(num_blocks)
        )

    def forward(self, h):
        for block in self.blocks:
            h = h + block(h)
        return torch.relu(h)


class VQVAE(nn.Module):
    def __init__(self, channels=128, hidden=32, num_blocks=2, dim=64, num_codes=512):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, channels // 2, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(channels // 2, channels, 4, 2, 1),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            Residuals(channels, hidden, num_blocks),
            nn.Conv2d(channels, dim, 1),
        )
        self.quantize = VectorQuantize(
            dim=dim,
            codebook_size=num_codes,
            decay=0.99,
            commitment_weight=1.0,  # weighed below
            kmeans_init=True,
            kmeans_iters=10,
            threshold_ema_dead_code=0.05,
            rotation_trick=False,  # the gradient is straight-through, as in the paper
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(dim, channels, 3, padding=1),
            Residuals(channels, hidden, num_blocks),
            nn.ConvTranspose2d(channels, channels // 2, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(channels // 2, 3, 4, 2, 1),
        )

        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                # As many inputs reach an output of a transposed 4x4 convolution with stride 2.
                fan_in = module.in_channels * (
                    4 if isinstance(module, nn.ConvTranspose2d) else math.prod(module.kernel_size)
                )
                gain = 1.0 if module.kernel_size == (1, 1) and module.out_channels == dim else 2.0
                nn.init.trunc_normal_(module.weight, std=1.0, a=-2, b=2)
                module.weight.data *= math.sqrt(gain / fan_in) / 0.87962566
                nn.init.zeros_(module.bias)

    def forward(self, x):
        z = self.encoder(x).permute(0, 2, 3, 1)
        batch, height, width, dim = z.shape
        quantized, codes, commitment = self.quantize(z.reshape(batch, height * width, dim))
        quantized = quantized.reshape(batch, height, width, dim).permute(0, 3, 1, 2)
        return self.decoder(quantized), codes, commitment * dim  # a sum over the vector


def main():  # noqa: PLR0915 one run, from data to numbers
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--commitment_cost", type=float, default=0.25)
    parser.add_argument("--num_codes", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    with np.load(arguments.data) as file:
        train, test = file["x_train"], file["x_test"]
    # As data.holdout does: 5,000 images, spread evenly, are not trained on.
    held = np.linspace(0, len(train) - 1, 5000).round().astype(int)
    train = np.delete(train, held, axis=0)

    def prepare(images):
        x = torch.from_numpy(images.astype(np.float32) / 127.5 - 1)
        return x.permute(0, 3, 1, 2).contiguous()

    model = VQVAE(num_codes=arguments.num_codes)
    optimizer = torch.optim.Adam(model.parameters(), lr=arguments.rate, betas=(0.9, 0.999))

    def rate(step):
        if step < arguments.warmup:
            return step / arguments.warmup
        share = (step - arguments.warmup) / max(1, arguments.steps - arguments.warmup)
        return 0.5 * (1 + math.cos(math.pi * share))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    order, place = rng.permutation(len(train)), 0
    start = time.perf_counter()
    for step in range(1, arguments.steps + 1):
        if place + arguments.batch_size > len(train):
            order, place = rng.permutation(len(train)), 0
        images = train[order[place : place + arguments.batch_size]]
        place += arguments.batch_size
        flip = rng.random(len(images)) < 0.5
        images = np.where(flip[:, None, None, None], images[:, :, ::-1], images)
        x = prepare(images)
        again, codes, commitment = model(x)
        nats = 0.5 * ((again - x) ** 2).flatten(1).sum(1).mean()
        loss = nats + arguments.commitment_cost * commitment
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 500 == 0 or step == 100:
            seconds = time.perf_counter() - start
            used = len(torch.unique(codes))
            print(
                f"step {step}: half squared error {nats.item():.2f}, commitment "
                f"{commitment.item():.3f}, {used} codes in the batch, {step / seconds:.2f} steps/s",
                flush=True,
            )
    seconds = time.perf_counter() - start

    model.eval()
    errors, psnrs, counts = [], [], np.zeros(arguments.num_codes)
    with torch.no_grad():
        for first in range(0, len(test), 250):
            images = test[first : first + 250]
            again, codes, _ = model(prepare(images))
            pixels = ((again.permute(0, 2, 3, 1).numpy() + 1) * 127.5).clip(0, 255).round()
            error = (((pixels - images) / 255) ** 2).reshape(len(images), -1).mean(1)
            errors.append(error)
            psnrs.append(-10 * np.log10(error))
            counts += np.bincount(codes.numpy().reshape(-1), minlength=arguments.num_codes)
    share = counts / counts.sum()
    print(
        json.dumps(
            {
                "steps": arguments.steps,
                "parameters": sum(p.numel() for p in model.parameters()),
                "mse": float(np.concatenate(errors).mean()),
                "psnr": float(np.concatenate(psnrs).mean()),
                "codes_used": float((counts > 0).mean()),
                "perplexity": float(np.exp(-(share[share > 0] * np.log(share[share > 0])).sum())),
                "steps_per_second": arguments.steps / seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
