"""Reading files that may be anybody's: they run no code, and take no more memory than is theirs.

A file of a megabyte can ask for a gigabyte, and a header of a hundred bytes for more than there is.
Whatever is read here is measured first.
"""

import json
import math
import os
import re
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["parse_json", "read_file", "read_npz"]

_MAX_DEPTH = 64
# Of what is stored: pictures seldom shrink by more, and up to so many bytes nobody need ask.
_MAX_RATIO = 100
_NEVER_TOO_MUCH = 2**26
# Without going back (*+), or a string that never ends would take the square of its length.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z)|[\[\]{}]', re.DOTALL)


def read_file(path: Path, max_bytes: int = 2**20) -> bytes:
    """Read a file that is no longer than it may be; a pipe, which could be endless, is no file.

    Raises:
        ValueError: if it is longer, or no file.
        OSError: if it cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("is no file")
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"is longer than {max_bytes:,} bytes")
    return data


def parse_json(data: bytes, max_bytes: int = 2**20) -> Any:
    """Parse JSON, and refuse what Python's own parser would take but nobody means.

    Args:
        data: UTF-8.
        max_bytes: of the whole.

    Raises:
        ValueError: if it is not JSON, too large or nested too deep, names a key twice, or has
            numbers that are not finite.
    """
    if len(data) > max_bytes:
        raise ValueError(f"{len(data):,} bytes; at most {max_bytes:,} are read")
    text = data.decode()
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} deep")
    return json.loads(
        text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite_float
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return result


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no finite number")


def _finite_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def read_npz(
    path: Path, wanted: Callable[[str], bool] = lambda name: True
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read arrays of an npz file; never objects, which would be code.

    Args:
        path: of the file.
        wanted: which arrays to read, by name.

    Returns:
        The arrays, and the names of all that are there.

    Raises:
        ValueError: if it is no npz file, is damaged, holds Python objects, or claims to be larger
            than can be believed.
        OSError: if it cannot be opened.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
            names = [entry.filename.removesuffix(".npy") for entry in entries]
            if len(set(names)) != len(names):
                raise ValueError("one name is there twice")
            arrays = {
                name: _read_member(archive, entry)
                for name, entry in zip(names, entries, strict=True)
                if wanted(name)
            }
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # zipfile and zlib raise their own, NotImplementedError among them
        raise ValueError(str(error) or type(error).__name__) from error
    return arrays, names


def _read_member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    claimed, stored = entry.file_size, max(entry.compress_size, 1)
    if claimed > _NEVER_TOO_MUCH and claimed > _MAX_RATIO * stored:
        raise ValueError(
            f"{entry.filename}: claims {claimed:,} bytes in {stored:,}; at most {_MAX_RATIO} times "
            "as many are believed"
        )
    with archive.open(entry) as file:
        shape, order, dtype = _header(file, entry.filename)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise ValueError(f"{entry.filename}: holds Python objects, which are never read")
        if size > claimed:
            raise ValueError(f"{entry.filename}: promises {size:,} bytes but has {claimed:,}")
        data = bytearray(size)
        there, view = 0, memoryview(data)
        while there < size and (read := file.readinto(view[there:])):
            there += read
        # Beyond the last byte, where the checksum is looked at.
        more = len(file.read(1))
    if there + more != size:
        raise ValueError(f"{entry.filename}: promises {size:,} bytes and has not as many")
    return np.ndarray(shape, dtype, buffer=data, order="F" if order else "C")


def _header(file: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"{name}: format {version}; 1.0 or 2.0 is required")
    return readers[version](file)
