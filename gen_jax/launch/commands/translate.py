"""``gen-jax translate``: a folder of pictures through a model that is told an image."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gen_jax.data.decode import SUFFIXES
from gen_jax.errors import ConfigError, DataError
from gen_jax.files import png_bytes, write_file
from gen_jax.launch.runs.restore import Trained
from gen_jax.launch.sampling.draw import Draw, draw_samples
from gen_jax.launch.sampling.inputs import read_images

__all__ = ["run_translation", "told_image"]


def told_image(trained: Trained) -> str:
    """Return the name of the one image that a model is told.

    Raises:
        ConfigError: if it is told none, or more than that.
    """
    model, family = trained.experiment.model, trained.config["family"]
    needed = [name for name, given in model.inputs.items() if given.needed]
    images = [name for name in needed if model.inputs[name].kind == "image"]
    if model.sampler is None or len(images) != 1 or len(needed) != 1:
        raise ConfigError(
            f"--workdir: family {family!r} makes no image of an image alone; 'translation' does"
        )
    return images[0]


def run_translation(
    trained: Trained,
    folder: Path,
    out: Path,
    *,
    options: Mapping[str, Any],
    batch_size: int = 64,
) -> int:
    """Translate every picture of a folder into one of the same name, as PNG.

    Pictures are brought to the size that the model was trained at. Each file appears whole; a
    picture whose translation is there already is not made again, so that a job that was stopped
    goes on.

    Args:
        trained: a work directory's model, told one image.
        folder: with pictures, not of its subfolders.
        out: where translations go; made if it is not there.
        options: of the sampler.
        batch_size: pictures at once.

    Returns:
        How many were made.

    Raises:
        ConfigError: if the model takes no picture.
        DataError: if there are no pictures, two of one name, or one cannot be read.
        StorageError: if a file cannot be written.
    """
    name = told_image(trained)
    shape = tuple(trained.config["data"]["shape"])
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    except OSError as error:
        raise DataError(f"{folder}: {error}") from error
    if not paths:
        raise DataError(f"{folder}: no pictures")
    targets = [out / f"{path.stem}.png" for path in paths]
    for first, second in zip(range(len(paths)), range(1, len(paths)), strict=False):
        if targets[first] == targets[second]:
            raise DataError(f"{paths[second]}: {paths[first].name} would have the same name")
    if out.resolve() == folder.resolve():
        raise ConfigError(f"--out: got {out}, which is --from; another folder is required")
    out.mkdir(parents=True, exist_ok=True)
    left = [pair for pair in zip(paths, targets, strict=True) if not pair[1].exists()]
    bar = tqdm(total=len(paths), initial=len(paths) - len(left), unit="picture", disable=None)
    for begin in range(0, len(left), batch_size):
        some = left[begin : begin + batch_size]
        images = np.concatenate([read_images(path, shape, 1) for path, _ in some])
        draw = Draw(0, options, {name: images}, batch_size)
        made = draw_samples(
            trained.experiment.model, trained.weights, draw, trained.mesh, len(some)
        )
        for image, (_, target) in zip(made, some, strict=True):
            write_file(target, png_bytes(image))
            bar.update()
    bar.close()
    print(f"{len(left)} of {len(paths)} pictures of {folder} translated into {out}", flush=True)
    return len(left)
