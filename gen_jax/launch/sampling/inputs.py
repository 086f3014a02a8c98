"""Images, masks and sequences that a sampler is given, read from files."""

import sys
from pathlib import Path

import numpy as np

from gen_jax.data.decode import SUFFIXES, decode_image, fit_image
from gen_jax.data.films import read_film
from gen_jax.data.text import Tokenizer
from gen_jax.errors import ConfigError, DataError
from gen_jax.protocols import Input
from gen_jax.reading import read_file, read_npz

__all__ = ["OF_CLIP", "read_images", "read_input", "read_mask", "read_texts", "read_vectors"]

OF_CLIP = ("target", "toward", "away")
"""Texts that another model reads, not the one that draws."""

_LARGEST = 1 << 28  # bytes of a picture's file


def read_images(path: Path, image_shape: tuple[int, ...], num: int) -> np.ndarray:
    """Read ``num`` images from a picture, or from ``images``, ``x_test`` or ``x_train`` of an npz.

    A picture is cropped and scaled to the model's size; fewer images than asked for are repeated.

    Returns:
        uint8 [num, H, W, C].

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    if len(image_shape) == 4 and path.suffix != ".npz":
        images = read_film(path, image_shape)[None]
    elif path.suffix.lower() in SUFFIXES:
        images = _picture(path, image_shape)[None]
    else:
        arrays = _arrays(path, ("images", "arr_0", "x_test", "x_train"))
        images = next(iter(arrays.values()))
        images = images[..., None] if images.ndim == 3 else images
        if images.dtype != np.uint8 or images.shape[1:] != tuple(image_shape) or not len(images):
            needed = "x".join(map(str, image_shape))
            raise DataError(
                f"{path}: got {images.dtype} {list(images.shape)}; uint8 images of {needed} are "
                "required"
            )
    return _repeated(images, num)


def read_mask(path: Path, image_shape: tuple[int, ...], num: int) -> np.ndarray:
    """Read which pixels are known: white ones of a picture, or those not 0 of ``mask`` of an npz.

    Returns:
        float32 [num, H, W, 1], 1 where a pixel is known and 0 where it is to be filled in.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    if len(image_shape) == 4:
        return _repeated(_known_frames(path, image_shape[0]), num)
    height, width, _ = image_shape
    if path.suffix.lower() in SUFFIXES:
        mask = _picture(path, (height, width, 1))[None] >= 128
    else:
        mask = _arrays(path, ("mask",))["mask"] != 0
        mask = mask[None] if mask.ndim == 2 else mask
        mask = mask[..., None] if mask.ndim == 3 else mask
        if mask.shape[1:] != (height, width, 1) or not len(mask):
            raise DataError(
                f"{path}: mask: got {list(mask.shape)}; [{height}, {width}] or "
                f"[N, {height}, {width}] is required"
            )
    return _repeated(mask.astype(np.float32), num)


def _known_frames(path: Path, frames: int) -> np.ndarray:
    """Read which frames of films are known: those not 0 of ``mask`` of an npz, [frames]."""
    mask = np.atleast_2d(_arrays(path, ("mask",))["mask"] != 0)
    if mask.shape[1:] != (frames,):
        raise DataError(f"{path}: mask: got {list(mask.shape)}; [{frames}] is required")
    return mask[..., None, None, None].astype(np.float32)


def read_vectors(path: Path, name: str, shape: tuple[int, ...], num: int) -> dict[str, np.ndarray]:
    """Read an array [N, ...] of numbers from an npz, and perhaps ``no_<name>``.

    The latter, one row, is what guidance leads away from, of an empty text for example.

    Args:
        path: of the npz.
        name: of the array.
        shape: of one row; -1 for any length.
        num: rows that are wanted.

    Returns:
        float32 [num, ...] of each that is there.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    found = {}
    needed = ", ".join("L" if dim == -1 else str(dim) for dim in shape)
    for key, rows in _arrays(path, (name, f"no_{name}")).items():
        x = rows[None] if rows.ndim == len(shape) else rows
        fits = x.ndim == len(shape) + 1 and all(
            wanted in (-1, size) for wanted, size in zip(shape, x.shape[1:], strict=False)
        )
        if not fits or not x.size:
            raise DataError(f"{path}: {key}: got {list(x.shape)}; [N, {needed}] is required")
        if x.dtype.kind != "f" or not np.isfinite(x).all():
            raise DataError(f"{path}: {key}: finite floating-point numbers are required")
        found[key] = _repeated(x.astype(np.float32), num)
    if name not in found:
        raise DataError(f"{path}: no {name}; found no_{name} alone")
    if f"no_{name}" in found and found[f"no_{name}"].shape != found[name].shape:
        raise DataError(
            f"{path}: no_{name}: got {list(found[f'no_{name}'].shape[1:])}; one sequence as long "
            f"as those of {name} is required"
        )
    return found


def read_input(
    name: str,
    given: Input,
    value: str,
    image_shape: tuple[int, ...],
    num: int,
    tokenizer: Tokenizer | None = None,
) -> dict[str, np.ndarray]:
    """Read what a flag of an input names, for ``num`` samples.

    Args:
        name: of the input.
        given: its declaration.
        value: of the flag: a class, a file, or texts, one a line.
        image_shape: of the data's images.
        num: rows that are wanted; fewer are repeated.
        tokenizer: of texts.

    Raises:
        ConfigError: for a class that is not known.
        DataError: naming the file and what is wrong with it.
    """
    if given.kind == "label":
        try:
            label = int(value)
        except ValueError:
            label = -1
        if not 0 <= label < (given.size or 0):
            size = (given.size or 0) - 1
            raise ConfigError(f"--{name}: {value}; a class from 0 to {size} is required")
        return {name: np.full(num, label, np.int32)}
    if given.kind == "tokens":
        assert tokenizer is not None
        return {name: read_texts(value.split("\n"), tokenizer, given.shape[0], num)}
    path = Path(value)
    if given.kind == "image":
        return {name: read_images(path, given.shape or image_shape, num)}
    if given.kind == "mask":
        return {name: read_mask(path, given.shape or image_shape, num)}
    return read_vectors(path, name, given.shape, num)


def read_texts(texts: list[str], tokenizer: Tokenizer, length: int, num: int) -> np.ndarray:
    """Encode prompts, and say what was cut.

    Returns:
        int32 [num, length].
    """
    rows, num_cut = tokenizer.batch(texts, length)
    if num_cut:
        row = next(i for i, text in enumerate(texts) if len(tokenizer.encode(text)) > length - 2)
        print(
            f"gen_jax: prompt: {num_cut} of {len(texts)} cut at {length} tokens: "
            f"{tokenizer.decode(rows[row])!r} is left of {texts[row]!r}",
            file=sys.stderr,
            flush=True,
        )
    return _repeated(rows, num)


def _repeated(x: np.ndarray, num: int) -> np.ndarray:
    """Return ``num`` rows, beginning anew where there are fewer; a single one is not copied."""
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
    picture = decode_image(data, str(path), sixteen_bit=True, alpha=channels == 4)
    return fit_image(picture, (height, width, channels), str(path))
