"""Where images come from: one string names a source, one function opens it.

``digits``             1,797 handwritten digits, 8x8x1, shipped with scikit-learn
``mnist``, ``fashion_mnist``, ``kmnist``, ``cifar10``, ``cifar100``, ``svhn``
                       fetched once into the user's cache, and checked
``npz:PATH``           arrays x_train, y_train, x_test, y_test (the Keras layout; labels optional,
                       as are captions_train and context_train, [N, L, D]); or samples with their
                       noise, as ``gen-jax sample --with_noise`` writes them
``folder:PATH``        pictures in one subfolder for each class, or without classes
``tars:PATH``          a tar file of webdataset, or a folder of them, read at random
``tfds:NAME``          a TFDS dataset already prepared as array_record, read without TensorFlow
``synthetic:HxWxC``    colored discs, made on the spot, for tests and dry runs
``scenes:HxWx3``       captioned scenes of colored shapes, made on the spot
``edit_scenes:HxWx3``  changes of such scenes, with the scenes before, and words for them
``moving_scenes:FxHxWx3`` captioned films of one such shape that moves; of HxWx3 stills of them
``films:PATH``         a folder of GIF, WebP or videos, or of subfolders of frames
``glyphs:PATH``        letters and digits of a font, or of all fonts in a folder, drawn on the spot
``codes:PATH``         codes of a first stage, as ``gen-jax encode`` writes them, in place of images
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gen_jax.data.decode import MAX_PIXELS
from gen_jax.data.sources.arrays import open_npz
from gen_jax.data.sources.codes import open_codes
from gen_jax.data.sources.digits import open_digits
from gen_jax.data.sources.films import open_films, open_moving_scenes
from gen_jax.data.sources.folder import open_folder
from gen_jax.data.sources.glyphs import open_glyphs
from gen_jax.data.sources.named import NAMED, open_named
from gen_jax.data.sources.records import open_tfds
from gen_jax.data.sources.scenes import open_edits, open_scenes
from gen_jax.data.sources.source import (
    Examples,
    Source,
    beside,
    hold_out,
    named_by,
    times,
    with_prompts,
)
from gen_jax.data.sources.synthetic import open_synthetic
from gen_jax.data.sources.tars import open_tars
from gen_jax.errors import DataError

__all__ = [
    "Examples",
    "Source",
    "beside",
    "hold_out",
    "named_by",
    "open_source",
    "with_prompts",
]


def open_source(
    spec: str,
    split: str,
    image_shape: tuple[int, ...],
    data_dir: str | None = None,
    max_pixels: int = MAX_PIXELS,
    *,
    sixteen_bit: bool = False,
) -> Source:
    """Open one split of a source.

    Args:
        spec: see this module's docstring.
        split: ``"train"`` or ``"test"``.
        image_shape: (height, width, channels), of films with frames before. Folders and TFDS images
            are center-cropped and resized to it; arrays must have it already.
        data_dir: where TFDS looks for prepared datasets; None for its default.
        max_pixels: largest number of them in a picture of a folder.
        sixteen_bit: take gray pictures of 16 bits too, brought to eight.

    Raises:
        DataError: naming the source and what is wrong with it.
    """
    if split not in ("train", "test"):
        raise DataError(f"{spec}: split: got {split!r}; 'train' or 'test' is required")
    kind, _, argument = spec.partition(":")
    place, still = Path(argument).expanduser(), _of_stills(spec, kind, image_shape)
    pictures: dict[str, Any] = {"max_pixels": max_pixels, "sixteen_bit": sixteen_bit}
    opened: dict[str, Callable[[], Source]] = {
        "npz": lambda: open_npz(place, split),
        "folder": lambda: open_folder(place, split, still, **pictures),
        "tars": lambda: open_tars(place, split, still, **pictures),
        "tfds": lambda: open_tfds(argument, split, still, data_dir, sixteen_bit=sixteen_bit),
        "synthetic": lambda: open_synthetic(argument, split),
        "scenes": lambda: open_scenes(argument, split),
        "edit_scenes": lambda: open_edits(argument, split),
        "moving_scenes": lambda: open_moving_scenes(argument, split),
        "films": lambda: open_films(place, split, image_shape),
        "glyphs": lambda: open_glyphs(place, split, still),
        "codes": lambda: open_codes(place, split),
    }
    if spec == "digits":
        source = open_digits(split)
    elif spec in NAMED:
        source = open_named(spec, split)
    elif kind in opened and argument:
        source = opened[kind]()
    else:
        raise DataError(
            f"{spec}: unknown source; digits, {', '.join(NAMED)}, npz:PATH, folder:PATH, "
            "tars:PATH, tfds:NAME, synthetic:HxWxC, scenes:HxWx3, edit_scenes:HxWx3, "
            "moving_scenes:FxHxWx3, films:PATH, glyphs:PATH and codes:PATH are known"
        )
    if source.size == 0:
        raise DataError(f"{source.name}: no examples")
    if source.image_shape != tuple(image_shape):
        raise DataError(
            f"{source.name}: images are {times(source.image_shape)}, but data.shape is "
            f"{times(image_shape)}"
        )
    return source


def _of_stills(spec: str, kind: str, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Check that films are not asked of a source of pictures."""
    if len(shape) != 3:
        if kind in ("films", "moving_scenes", "npz"):
            return 0, 0, 0
        raise DataError(
            f"{spec}: gives pictures; films:PATH, moving_scenes:FxHxWx3 or npz:PATH is required "
            "for films"
        )
    height, width, channels = shape
    return height, width, channels
