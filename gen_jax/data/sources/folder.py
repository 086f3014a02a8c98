"""Folders of pictures."""

import hashlib
from pathlib import Path

import numpy as np

from gen_jax.data.decode import decode_image, fit_image
from gen_jax.data.sources.source import Examples, Source
from gen_jax.errors import DataError

__all__ = ["open_folder"]


_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def open_folder(path: Path, split: str, image_shape: tuple[int, int, int]) -> Source:
    """Open a split of a folder of pictures, one subfolder for each class."""
    name = f"folder:{path}"
    if not path.is_dir():
        raise DataError(f"{name}: no such folder")
    has_splits = (path / "train").is_dir() and (path / "test").is_dir()
    root = path / split if has_splits else path
    # Labels are numbered by the training classes, whichever of them a test folder has.
    classes = _subfolders(path / "train" if has_splits else path)
    if not classes:
        raise DataError(f"{name}: no subfolders; one for each class is required")
    if unknown := sorted(set(_subfolders(root)) - set(classes)):
        raise DataError(f"{root / unknown[0]}: no class of that name in {path / 'train'}")
    files = [
        (file, label)
        for label, class_name in enumerate(classes)
        for file in sorted((root / class_name).glob("[!.]*"))
        if file.suffix.lower() in _SUFFIXES and file.is_file()
    ]
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
            images.append(fit_image(decode_image(data, str(file)), image_shape, str(file)))
            labels.append(label)
        return {"image": np.stack(images), "label": np.asarray(labels, np.int32)}

    listing = "\n".join(f"{file.relative_to(root)} {file.stat().st_size}" for file, _ in files)
    return Source(
        name=f"{name}/{split}",
        size=len(files),
        image_shape=image_shape,
        num_classes=len(classes),
        in_memory=False,
        fingerprint=f"{len(files)}-{hashlib.sha256(listing.encode()).hexdigest()[:16]}",
        read=read,
    )


def _subfolders(path: Path) -> list[str]:
    names = (entry.name for entry in path.iterdir() if entry.is_dir())
    return sorted(name for name in names if not name.startswith("."))
