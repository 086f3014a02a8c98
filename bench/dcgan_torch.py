"""The DCGAN of PyTorch's official example in torch, for images of up to 32x32.

An independent implementation to compare samples and speed with: the example's networks with one
level less (32 pixels and not 64), batch normalization, initialization, Adam and losses, on an npz
file with x_train, and y_train for classes. A label is learned numbers beside the latents, and a
learned plane beside the image. Needs torch and nothing of gen_jax.

    python bench/dcgan_torch.py --data mnist.npz --seconds 600 --out samples.npz

With ``--classes 10`` samples are of a class; ``--out`` then holds labels, in turn.
"""

import argparse
import json
import time

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

SIDE = 32


def initialize(module):
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


class Generator(nn.Module):
    def __init__(self, latent_dim, width, channels, classes, embedding_dim):
        super().__init__()
        self.embed = nn.Embedding(classes, embedding_dim) if classes else None
        total = latent_dim + (embedding_dim if classes else 0)
        layers = [nn.ConvTranspose2d(total, width * 4, 4, 1, 0, bias=False)]
        for factor in (4, 2, 1):
            out = width * factor // 2 if factor > 1 else channels
            layers += [
                nn.BatchNorm2d(width * factor),
                nn.ReLU(True),
                nn.ConvTranspose2d(width * factor, out, 4, 2, 1, bias=False),
            ]
        self.layers = nn.Sequential(*layers, nn.Tanh())
        self.apply(initialize)

    def forward(self, z, label=None):
        if self.embed is not None:
            z = torch.cat([z, self.embed(label)], 1)
        return self.layers(z[:, :, None, None])


class Discriminator(nn.Module):
    def __init__(self, width, channels, classes):
        super().__init__()
        self.embed = nn.Embedding(classes, SIDE * SIDE) if classes else None
        layers = [
            nn.Conv2d(channels + (1 if classes else 0), width, 4, 2, 1, bias=False),
            nn.LeakyReLU(0.2, True),
        ]
        for factor in (1, 2):
            layers += [
                nn.Conv2d(width * factor, width * factor * 2, 4, 2, 1, bias=False),
                nn.BatchNorm2d(width * factor * 2),
                nn.LeakyReLU(0.2, True),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width * 4, 1, 4, 1, 0, bias=False))
        self.apply(initialize)

    def forward(self, x, label=None):
        if self.embed is not None:
            x = torch.cat([x, self.embed(label).view(-1, 1, SIDE, SIDE)], 1)
        return self.layers(x).flatten()  # logits: the example's sigmoid is in the loss


def cross_entropy(logits, real):
    return binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", default="samples.npz")
    parser.add_argument("--num", type=int, default=2000)
    until = parser.add_mutually_exclusive_group(required=True)
    until.add_argument("--seconds", type=float)
    until.add_argument("--steps", type=int)
    parser.add_argument("--classes", type=int, default=0)
    parser.add_argument("--embedding_dim", type=int, default=32)
    parser.add_argument("--latent_dim", type=int, default=100)
    parser.add_argument("--ngf", type=int, default=32)
    parser.add_argument("--ndf", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--log_every", type=int, default=500)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load(arguments):
    """Return images [N, C, 32, 32] from -1 to 1, labels or None, and the size that they had."""
    with np.load(arguments.data) as file:
        images = file["x_train"]
        labels = file["y_train"].astype(np.int64) if arguments.classes else None
    images = images[..., None] if images.ndim == 3 else images
    size = images.shape[1:3]
    if images.dtype != np.uint8 or max(size) > SIDE:
        raise ValueError(f"x_train: got {images.dtype}, {size}; uint8 of up to {SIDE} is required")
    if labels is not None and labels.max() >= arguments.classes:
        raise ValueError(f"y_train: got label {labels.max()}; --classes is {arguments.classes}")
    pads = [((SIDE - n) // 2, SIDE - n - (SIDE - n) // 2) for n in size]
    images = np.pad(images, ((0, 0), *pads, (0, 0)))
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), labels, size


def sample(generator, arguments, size):
    """Draw images as the example does: with the statistics of a batch, not running averages."""
    images, labels = [], np.arange(arguments.num) % max(1, arguments.classes)
    top, left = ((SIDE - n) // 2 for n in size)
    with torch.no_grad():
        for first in range(0, arguments.num, arguments.batch_size):
            # Always a full batch, so that the last is normalized like the others.
            rows = np.arange(first, first + arguments.batch_size) % arguments.num
            label = torch.from_numpy(labels[rows]) if arguments.classes else None
            x = generator(torch.randn(arguments.batch_size, arguments.latent_dim), label)
            x = x[:, :, top : top + size[0], left : left + size[1]].permute(0, 2, 3, 1).numpy()
            images.append(((x + 1) * 127.5).clip(0, 255).round().astype(np.uint8))
    return np.concatenate(images)[: arguments.num], labels


def main():
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    images, labels, size = load(arguments)
    channels = images.shape[1]
    generator = Generator(
        arguments.latent_dim, arguments.ngf, channels, arguments.classes, arguments.embedding_dim
    )
    discriminator = Discriminator(arguments.ndf, channels, arguments.classes)
    optimizers = [
        torch.optim.Adam(network.parameters(), lr=arguments.rate, betas=(0.5, 0.999))
        for network in (generator, discriminator)
    ]

    order, place, step = rng.permutation(len(images)), 0, 0
    start = time.perf_counter()

    def done():
        if arguments.seconds is not None:
            return time.perf_counter() - start >= arguments.seconds
        return step >= arguments.steps

    while not done():
        if place + arguments.batch_size > len(images):
            order, place = rng.permutation(len(images)), 0
        rows = order[place : place + arguments.batch_size]
        place += arguments.batch_size
        x = torch.from_numpy(images[rows].astype(np.float32) / 127.5 - 1)
        label = torch.from_numpy(labels[rows]) if labels is not None else None
        fake = generator(torch.randn(arguments.batch_size, arguments.latent_dim), label)

        # Real and fake images pass apart, as batch normalization would tell them by the mixture.
        real_loss = cross_entropy(discriminator(x, label), True)
        fake_loss = cross_entropy(discriminator(fake.detach(), label), False)
        optimizers[1].zero_grad()
        (real_loss + fake_loss).backward()
        optimizers[1].step()

        # The gradient that reaches the discriminator's weights here is not used.
        discriminator.requires_grad_(False)
        loss = cross_entropy(discriminator(fake, label), True)
        optimizers[0].zero_grad()
        loss.backward()
        optimizers[0].step()
        discriminator.requires_grad_(True)

        step += 1
        if step % arguments.log_every == 0:
            seconds = time.perf_counter() - start
            print(
                f"step {step}: discriminator {real_loss.item() + fake_loss.item():.3f}, generator "
                f"{loss.item():.3f}, {step / seconds:.2f} steps/s",
                flush=True,
            )
    seconds = time.perf_counter() - start

    made, told = sample(generator, arguments, size)
    kept = {"images": made, **({"labels": told} if arguments.classes else {})}
    np.savez_compressed(arguments.out, **kept)
    print(
        json.dumps(
            {
                "steps": step,
                "seconds": seconds,
                "epochs": step * arguments.batch_size / len(images),
                "generator_parameters": sum(p.numel() for p in generator.parameters()),
                "discriminator_parameters": sum(p.numel() for p in discriminator.parameters()),
                "samples": len(made),
                "steps_per_second": step / seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
