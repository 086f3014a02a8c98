"""Codes of a first stage, made beforehand: a folder of shards and what they were made of.

``codes.json`` names the first stage by its digest, the images, and the splits. Shard i of a split,
``<split>-<i>.npz``, holds the codes of ``rows`` examples in their source's order (fewer in the
last), as ``codes`` or, of several grids, ``codes.<grid>`` each, and ``label`` where there are any.
"""

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen_jax.errors import DataError

__all__ = ["INDEX", "ROWS", "read_index", "read_split", "shard_arrays", "shard_path"]

INDEX = "codes.json"
ROWS = 2048


def shard_path(folder: Path, split: str, number: int) -> Path:
    """Give the path of a shard."""
    return folder / f"{split}-{number:05d}.npz"


def shard_arrays(
    codes: np.ndarray | Mapping[str, np.ndarray], labels: np.ndarray | None, num_codes: Any
) -> dict[str, np.ndarray]:
    """Name the arrays of a shard, whole numbers in as few bytes as they need."""

    def small(codes: np.ndarray, total: int | None) -> np.ndarray:
        return codes if total is None else codes.astype(np.min_scalar_type(total - 1))

    if isinstance(codes, Mapping):
        totals = num_codes or {}
        arrays = {f"codes.{name}": small(part, totals.get(name)) for name, part in codes.items()}
    else:
        arrays = {"codes": small(codes, num_codes)}
    return arrays if labels is None else {**arrays, "label": labels}


def read_index(folder: Path) -> Mapping[str, Any]:
    """Read what a folder's codes were made of.

    Raises:
        DataError: if it cannot be read.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text())
        index["stage1"], index["image_shape"], index["splits"]
        return index
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read: {error}; `gen-jax encode` makes such folders"
        ) from error


def read_split(folder: Path, split: str) -> tuple[Mapping[str, Any], dict[str, Any], str]:
    """Read all shards of a split.

    Returns:
        What the codes were made of; ``codes``, an array or a mapping of several, and ``label``
        where there are any; and a fingerprint.

    Raises:
        DataError: if the split or a shard is missing, cannot be read, or is not whole.
    """
    index = read_index(folder)
    splits = index["splits"]
    if split not in splits:
        raise DataError(f"codes:{folder}: no split {split!r}; found {', '.join(splits) or 'none'}")
    size, rows = int(splits[split]["size"]), int(index["rows"])
    parts: list[dict[str, np.ndarray]] = []
    digest = zlib.crc32(index["stage1"].encode())
    for number in range(-(-size // rows)):
        path = shard_path(folder, split, number)
        if not path.exists():
            raise DataError(f"{path}: missing; run the same `gen-jax encode` again to finish it")
        try:
            with np.load(path, allow_pickle=False) as file:
                part = {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        expected = min(rows, size - number * rows)
        if any(len(array) != expected for array in part.values()) or not part:
            raise DataError(f"{path}: {expected} examples are needed")
        for name in sorted(part):
            digest = zlib.crc32(np.ascontiguousarray(part[name]).data, digest)
        parts.append(part)
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    grids = {
        name.removeprefix("codes."): array
        for name, array in whole.items()
        if name.startswith("codes.")
    }
    examples: dict[str, Any] = {"codes": grids or whole["codes"]}
    if "label" in whole:
        examples["label"] = whole["label"]
    return index, examples, f"{size}-codes-{digest:08x}"
