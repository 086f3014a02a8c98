"""Where images come from: one string names a source, one function opens it.

``digits``             1,797 handwritten digits, 8x8x1, shipped with scikit-learn
``npz:PATH``           arrays x_train, y_train, x_test, y_test (the Keras layout; labels optional,
                       as are context_train and context_test, [N, L, D]); or samples with their
                       noise, as ``gen-jax sample --with_noise`` writes them
``folder:PATH``        one subfolder of PNG, JPEG or WebP files for each class
``tfds:NAME``          a TFDS dataset already prepared as array_record, read without TensorFlow
``synthetic:HxWxC``    coloured discs, made on the spot, for tests and dry runs
``codes:PATH``         codes of a first stage, as ``gen-jax encode`` writes them, in place of images
"""

import hashlib
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gen_jax.data.codes import read_split
from gen_jax.data.decode import decode_image, fit_image
from gen_jax.data.tfds import open_records
from gen_jax.errors import DataError
from gen_jax.reading import read_npz

__all__ = ["Source", "hold_out", "open_source"]

Examples = dict[str, Any]
_SAMPLES = {"images", "noise", "labels", "context"}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


class Source(NamedTuple):
    """A finite, indexed set of uint8 images, all of one shape.

    ``read(indices [n])`` gives ``image`` uint8 [n, H, W, C] and, where there are classes, ``label``
    int32 [n]; npz files may add ``eps``, the noise that belongs to each image, and ``context``.
    ``in_memory`` says that reading a whole batch costs one indexing operation. ``fingerprint``
    changes when the examples or their order do. A source of ``codes`` in place of images names the
    first stage that made them by its digest, ``stage1``. A part of a source knows the ``indices``
    in the whole.
    """

    name: str
    size: int
    image_shape: tuple[int, int, int]
    num_classes: int | None
    in_memory: bool
    fingerprint: str
    read: Callable[[np.ndarray], Examples]
    stage1: str | None = None
    indices: np.ndarray | None = None


def open_source(
    spec: str, split: str, image_shape: tuple[int, int, int], data_dir: str | None = None
) -> Source:
    """Open one split of a source.

    Args:
        spec: see this module's docstring.
        split: ``"train"`` or ``"test"``.
        image_shape: (height, width, channels). Folders and TFDS images are centre-cropped and
            resized to it; arrays must have it already.
        data_dir: where TFDS looks for prepared datasets; None for its default.

    Raises:
        DataError: naming the source and what is wrong with it.
    """
    if split not in ("train", "test"):
        raise DataError(f"{spec}: split: 'train' or 'test' is needed, got {split!r}")
    kind, _, argument = spec.partition(":")
    if kind == "digits" and not argument:
        source = _digits(split)
    elif kind == "npz" and argument:
        source = _npz(Path(argument).expanduser(), split)
    elif kind == "folder" and argument:
        source = _folder(Path(argument).expanduser(), split, image_shape)
    elif kind == "tfds" and argument:
        source = _tfds(argument, split, image_shape, data_dir)
    elif kind == "synthetic" and argument:
        source = _synthetic(argument, split)
    elif kind == "codes" and argument:
        source = _codes(Path(argument).expanduser(), split)
    else:
        raise DataError(
            f"{spec}: unknown source; digits, npz:PATH, folder:PATH, tfds:NAME, synthetic:HxWxC "
            "and codes:PATH are known"
        )
    if source.size == 0:
        raise DataError(f"{source.name}: no examples")
    if source.image_shape != tuple(image_shape):
        raise DataError(
            f"{source.name}: images are {_times(source.image_shape)}, but data.shape is "
            f"{_times(image_shape)}"
        )
    return source


def hold_out(source: Source, num: int) -> tuple[Source, Source]:
    """Split off examples, spread evenly over a source, for validation.

    Args:
        source: the training split.
        num: how many examples to hold out.

    Returns:
        What is left, and what was held out.

    Raises:
        DataError: if nothing would be left.
    """
    if num >= source.size:
        raise DataError(f"{source.name}: data.holdout {num} leaves none of {source.size} examples")
    held = np.linspace(0, source.size - 1, num).round().astype(np.int64)
    left = np.setdiff1d(np.arange(source.size), held)

    def part(indices: np.ndarray, name: str) -> Source:
        return source._replace(
            name=f"{source.name}{name}",
            size=len(indices),
            fingerprint=f"{source.fingerprint}{name}-{num}",
            read=lambda rows: source.read(indices[rows]),
            indices=indices,
        )

    return part(left, "-left"), part(held, "-held")


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _from_arrays(
    name: str,
    images: np.ndarray,
    labels: np.ndarray | None,
    others: Mapping[str, np.ndarray] | None = None,
) -> Source:
    images = np.ascontiguousarray(images[..., None] if images.ndim == 3 else images)
    num_classes = None if labels is None else int(labels.max(initial=-1)) + 1

    def read(indices: np.ndarray) -> Examples:
        examples = {"image": images[indices]}
        if labels is not None:
            examples["label"] = labels[indices]
        return examples | {key: array[indices] for key, array in (others or {}).items()}

    # crc32 runs at gigabytes a second; this is to notice a changed file, not an attacker.
    digest = zlib.crc32(images.data)
    if labels is not None:
        digest = zlib.crc32(np.ascontiguousarray(labels).data, digest)
    for array in (others or {}).values():
        digest = zlib.crc32(np.ascontiguousarray(array).data, digest)
    return Source(
        name=name,
        size=len(images),
        image_shape=tuple(images.shape[1:]),
        num_classes=num_classes,
        in_memory=True,
        fingerprint=f"{len(images)}x{_times(images.shape[1:])}-{digest:08x}",
        read=read,
    )


def _digits(split: str) -> Source:
    from sklearn.datasets import load_digits

    data = load_digits()
    # 17 grey levels, 0 to 16, spread over 0 to 255. The last 297 are held out: scikit-learn keeps
    # the order of the original files, so that these were written by people not seen in training.
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    part = slice(0, 1500) if split == "train" else slice(1500, None)
    return _from_arrays(f"digits/{split}", images[part], data.target[part].astype(np.int32))


def _npz(path: Path, split: str) -> Source:
    name = f"npz:{path}"
    try:
        keras = {f"x_{split}", f"y_{split}", f"context_{split}"}
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
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise DataError(
            f"{name}: x_{split}: uint8 [N, H, W] or [N, H, W, C] is needed, got {images.dtype} "
            f"{list(images.shape)}"
        )
    if labels is not None:
        labels = labels.reshape(-1) if labels.shape == (len(images), 1) else labels
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise DataError(
                f"{name}: y_{split}: {len(images)} whole numbers are needed, got {labels.dtype} "
                f"{list(labels.shape)}"
            )
        if labels.size and labels.min() < 0:
            raise DataError(
                f"{name}: y_{split}: index {np.argmin(labels)}: label {labels.min()} < 0"
            )
        labels = labels.astype(np.int32)
    found = {"eps": arrays.get("eps"), "context": arrays.get(f"context_{split}")}
    others = {key: array for key, array in found.items() if array is not None}
    for key, array in others.items():
        if array.dtype.kind != "f" or len(array) != len(images) or not np.isfinite(array).all():
            raise DataError(
                f"{name}: {key}: {len(images)} arrays of finite numbers are needed, got "
                f"{array.dtype} {list(array.shape)}"
            )
    others = {key: array.astype(np.float32) for key, array in others.items()}
    return _from_arrays(f"{name}/{split}", images, labels, others)


def _folder(path: Path, split: str, image_shape: tuple[int, int, int]) -> Source:
    name = f"folder:{path}"
    if not path.is_dir():
        raise DataError(f"{name}: no such folder")
    has_splits = (path / "train").is_dir() and (path / "test").is_dir()
    root = path / split if has_splits else path
    # Labels are numbered by the training classes, whichever of them a test folder has.
    classes = _subfolders(path / "train" if has_splits else path)
    if not classes:
        raise DataError(f"{name}: no subfolders; one for each class is needed")
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


def _tfds(
    dataset: str, split: str, image_shape: tuple[int, int, int], data_dir: str | None
) -> Source:
    name = f"tfds:{dataset}/{split}"
    records, num_classes, fingerprint = open_records(dataset, split, data_dir)

    def read(indices: np.ndarray) -> Examples:
        from PIL import Image

        images, labels = [], []
        for index in indices:
            where = f"{name}[{index}]"
            try:
                record = records[int(index)]
            except Exception as error:  # whatever the reader of records or of images raises
                raise DataError(f"{where}: cannot be read: {error}") from error
            array = np.asarray(record["image"])
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] not in (1, 3):
                raise DataError(
                    f"{where}: image: uint8 [H, W, 1 or 3] is needed, got {array.dtype} "
                    f"{list(array.shape)}"
                )
            if array.shape != tuple(image_shape):
                picture = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
                array = fit_image(picture, image_shape, where)
            images.append(array)
            if num_classes is not None:
                label = np.asarray(record["label"])
                whole = label.shape == () and label.dtype.kind in "iu"
                if not (whole and 0 <= label < num_classes):
                    raise DataError(f"{where}: label: {label}; 0 to {num_classes - 1} is needed")
                labels.append(label)
        examples = {"image": np.stack(images)}
        if num_classes is not None:
            examples["label"] = np.asarray(labels, np.int32)
        return examples

    return Source(
        name=name,
        size=len(records),
        image_shape=image_shape,
        num_classes=num_classes,
        in_memory=False,
        fingerprint=fingerprint,
        read=read,
    )


def _synthetic(argument: str, split: str) -> Source:
    match = re.fullmatch(r"(\d+)x(\d+)x([13])", argument)
    if match is None:
        raise DataError(f"synthetic:{argument}: HxWxC with 1 or 3 channels is needed, like 32x32x3")
    height, width, channels = map(int, match.groups())
    rng = np.random.default_rng(0 if split == "train" else 1)
    size = 512 if split == "train" else 128
    labels = rng.integers(0, 4, size).astype(np.int32)
    rows, columns = np.mgrid[0:height, 0:width]
    # A disc in the quadrant that its label names, of a colour and size of its own.
    centre_row = height * (0.3 + 0.4 * (labels // 2)) + rng.normal(0, 0.05 * height, size)
    centre_column = width * (0.3 + 0.4 * (labels % 2)) + rng.normal(0, 0.05 * width, size)
    radius = min(height, width) * rng.uniform(0.12, 0.25, size)
    distance = np.hypot(
        rows[None] - centre_row[:, None, None], columns[None] - centre_column[:, None, None]
    )
    inside = np.clip(radius[:, None, None] - distance + 0.5, 0, 1)[..., None]
    colour = rng.uniform(0.5, 1.0, (size, 1, 1, channels))
    images = np.round(255 * inside * colour).astype(np.uint8)
    return _from_arrays(f"synthetic:{argument}/{split}", images, labels)


def _codes(path: Path, split: str) -> Source:
    index, examples, fingerprint = read_split(path, split)
    codes, labels = examples["codes"], examples.get("label")

    def take(codes: np.ndarray, indices: np.ndarray) -> np.ndarray:
        chosen = codes[indices]
        return chosen.astype(np.int32) if chosen.dtype.kind == "u" else chosen

    def read(indices: np.ndarray) -> Examples:
        if isinstance(codes, dict):
            chosen: Any = {name: take(part, indices) for name, part in codes.items()}
        else:
            chosen = take(codes, indices)
        return {"codes": chosen} | ({} if labels is None else {"label": labels[indices]})

    return Source(
        name=f"codes:{path}/{split}",
        size=int(index["splits"][split]["size"]),
        image_shape=tuple(index["image_shape"]),
        num_classes=None if labels is None else int(labels.max(initial=-1)) + 1,
        in_memory=True,
        fingerprint=fingerprint,
        read=read,
        stage1=index["stage1"],
    )
