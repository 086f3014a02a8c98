"""Folders of pictures."""

import collections
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from gen_jax.data.decode import MAX_PIXELS, SUFFIXES, decode_image, fit_image
from gen_jax.data.sources.captions import find_captions
from gen_jax.data.sources.source import Examples, Source
from gen_jax.errors import DataError

__all__ = ["open_folder"]

# What a folder beside train/ may be called.
_HELD_OUT = ("test", "val", "valid", "validation")
_LAYOUTS = (
    "a subfolder of pictures for each class, the same below train/ and test/ (or val/, valid/, "
    "validation/), or pictures alone are required"
)


def open_folder(
    path: Path,
    split: str,
    image_shape: tuple[int, int, int],
    max_pixels: int = MAX_PIXELS,
    *,
    sixteen_bit: bool = False,
) -> Source:
    """Open a split of a folder of pictures: a subfolder for each class, or pictures alone.

    Pictures lie anywhere below their class. With ``train/`` and one of ``test/``, ``val/``,
    ``valid/`` and ``validation/`` the latter is what is held out; without, it is every tenth
    picture. ``Source.notes`` says what was left out.
    """
    name = f"folder:{path}"
    if not path.is_dir():
        raise DataError(f"{name}: no such folder")
    other = next((path / held for held in _HELD_OUT if (path / held).is_dir()), None)
    has_splits = (path / "train").is_dir() and other is not None
    train = path / "train" if has_splits else path
    root = train if split == "train" or other is None or not has_splits else other
    left_out: collections.Counter[str] = collections.Counter()
    # Labels are numbered by the training classes, whichever of them a test folder has.
    classes = _subfolders(train)
    if classes:
        _check_classes(name, train, root, classes)
        files = [
            (file, label)
            for label, class_name in enumerate(classes)
            for file in _pictures(root / class_name, left_out)
        ]
        _count_strays(root, left_out)
    else:
        files = [(file, 0) for file in _pictures(root, left_out)]
    if not files:
        found = ", ".join(f"{num} {what}" for what, num in left_out.items()) or "nothing"
        raise DataError(f"{name}/{split}: no examples: found {found}; {_LAYOUTS}")
    if not has_splits:  # hold out every tenth file
        files = [entry for i, entry in enumerate(files) if (i % 10 == 9) == (split == "test")]

    def read(indices: np.ndarray) -> Examples:
        images, labels = [], []
        for index in indices:
            file, label = files[index]
            try:
                data = file.read_bytes()
            except OSError as error:
                raise DataError(f"{file}: {error.strerror}") from error
            alpha = image_shape[-1] == 4
            picture = decode_image(
                data,
                str(file),
                max_pixels,
                sixteen_bit=sixteen_bit,
                alpha=alpha,
                at_least=max(image_shape[:2]),
            )
            images.append(fit_image(picture, image_shape, str(file)))
            labels.append(label)
        examples = {"image": np.stack(images)}
        return examples | ({"label": np.asarray(labels, np.int32)} if classes else {})

    texts, convention = find_captions(root, [file for file, _ in files])
    names = [str(file.relative_to(root)) for file, _ in files]
    told = names
    if texts is not None:
        told = [f"{name}\0{text}" for name, text in zip(names, texts, strict=True)]
        for suffix in (".txt", ".json", ".jsonl", ".csv"):
            left_out.pop(suffix, None)
    sizes = [file.stat().st_size for file, _ in files]
    return Source(
        name=f"{name}/{split}",
        size=len(files),
        image_shape=image_shape,
        num_classes=len(classes) or None,
        in_memory=False,
        fingerprint=_fingerprint(told, sizes),
        read=read,
        class_names=tuple(classes) or None,
        notes=_notes(left_out),
        captions_from=convention,
        captions=None if texts is None else lambda rows: [texts[row] for row in rows],
    )


def _fingerprint(names: Sequence[str], sizes: Sequence[int]) -> str:
    listing = "\n".join(f"{name} {size}" for name, size in zip(names, sizes, strict=True))
    whole, alone = (
        hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]
        for text in (listing, "\n".join(names))
    )
    return f"{len(names)}-{whole}:{alone}"


def _check_classes(name: str, train: Path, root: Path, classes: Sequence[str]) -> None:
    if unknown := sorted(set(_subfolders(root)) - set(classes)):
        raise DataError(f"{root / unknown[0]}: no class of that name in {train}")
    nothing: collections.Counter[str] = collections.Counter()
    empty = [own for own in classes if next(_pictures(train / own, nothing), None) is None]
    if len(empty) == len(classes):
        found = ", ".join(f"{num} {what}" for what, num in nothing.items()) or "nothing"
        raise DataError(f"{name}: no examples: found {found}; {_LAYOUTS}")
    if empty:
        # It would be a class that nothing is trained for, and number the others anew.
        raise DataError(
            f"{train / empty[0]}: no pictures in {len(empty)} of {len(classes)} classes "
            f"({', '.join(empty[:10])}); fill the folder, or remove it"
        )


def _pictures(folder: Path, left_out: collections.Counter[str]) -> Iterator[Path]:
    """List the pictures below a folder in the order of their paths, and count what else is there.

    Links are followed, each folder once.
    """
    seen: set[str] = set()
    found: list[Path] = []
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [own for own in sorted(folders) if not own.startswith(".")]
        for own in sorted(files):
            file = Path(place) / own
            if own.startswith("."):
                left_out["hidden files"] += 1
            elif not file.exists():
                left_out["dangling links"] += 1
            elif file.suffix.lower() in SUFFIXES:
                found.append(file)
            else:
                left_out[file.suffix.lower() or "files without a suffix"] += 1
    yield from sorted(found)


def _count_strays(root: Path, left_out: collections.Counter[str]) -> None:
    """Count pictures beside the folders of classes."""
    strays = [x for x in root.iterdir() if x.is_file() and x.suffix.lower() in SUFFIXES]
    if strays:
        left_out["pictures outside of any class"] += len(strays)


def _notes(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{num} {what}" for what, num in sorted(left_out.items()))


def _subfolders(path: Path) -> list[str]:
    names = (entry.name for entry in path.iterdir() if entry.is_dir())
    return sorted(name for name in names if not name.startswith("."))
