"""A source of images: what it knows of itself, and parts of it."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from gen_jax.data.text import Tokenizer
from gen_jax.errors import DataError

__all__ = [
    "Examples",
    "Source",
    "beside",
    "from_arrays",
    "hold_out",
    "named_by",
    "times",
    "with_prompts",
]

Examples = dict[str, Any]


class Source(NamedTuple):
    """A finite, indexed set of uint8 images, all of one shape.

    ``read(indices [n])`` gives ``image`` uint8 [n, H, W, C] and, where there are classes, ``label``
    int32 [n]; npz files may add ``eps``, the noise that belongs to each image, and what else models
    are told of it: ``context``, ``pooled``, ``sizes``, ``source``, ``masked`` and ``mask``.
    ``in_memory`` says that reading a whole batch costs one indexing operation. ``fingerprint``
    changes when the examples or their order do. A source of ``codes`` in place of images names the
    first stage that made them by its digest, ``stage1``. ``class_names`` are what labels stand for,
    where they have names, and ``notes`` say what lay there and was left out. A part of a source
    knows the ``indices`` in the whole. ``other`` is a source of images of another kind, which
    belong to none of these; ``read`` then gives some as ``other``, and training goes through them
    in an order of their own. ``captions(indices)`` are the texts of images that have some,
    which were found as ``captions_from`` says.
    """

    name: str
    size: int
    image_shape: tuple[int, ...]
    num_classes: int | None
    in_memory: bool
    fingerprint: str
    read: Callable[[np.ndarray], Examples]
    stage1: str | None = None
    class_names: tuple[str, ...] | None = None
    notes: str = ""
    indices: np.ndarray | None = None
    other: "Source | None" = None
    captions: Callable[[np.ndarray], list[str]] | None = None
    captions_from: str = ""


def beside(source: Source, other: Source) -> Source:
    """Put images of another kind beside a source's own, without pairs.

    Raises:
        DataError: if they are of another shape, or are no images.
    """
    if other.image_shape != source.image_shape or other.stage1 is not None:
        raise DataError(
            f"{other.name}: images of {times(other.image_shape)}; {times(source.image_shape)} is "
            f"required, as those of {source.name}"
        )

    def read(indices: np.ndarray) -> Examples:
        return {**source.read(indices), "other": other.read(indices % other.size)["image"]}

    return source._replace(
        read=read,
        in_memory=source.in_memory and other.in_memory,
        fingerprint=f"{source.fingerprint}+{other.fingerprint}",
        other=other,
    )


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
    captions = source.captions

    def part(indices: np.ndarray, name: str) -> Source:
        return source._replace(
            name=f"{source.name}{name}",
            size=len(indices),
            fingerprint=f"{source.fingerprint}{name}-{num}",
            read=lambda rows: source.read(indices[rows]),
            indices=indices,
            captions=None if captions is None else lambda rows: captions(indices[rows]),
        )

    return part(left, "-left"), part(held, "-held")


def named_by(source: Source, sentence: str) -> Source:
    """Caption labeled images: a sentence with ``{}`` where the class's name stands.

    Raises:
        DataError: if there are no classes.
    """
    if source.num_classes is None:
        raise DataError(f"{source.name}: no classes, whose names data.captions would hold")
    names = source.class_names or tuple(map(str, range(source.num_classes)))

    def captions(indices: np.ndarray) -> list[str]:
        return [sentence.replace("{}", names[label]) for label in source.read(indices)["label"]]

    return source._replace(captions=captions, fingerprint=f"{source.fingerprint}-{sentence}")


def with_prompts(source: Source, tokenizer: Tokenizer, length: int) -> Source:
    """Let a source's captions be among its examples, as ``prompt`` int32 [n, length].

    Raises:
        DataError: if it has none.
    """
    captions = source.captions
    if captions is None:
        raise DataError(f"{source.name}: no captions; data.captions can make some of class names")

    def read(indices: np.ndarray) -> Examples:
        return {**source.read(indices), "prompt": tokenizer.batch(captions(indices), length)[0]}

    return source._replace(read=read)


def times(shape: tuple[int, ...]) -> str:
    """Write a shape with crosses."""
    return "x".join(map(str, shape))


def from_arrays(
    name: str,
    images: np.ndarray,
    labels: np.ndarray | None,
    others: Mapping[str, np.ndarray] | None = None,
) -> Source:
    """Make a source of arrays in memory."""
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
        fingerprint=f"{len(images)}x{times(images.shape[1:])}-{digest:08x}",
        read=read,
    )
