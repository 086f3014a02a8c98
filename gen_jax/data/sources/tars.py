"""Tar files as webdataset writes them, read at random: a picture and its text of one name."""

import hashlib
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gen_jax.data.decode import MAX_PIXELS, SUFFIXES, decode_image, fit_image
from gen_jax.data.sources.source import Examples, Source
from gen_jax.errors import DataError

__all__ = ["open_tars"]


class _Place(NamedTuple):
    tar: Path
    first: int
    size: int


class _Example(NamedTuple):
    name: str
    picture: _Place
    text: _Place | None
    label: _Place | None


def open_tars(
    path: Path,
    split: str,
    image_shape: tuple[int, int, int],
    max_pixels: int = MAX_PIXELS,
    *,
    sixteen_bit: bool = False,
) -> Source:
    """Open a split of a tar file, or of all in a folder.

    Members of one name up to its first point belong together: a picture, ``.txt`` and ``.cls``, a
    whole number. Every tenth example, of the names in order, is held out; the order of members
    does not matter.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    name = f"tars:{path}"
    tars = sorted(path.rglob("*.tar")) if path.is_dir() else [path] if path.is_file() else []
    if not tars:
        raise DataError(f"{name}: no tar file")
    examples = sorted(example for tar in tars for example in _examples(tar))
    examples = [x for i, x in enumerate(examples) if (i % 10 == 9) == (split == "test")]
    if not examples:
        raise DataError(f"{name}/{split}: no pictures in {len(tars)} tar files")
    texts, labels = _texts(name, examples), _labels(name, examples)

    def read(indices: np.ndarray) -> Examples:
        images = []
        for index in indices:
            example = examples[index]
            where = f"{example.picture.tar}: {example.name}"
            alpha = image_shape[-1] == 4
            data = _read(example.picture)
            picture = decode_image(
                data,
                where,
                max_pixels,
                sixteen_bit=sixteen_bit,
                alpha=alpha,
                at_least=max(image_shape[:2]),
            )
            images.append(fit_image(picture, image_shape, where))
        made: Examples = {"image": np.stack(images)}
        return made if labels is None else {**made, "label": labels[indices]}

    lines = "\n".join(f"{x.name} {x.picture.size}" for x in examples)
    if texts is not None:
        lines += "\0".join(texts)
    digest = hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()[:16]
    return Source(
        name=f"{name}/{split}",
        size=len(examples),
        image_shape=image_shape,
        num_classes=None if labels is None else int(labels.max()) + 1,
        in_memory=False,
        fingerprint=f"{len(examples)}-{digest}",
        read=read,
        captions=None if texts is None else lambda rows: [texts[row] for row in rows],
        captions_from="NAME.txt in tar files" if texts is not None else "",
    )


def _examples(tar: Path) -> list[_Example]:
    """List the pictures of a tar file, from its headers alone."""
    parts: dict[str, dict[str, _Place]] = {}
    try:
        with tarfile.open(tar, "r:") as file:
            for member in file:
                if member.isfile():
                    folder, _, last = member.name.rpartition("/")
                    stem, _, suffix = last.partition(".")
                    place = _Place(tar, member.offset_data, member.size)
                    parts.setdefault(f"{folder}/{stem}", {})[f".{suffix.lower()}"] = place
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{tar}: cannot be read as a plain tar file: {error}") from error
    found = []
    for name, own in parts.items():
        picture = next((own[suffix] for suffix in own if suffix in SUFFIXES), None)
        if picture is not None:
            found.append(_Example(name, picture, own.get(".txt"), own.get(".cls")))
    return found


def _read(place: _Place) -> bytes:
    try:
        with open(place.tar, "rb") as file:
            file.seek(place.first)
            return file.read(place.size)
    except OSError as error:
        raise DataError(f"{place.tar}: {error.strerror}") from error


def _texts(name: str, examples: list[_Example]) -> list[str] | None:
    there = [example.text for example in examples]
    if not any(there):
        return None
    made = []
    for example, place in zip(examples, there, strict=True):
        if place is None:
            raise DataError(f"{name}: {example.name}.txt: missing; other pictures have a text")
        try:
            made.append(_read(place).decode().strip())
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: {example.name}.txt: not UTF-8: {error}") from error
    return made


def _labels(name: str, examples: list[_Example]) -> np.ndarray | None:
    there = [example.label for example in examples]
    if not all(there):
        return None
    made = []
    for example, place in zip(examples, there, strict=True):
        assert place is not None
        text = _read(place).decode(errors="replace").strip()
        if not text.isdecimal():
            raise DataError(f"{name}: {example.name}.cls: got {text!r}; a whole number is required")
        made.append(int(text))
    return np.array(made, np.int32)
