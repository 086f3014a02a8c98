"""Images, masks and sequences that a sampler is given, read from files."""

from pathlib import Path

import numpy as np

from gen_jax.data.decode import decode_image, fit_image
from gen_jax.errors import DataError
from gen_jax.reading import read_file, read_npz

__all__ = ["read_context", "read_images", "read_mask"]

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_LARGEST = 1 << 28  # bytes of a picture's file


def read_images(path: Path, image_shape: tuple[int, ...], num: int) -> np.ndarray:
    """Read ``num`` images from a picture, or from ``images``, ``x_test`` or ``x_train`` of an npz.

    A picture is cropped and scaled to the model's size; fewer images than asked for are repeated.

    Returns:
        uint8 [num, H, W, C].

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    if path.suffix.lower() in _PICTURES:
        images = _picture(path, image_shape)[None]
    else:
        arrays = _arrays(path, ("images", "x_test", "x_train"))
        images = next(iter(arrays.values()))
        images = images[..., None] if images.ndim == 3 else images
        if images.dtype != np.uint8 or images.shape[1:] != tuple(image_shape) or not len(images):
            needed = "x".join(map(str, image_shape))
            raise DataError(
                f"{path}: uint8 images of {needed} are needed, got {images.dtype} "
                f"{list(images.shape)}"
            )
    return _repeated(images, num)


def read_mask(path: Path, image_shape: tuple[int, ...], num: int) -> np.ndarray:
    """Read which pixels are known: white ones of a picture, or those not 0 of ``mask`` of an npz.

    Returns:
        float32 [num, H, W, 1], 1 where a pixel is known and 0 where it is to be filled in.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    height, width, _ = image_shape
    if path.suffix.lower() in _PICTURES:
        mask = _picture(path, (height, width, 1))[None] >= 128
    else:
        mask = _arrays(path, ("mask",))["mask"] != 0
        mask = mask[None] if mask.ndim == 2 else mask
        mask = mask[..., None] if mask.ndim == 3 else mask
        if mask.shape[1:] != (height, width, 1) or not len(mask):
            raise DataError(
                f"{path}: mask: [{height}, {width}] or [N, {height}, {width}] is needed, got "
                f"{list(mask.shape)}"
            )
    return _repeated(mask.astype(np.float32), num)


def read_context(path: Path, dim: int, num: int) -> dict[str, np.ndarray]:
    """Read sequences of vectors from an npz: ``context`` [N, L, dim], and perhaps ``no_context``.

    The latter, [L, dim] or [1, L, dim], is what guidance leads away from, of an empty text for
    example; without it that is a sequence of zeros, as in our own training.

    Returns:
        float32 [num, L, dim] of each that is there.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    found = {}
    for name, rows in _arrays(path, ("context", "no_context")).items():
        x = rows[None] if rows.ndim == 2 else rows
        if x.ndim != 3 or x.shape[-1] != dim or not x.size:
            raise DataError(f"{path}: {name}: [N, L, {dim}] is needed, got {list(x.shape)}")
        if x.dtype.kind != "f" or not np.isfinite(x).all():
            raise DataError(f"{path}: {name}: finite floating-point numbers are needed")
        found[name] = _repeated(x.astype(np.float32), num)
    if "context" not in found:
        raise DataError(f"{path}: no context; found no_context alone")
    if "no_context" in found and found["no_context"].shape != found["context"].shape:
        raise DataError(
            f"{path}: no_context: one sequence as long as those of context is needed, got "
            f"{list(found['no_context'].shape[1:])}"
        )
    return found


def _repeated(x: np.ndarray, num: int) -> np.ndarray:
    """Give ``num`` rows, beginning anew where there are fewer; a single one is not copied."""
    if len(x) == 1:
        return np.broadcast_to(x, (num, *x.shape[1:]))
    return x[np.arange(num) % len(x)]


def _arrays(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        arrays, there = read_npz(path, names.__contains__)
    except (OSError, ValueError, MemoryError) as error:
        raise DataError(f"{path}: cannot be read as npz: {error}") from error
    if not arrays:
        raise DataError(f"{path}: no {' or '.join(names)}; found {', '.join(there) or 'none'}")
    return {name: arrays[name] for name in names if name in arrays}


def _picture(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    try:
        data = read_file(path, _LARGEST)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: {error}") from error
    height, width, channels = shape
    return fit_image(decode_image(data, str(path)), (height, width, channels), str(path))
