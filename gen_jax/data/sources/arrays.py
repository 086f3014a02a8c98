"""Arrays of an npz file."""

import zlib
from pathlib import Path

import numpy as np

from gen_jax.data.sources.source import Source, from_arrays
from gen_jax.errors import DataError
from gen_jax.reading import read_npz

__all__ = ["open_npz"]


_SAMPLES = {"images", "noise", "labels", "context"}
# What models may be told beside images, each ``NAME_SPLIT``: numbers, pictures, and where they are.
_NUMBERS = ("context", "pooled", "sizes")
_PICTURES = ("source", "masked")


def open_npz(path: Path, split: str) -> Source:
    """Open a split of an npz file: Keras' arrays, or samples with their noise."""
    name = f"npz:{path}"
    try:
        names = ("x", "y", "mask", "captions", *_NUMBERS, *_PICTURES)
        keras = {f"{name}_{split}" for name in names}
        arrays, keys = read_npz(path, (keras | _SAMPLES).__contains__)
    except (OSError, ValueError, MemoryError) as error:
        raise DataError(f"{name}: cannot be read as npz: {error}") from error
    if split == "train" and f"x_{split}" not in arrays and {"images", "noise"} <= set(arrays):
        arrays = {
            "x_train": arrays["images"],
            "eps": arrays["noise"],
            **({"y_train": arrays["labels"]} if "labels" in arrays else {}),
            **({"context_train": arrays["context"]} if "context" in arrays else {}),
        }
    images, labels = arrays.get(f"x_{split}"), arrays.get(f"y_{split}")
    if images is None:
        raise DataError(f"{name}: no array x_{split}; found {', '.join(keys) or 'none'}")
    if images.dtype != np.uint8 or images.ndim not in (3, 4, 5):
        raise DataError(
            f"{name}: x_{split}: got {images.dtype} {list(images.shape)}; uint8 [N, H, W] or "
            "[N, H, W, C], of films [N, F, H, W, C], is required"
        )
    if labels is not None:
        labels = labels.reshape(-1) if labels.shape == (len(images), 1) else labels
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise DataError(
                f"{name}: y_{split}: got {labels.dtype} {list(labels.shape)}; {len(images)} whole "
                "numbers are required"
            )
        if labels.size and labels.min() < 0:
            raise DataError(
                f"{name}: y_{split}: index {np.argmin(labels)}: label {labels.min()} < 0"
            )
        most = np.iinfo(np.int32).max
        if labels.size and labels.max() > most:
            index = np.argmax(labels)
            raise DataError(f"{name}: y_{split}: index {index}: label {labels[index]} > {most}")
        labels = labels.astype(np.int32)
    found = {"eps": arrays.get("eps")}
    found |= {key: arrays.get(f"{key}_{split}") for key in _NUMBERS}
    others = {key: array for key, array in found.items() if array is not None}
    for key, array in others.items():
        if array.dtype.kind != "f" or len(array) != len(images) or not np.isfinite(array).all():
            raise DataError(
                f"{name}: {key}: got {array.dtype} {list(array.shape)}; {len(images)} arrays of "
                "finite numbers are required"
            )
    others = {key: _in_float32(array, f"{name}: {key}") for key, array in others.items()}
    for key in (*_PICTURES, "mask"):
        if (beside := arrays.get(f"{key}_{split}")) is not None:
            others[key] = _beside(beside, images.shape, key, f"{name}: {key}_{split}")
    source = from_arrays(f"{name}/{split}", images, labels, others)
    texts = arrays.get(f"captions_{split}")
    return source if texts is None else _with_captions(source, texts, f"{name}: captions_{split}")


def _with_captions(source: Source, texts: np.ndarray, where: str) -> Source:
    if texts.dtype.kind != "U" or texts.shape != (source.size,):
        raise DataError(
            f"{where}: got {texts.dtype} {list(texts.shape)}; {source.size} texts are required"
        )
    digest = zlib.crc32("\n".join(texts).encode())
    return source._replace(
        captions=lambda rows: texts[rows].tolist(),
        fingerprint=f"{source.fingerprint}-{digest:08x}",
    )


def _beside(array: np.ndarray, shape: tuple[int, ...], key: str, where: str) -> np.ndarray:
    """Check pictures that lie on the images, or masks of them: 0 where nothing is known."""
    array = array[..., None] if array.ndim == 3 else array
    whole = shape if len(shape) == 4 else (*shape, 1)
    wanted = (*whole[:3], 1) if key == "mask" else whole
    fits = array.dtype.kind in "buif" if key == "mask" else array.dtype == np.uint8
    if array.shape != wanted or not fits:
        what = "numbers" if key == "mask" else "uint8"
        raise DataError(
            f"{where}: got {array.dtype} {list(array.shape)}; {what} {list(wanted)} is required"
        )
    return (array != 0).astype(np.float32) if key == "mask" else array


def _in_float32(array: np.ndarray, where: str) -> np.ndarray:
    """Narrow numbers that fit; others would become infinite."""
    with np.errstate(over="ignore"):
        narrow = array.astype(np.float32)
    if not (fine := np.isfinite(narrow)).all():
        index = int(np.argwhere(~fine)[0][0])
        value = array[index][~fine[index]].ravel()[0]
        raise DataError(f"{where}: index {index}: {value} is beyond what float32 can hold")
    return narrow
