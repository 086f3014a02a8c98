"""Compare reconstructions of test images by several first stages.

    python experiments/vqgan/compare.py --num 2000 --out compare.png runs/vqvae runs/vqgan

PSNR and SSIM; LPIPS of AlexNet, which VQGAN was trained on, and of VGG16, which it was not; the
Fréchet distance to the originals in EfficientNet-Lite0's features; and the share of codes used.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from gen_jax.data import spread_indices
from gen_jax.evals.features import features_of
from gen_jax.evals.frechet import frechet_between
from gen_jax.evals.reconstruction import psnr, ssim
from gen_jax.files import png_bytes, write_file
from gen_jax.interop.pretrained import load_pretrained
from gen_jax.launch.build.sources import open_split
from gen_jax.launch.runs.restore import load_trained
from gen_jax.launch.sampling.draw import Draw, decode, encode
from gen_jax.nn.perceptual import lpips
from gen_jax.ops.rows import map_rows
from gen_jax.pictures import grid

NETWORKS = ("alexnet", "vgg16")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workdirs", nargs="+", type=Path)
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    distance = jax.jit(lpips, static_argnums=0)
    networks = {name: load_pretrained(name) for name in NETWORKS}
    features, rows, shown, known = features_of("efficientnet_lite0"), [], [], None
    for workdir in given.workdirs:
        trained = load_trained(workdir)
        model, weights = trained.experiment.model, trained.weights
        source = open_split(trained.config, "test")
        images = source.read(spread_indices(source, given.num))["image"]
        draw = Draw(0, {}, {}, 256)
        codes = encode(model, weights, draw, images)
        made = decode(model, weights, draw._replace(z=codes))
        numbers = {"PSNR": np.mean(psnr(images, made)), "SSIM": np.mean(ssim(images, made))}
        for name, params in networks.items():
            far = map_rows(
                lambda batch, _, name=name, params=params: distance(name, params, *batch),
                (images, made),
                64,
            )
            numbers[f"LPIPS {name}"] = np.mean(far)
        known = features(images) if known is None else known  # all have one test set
        numbers["Frechet EfficientNet-Lite0"] = frechet_between(features(made), known)
        numbers["codes used"] = len(np.unique(codes)) / model.latents.num_codes
        rows.append((f"{workdir.name}, step {trained.step}", numbers))
        shown += [images[:16], made[:16]] if not shown else [made[:16]]
    print(f"| {given.num} test images | " + " | ".join(rows[0][1]) + " |")
    print("| --- " * (1 + len(rows[0][1])) + "|")
    for name, numbers in rows:
        print(f"| {name} | " + " | ".join(f"{x:.4g}" for x in numbers.values()) + " |")
    if given.out is not None:
        write_file(given.out, png_bytes(grid(np.concatenate(shown), 16)))


if __name__ == "__main__":
    main()
