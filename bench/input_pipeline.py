"""Images a second of the input pipeline alone: ``python bench/input_pipeline.py [npz:PATH ...]``.

Every source is read for two seconds after a warm-up, in batches of 128, without and with
augmentation; then, as the yardstick, NumPy indexing whole batches of the same array.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from gen_jax.data import open_source, train_batches

BATCH = 128


def rate(batches, seconds=2.0):
    for _ in range(5):
        next(batches)
    start, num = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        num += len(next(batches)["image"])
    return num / (time.perf_counter() - start)


def indexing(source):
    rng = np.random.default_rng(0)
    while True:
        yield source.read(rng.integers(0, source.size, BATCH))


def png_folder(root):
    """Write 500 PNG files of 32x32x3."""
    images = open_source("synthetic:32x32x3", "train", (32, 32, 3)).read(np.arange(500))["image"]
    for index, image in enumerate(images):
        folder = Path(root) / f"class{index % 2}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{index}.png")
    return f"folder:{root}"


def shape_of(spec):
    if spec.startswith("npz:"):
        with np.load(spec.removeprefix("npz:")) as file:
            shape = file["x_train"].shape[1:]
        return shape if len(shape) == 3 else (*shape, 1)
    return (8, 8, 1) if spec == "digits" else (32, 32, 3)


def main():
    with tempfile.TemporaryDirectory() as root:
        specs = ["digits", "synthetic:32x32x3", png_folder(root), *sys.argv[1:]]
        for spec in specs:
            source = open_source(spec, "train", shape_of(spec))
            plain = rate(train_batches(source, seed=0, batch_size=BATCH))
            moved = rate(train_batches(source, seed=0, batch_size=BATCH, flip=True, crop=2))
            numpy = f"{rate(indexing(source)):9,.0f}" if source.in_memory else "        -"
            name = source.name.split("/")[0] if spec.startswith("folder") else source.name
            print(
                f"{name[-40:]:40}  {plain:9,.0f}  flip+crop {moved:9,.0f}  NumPy {numpy} images/s"
            )


if __name__ == "__main__":
    main()
