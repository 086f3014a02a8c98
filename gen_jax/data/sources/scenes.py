"""Captioned scenes of colored shapes, made on the spot."""

import re

import numpy as np

from gen_jax.data.scenes import Edit, caption_of, draw_scene, make_edit, make_scene
from gen_jax.data.sources.source import Examples, Source, times
from gen_jax.errors import DataError

__all__ = ["open_edits", "open_scenes"]

_SIZES = {"train": 16_384, "test": 2048}
_SIDES = (16, 128)


def open_scenes(argument: str, split: str) -> Source:
    """Open scenes of :mod:`gen_jax.data.scenes`, by the shape HxWx3.

    Scene i of a split is drawn from (split, i) alone when it is first read, and kept.
    """
    match = re.fullmatch(r"(\d+)x(\d+)x3", argument)
    low, high = _SIDES
    if match is None or match[1] != match[2] or not low <= int(match[1]) <= high:
        raise DataError(
            f"scenes:{argument}: HxWx3 with equal sides from {low} to {high} is required, like "
            "32x32x3"
        )
    side, size = int(match[1]), _SIZES[split]
    images = np.zeros((size, side, side, 3), np.uint8)
    drawn = np.zeros(size, bool)

    def luck(index: int) -> np.random.Generator:
        return np.random.Generator(
            np.random.Philox(key=np.array([split == "test", index], np.uint64))
        )

    def captions(indices: np.ndarray) -> list[str]:
        return [caption_of(luck(int(index))) for index in indices]

    def read(indices: np.ndarray) -> Examples:
        for index in indices[~drawn[indices]]:
            images[index] = draw_scene(make_scene(luck(int(index))).things, side)
            drawn[index] = True
        return {"image": images[indices]}

    shape = (side, side, 3)
    return Source(
        name=f"scenes:{argument}/{split}",
        size=size,
        image_shape=shape,
        num_classes=None,
        in_memory=True,
        fingerprint=f"{size}x{times(shape)}-scenes-2",
        read=read,
        captions=captions,
    )


def open_edits(argument: str, split: str) -> Source:
    """Open changes of scenes, :func:`gen_jax.data.scenes.make_edit`, by the shape HxWx3.

    ``source`` is the scene before, the image that after, and captions say what to change. Example i
    of a split is drawn from (split, i) alone.
    """
    match = re.fullmatch(r"(\d+)x(\d+)x3", argument)
    low, high = _SIDES
    if match is None or match[1] != match[2] or not low <= int(match[1]) <= high:
        raise DataError(
            f"edit_scenes:{argument}: HxWx3 with equal sides from {low} to {high} is required"
        )
    side, size = int(match[1]), _SIZES[split]

    def edit(index: int) -> Edit:
        key = np.array([4 + (split == "test"), index], np.uint64)
        return make_edit(np.random.Generator(np.random.Philox(key=key)))

    def read(indices: np.ndarray) -> Examples:
        edits = [edit(int(index)) for index in indices]
        return {
            "image": np.stack([draw_scene(x.after, side) for x in edits]),
            "source": np.stack([draw_scene(x.before, side) for x in edits]),
        }

    shape = (side, side, 3)
    return Source(
        name=f"edit_scenes:{argument}/{split}",
        size=size,
        image_shape=shape,
        num_classes=None,
        in_memory=True,
        fingerprint=f"{size}x{times(shape)}-edit_scenes-1",
        read=read,
        captions=lambda indices: [edit(int(index)).instruction for index in indices],
    )
