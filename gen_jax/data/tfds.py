"""Datasets that TFDS has prepared as array_record, read without TensorFlow.

A prepared dataset describes itself, and its description may be anybody's: TFDS imports whatever
module it names, and the reader of records takes a shortened file for an empty one. Both are looked
at before.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gen_jax.errors import DataError, one_line
from gen_jax.lazy import without_extra
from gen_jax.reading import parse_json, read_file

__all__ = ["open_records"]

# As TFDS writes them itself: what it would first rewrite is not looked at, and so not taken.
_NAME = r"[a-z][a-z0-9_]*(/[\w.+-]+)?(:[\w.*]+)?"
_FEATURES = "features.json"
_OWN_CLASSES = r"tensorflow_datasets\.core\.features\.\w+\.\w+"
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")


def open_records(dataset: str, split: str, data_dir: str | None) -> tuple[Any, int | None, str]:
    """Open one split.

    Args:
        dataset: its name, with or without config and version.
        split: ``"train"``, or ``"test"``: where a dataset has none, its ``validation``.
        data_dir: where datasets were prepared; None for TFDS's default.

    Returns:
        The records, a sequence of dicts with an ``image``; how many classes their ``label`` has,
        None without one; and a fingerprint.

    Raises:
        DataError: naming the file or the feature that is not as it should be.
    """
    try:
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.utils import file_utils
    except ModuleNotFoundError as error:
        raise DataError(f"tfds: {without_extra('a TFDS dataset', error)}") from error

    name = f"tfds:{dataset}/{split}"
    if not re.fullmatch(_NAME, dataset):
        raise DataError(
            f"{name}: a name in lower case is required, with or without /config or :version"
        )
    for folder in file_utils.list_data_dirs(data_dir):
        _check_names_no_code(dataset, Path(folder))
    try:
        # Passing data_dir alone silently switches the format back to tfrecord, which cannot be
        # read without TensorFlow.
        builder = tfds.builder(dataset, data_dir=data_dir, file_format="array_record")
        there = builder.info.splits
        # What is held out goes by two names.
        taken = "validation" if split == "test" and split not in there else split
        if taken not in there:
            found = ", ".join(there) or "none"
            hint = ""
            if split == "test" and "train" in there:
                hint = "; data.holdout keeps some of it from training, for --split=validation"
            raise DataError(
                f"{name}: no such split, or not prepared under {builder.data_dir}; found {found}"
                f"{hint}"
            )
        _check_whole(there[taken])
        records = builder.as_data_source(split=taken)
    except DataError:
        raise
    except Exception as error:  # TFDS raises dozens of types for a dataset that is not there
        raise DataError(
            f"{name}: cannot be opened: {one_line(error)}; prepare it first with "
            "file_format='array_record'"
        ) from error
    features = builder.info.features
    if "image" not in features:
        raise DataError(f"{name}: no feature 'image'; found {', '.join(features)}")
    label = features["label"] if "label" in features else None  # noqa: SIM401 no get()
    fingerprint = f"{builder.info.full_name}-{len(records)}"
    return records, getattr(label, "num_classes", None), fingerprint


def _check_names_no_code(dataset: str, data_dir: Path) -> None:
    folder = data_dir.expanduser() / re.split(r"[/:]", dataset)[0]
    # TFDS follows links, and so must this; walk() says nothing of a folder that is not there.
    found = (
        Path(place) for place, _, files in os.walk(folder, followlinks=True) if _FEATURES in files
    )
    for path in sorted(place / _FEATURES for place in found):
        try:
            features = parse_json(read_file(path))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from error
        for key, value in _strings(features):
            foreign = key in _CLASS_KEYS and "." in value
            if foreign and not re.fullmatch(_OWN_CLASSES, value):
                raise DataError(f"{path}: {key}: {value!r} is none of TFDS's own features")


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _strings(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, str):
        yield key, value


def _check_whole(split: Any) -> None:
    """Count the records of each shard: a shortened file is otherwise one without any."""
    from array_record.python.array_record_module import ArrayRecordReader

    for path, expected in zip(split.filepaths, split.shard_lengths, strict=True):
        if not Path(path).is_file():
            raise DataError(f"{path}: missing; prepare the dataset again")
        try:
            reader = ArrayRecordReader(str(path))
            found = reader.num_records()
            reader.close()
        except Exception as error:  # an empty RuntimeError, mostly
            raise DataError(f"{path}: damaged, or no array_record file: {error}") from error
        if found != expected:
            raise DataError(f"{path}: {found} records, but {expected} are required; it is damaged")
