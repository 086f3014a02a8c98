"""Codes of a first stage, made beforehand: a folder of shards and what they were made of.

``codes.json`` names the first stage by its digest, the images, and the splits. Shard i of a split,
``<split>-<i>.npz``, holds the codes of ``rows`` examples in their source's order (fewer in the
last), as ``codes`` or, of several grids, ``codes.<grid>`` each, ``label`` where there are any, and
``origin``, a digest of what it was made of.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen_jax.errors import DataError
from gen_jax.reading import parse_json, read_file, read_npz

__all__ = [
    "INDEX",
    "ROWS",
    "origin",
    "read_index",
    "read_shard",
    "read_split",
    "shard_arrays",
    "shard_path",
]

INDEX = "codes.json"
ROWS = 2048


def shard_path(folder: Path, split: str, number: int) -> Path:
    """Return the path of a shard."""
    return folder / f"{split}-{number:05d}.npz"


def origin(index: Mapping[str, Any], split: str, number: int) -> np.ndarray:
    """Digest what a shard is made of: uint8 [32]."""
    made_of = [index[name] for name in ("stage1", "seed", "rows")]
    text = json.dumps([*made_of, index["splits"][split], split, number])
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)


def shard_arrays(
    codes: np.ndarray | Mapping[str, np.ndarray],
    labels: np.ndarray | None,
    num_codes: Any,
    origin: np.ndarray,
) -> dict[str, np.ndarray]:
    """Name the arrays of a shard, whole numbers in as few bytes as they need."""

    def small(codes: np.ndarray, total: int | None) -> np.ndarray:
        return codes if total is None else codes.astype(np.min_scalar_type(total - 1))

    arrays = {"origin": origin} | ({} if labels is None else {"label": labels})
    if isinstance(codes, Mapping):
        totals = num_codes or {}
        return arrays | {f"codes.{name}": small(c, totals.get(name)) for name, c in codes.items()}
    return arrays | {"codes": small(codes, num_codes)}


def read_index(folder: Path) -> Mapping[str, Any]:
    """Read what a folder's codes were made of.

    Raises:
        DataError: if it cannot be read, or is not what `gen-jax encode` writes.
    """
    path = folder / INDEX
    try:
        index = parse_json(read_file(path))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read: {error}; `gen-jax encode` makes such folders"
        ) from error
    if fault := _index_fault(index):
        raise DataError(f"{path}: {fault}; `gen-jax encode` makes such folders")
    return index


def _index_fault(index: Any) -> str | None:
    def whole(x: Any) -> bool:
        return type(x) is int and x >= 1

    if not isinstance(index, dict):
        return "a mapping is required"
    totals = index.get("num_codes")
    totals = list(totals.values()) if isinstance(totals, dict) else [totals]
    shape, splits = index.get("image_shape"), index.get("splits")
    checks = {
        "stage1": isinstance(index.get("stage1"), str),
        "seed": type(index.get("seed")) is int,
        "rows": whole(index.get("rows")),
        "num_codes": all(total is None or whole(total) for total in totals),
        "image_shape": isinstance(shape, list) and len(shape) == 3 and all(map(whole, shape)),
        "splits": isinstance(splits, dict)
        and all(isinstance(split, dict) and whole(split.get("size")) for split in splits.values()),
    }
    wrong = [name for name, fine in checks.items() if not fine]
    return f"{wrong[0]}: {index.get(wrong[0])!r} is not what is written there" if wrong else None


def read_shard(
    folder: Path, index: Mapping[str, Any], split: str, number: int
) -> dict[str, np.ndarray]:
    """Read one shard: ``codes`` or ``codes.<grid>`` each, and ``label`` where there are any.

    Raises:
        DataError: if it is missing, cannot be read, or was made of something else.
    """
    path = shard_path(folder, split, number)
    if not path.exists():
        raise DataError(f"{path}: missing; run the same `gen-jax encode` again to finish it")
    rows = int(index["rows"])
    size = min(rows, int(index["splits"][split]["size"]) - number * rows)
    try:
        arrays, _ = read_npz(path)
        made_of = arrays.pop("origin")
    except (OSError, ValueError, KeyError, MemoryError) as error:
        raise DataError(
            f"{path}: cannot be read: {error}; run the same `gen-jax encode` again to mend it"
        ) from error
    if not np.array_equal(made_of, origin(index, split, number)):
        raise DataError(
            f"{path}: made of something else than {INDEX} says; run the same `gen-jax encode` "
            "again to mend it"
        )
    if fault := _shard_fault(arrays, size, index["num_codes"]):
        raise DataError(f"{path}: {fault}; run the same `gen-jax encode` again to mend it")
    return arrays


def _shard_fault(arrays: Mapping[str, np.ndarray], size: int, num_codes: Any) -> str | None:
    names = {f"codes.{name}" for name in num_codes} if isinstance(num_codes, dict) else {"codes"}
    if set(arrays) - {"label"} != names:
        return (
            f"arrays {', '.join(sorted(names))} are required, found {', '.join(arrays) or 'none'}"
        )
    for name, array in arrays.items():
        if array.ndim < 1 or len(array) != size:
            return f"{name}: {size} examples are required, found {list(array.shape)}"
        total = num_codes.get(name[6:]) if isinstance(num_codes, dict) else num_codes
        if name == "label":
            if array.dtype.kind not in "iu" or array.ndim != 1 or array.min() < 0:
                return f"label: whole numbers from 0 are required, found {array.dtype}"
        elif total is None:
            if array.dtype.kind != "f":
                return f"{name}: real numbers are required, found {array.dtype}"
        elif array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= total:
            return f"{name}: whole numbers from 0 to {total - 1} are required"
    return None


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
    digest = hashlib.sha256(index["stage1"].encode())
    whole: dict[str, np.ndarray] = {}
    for number in range(-(-size // rows)):
        part = read_shard(folder, index, split, number)
        if number == 0:
            whole = {name: np.empty((size, *a.shape[1:]), a.dtype) for name, a in part.items()}
        if {name: a.shape[1:] for name, a in part.items()} != {
            name: a.shape[1:] for name, a in whole.items()
        }:
            raise DataError(f"{shard_path(folder, split, number)}: not shaped as the first shard")
        for name in sorted(part):
            whole[name][number * rows : (number + 1) * rows] = part[name]
            digest.update(np.ascontiguousarray(part[name]).data)
    grids = {name[6:]: array for name, array in whole.items() if name.startswith("codes.")}
    examples: dict[str, Any] = {"codes": grids or whole["codes"]}
    if "label" in whole:
        examples["label"] = whole["label"]
    return index, examples, f"{size}-codes-{digest.hexdigest()[:16]}"
