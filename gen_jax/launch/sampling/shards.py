"""Long sampling jobs: parts that are there whole or not at all, so that a stopped job goes on."""

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen_jax.errors import StorageError
from gen_jax.files import npz_bytes, write_file
from gen_jax.reading import parse_json, read_file, read_npz

__all__ = ["PART", "in_parts"]

PART = 1024  # samples; the same on any number of devices


def in_parts(
    out: Path,
    num: int,
    origin: Mapping[str, Any],
    draw: Callable[[int, int], np.ndarray],
    skip: Callable[[int], None],
) -> np.ndarray:
    """Draw samples part by part, keeping each beside the file that they are for.

    Args:
        out: the file; parts are kept in ``<out>.parts`` until :func:`clear` removes them.
        num: how many samples.
        origin: of what they are. Parts that an earlier run of the same left are taken over.
        draw: ``(first, end) -> samples``.
        skip: told how many samples are there already.

    Returns:
        All samples.

    Raises:
        StorageError: if there are parts of other samples, or one cannot be written.
    """
    folder = parts_of(out)
    index = folder / "origin.json"
    plain = json.loads(json.dumps({**origin, "part": PART}, default=str))
    if index.exists():
        try:
            found = parse_json(read_file(index))
        except (OSError, ValueError) as error:
            raise StorageError(f"{index}: cannot be read: {error}") from error
        if found != plain:
            changed = sorted(k for k in {*plain, *found} if plain.get(k) != found.get(k))
            raise StorageError(
                f"{folder}: holds parts of other samples (another {', '.join(changed)}); choose "
                "another --out, or remove it"
            )
    else:
        shutil.rmtree(folder, ignore_errors=True)  # of which nothing says what they are
        write_file(index, (json.dumps(plain, indent=2) + "\n").encode())
    parts, found = [], 0
    for first in range(0, num, PART):
        end = min(first + PART, num)
        path = folder / f"{first // PART:05d}.npz"
        part = _read(path, end - first)
        if part is None:
            part = draw(first, end)
            write_file(path, npz_bytes({"images": part}))
            if not sys.stderr.isatty():  # where no bar is seen
                print(f"{end:,} of {num:,} samples", flush=True)
        else:
            found += len(part)
            skip(len(part))
        parts.append(part)
    if found:
        print(f"{found:,} of these samples were there already", flush=True)
    return np.concatenate(parts)


def clear(out: Path) -> None:
    """Remove the parts of a file that is there now."""
    folder = parts_of(out)
    # First what says what they are: parts that are left over are then nobody's.
    (folder / "origin.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def parts_of(out: Path) -> Path:
    """Name the folder of a file's parts."""
    return out.with_name(f"{out.name}.parts")


def _read(path: Path, size: int) -> np.ndarray | None:
    """Read a part; None if it is not there, or not whole."""
    try:
        arrays, _ = read_npz(path, ("images",).__contains__)
    except (OSError, ValueError, MemoryError):
        return None
    images = arrays.get("images")
    return images if images is not None and len(images) == size else None
