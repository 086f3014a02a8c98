"""Texts that lie beside pictures, in the ways that others write them.

``metadata.jsonl`` or ``metadata.csv`` with ``file_name`` and ``text`` (Hugging Face's image
folders, diffusers' scripts), or a file of each picture's name with ``.txt`` (img2dataset, kohya).
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gen_jax.errors import DataError

__all__ = ["find_captions"]

_NAMES = ("text", "caption", "prompt")


def find_captions(root: Path, files: Sequence[Path]) -> tuple[list[str] | None, str]:
    """Find the texts of pictures.

    Args:
        root: the folder they are below, where a table would lie.
        files: pictures.

    Returns:
        A text for each, and where they were found; None where there are none.

    Raises:
        DataError: naming the picture that has none, where others have, or the line that is wrong.
    """
    for name, rows in (("metadata.jsonl", _json_rows), ("metadata.csv", _csv_rows)):
        if (path := root / name).is_file():
            return _by_table(path, rows(path), root, files), name
    texts = [file.with_suffix(".txt") for file in files]
    there = [path.is_file() for path in texts]
    if not any(there):
        return None, ""
    if not all(there):
        lacking = texts[there.index(False)]
        raise DataError(f"{lacking}: missing; {sum(there)} of {len(files)} pictures have a text")
    return [_read(path).strip() for path in texts], "NAME.txt beside each picture"


def _by_table(
    path: Path, rows: Iterator[tuple[int, dict[str, Any]]], root: Path, files: Sequence[Path]
) -> list[str]:
    found: dict[Path, str] = {}
    for line, row in rows:
        text = next((row[name] for name in _NAMES if isinstance(row.get(name), str)), None)
        if text is None or not isinstance(row.get("file_name"), str):
            raise DataError(f"{path}: line {line}: file_name and text are required")
        found[root / row["file_name"]] = text.strip()
    lacking = next((file for file in files if file not in found), None)
    if lacking is not None:
        raise DataError(f"{path}: nothing of {lacking.relative_to(root)}")
    return [found[file] for file in files]


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_read(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {number}: not JSON: {error}") from error
        yield number, row if isinstance(row, dict) else {}


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(_read(path)))
    for row in reader:
        yield reader.line_num, row


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
