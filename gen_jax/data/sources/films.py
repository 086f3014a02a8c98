"""Films: of scenes, made on the spot, and of folders."""

import hashlib
import re
from pathlib import Path

import numpy as np

from gen_jax.data.films import FILMS, read_film
from gen_jax.data.scenes import caption_of_film, draw_scene, make_film
from gen_jax.data.sources.source import Examples, Source, times
from gen_jax.errors import DataError

__all__ = ["open_films", "open_moving_scenes"]

_SIZES = {"train": 16_384, "test": 2048}
_SIDES = (16, 128)
_FRAMES = 16  # of which a still is one, whatever the length of films


def open_moving_scenes(argument: str, split: str) -> Source:
    """Open films of :func:`gen_jax.data.scenes.make_film`, by FxHxWx3; stills of them by HxWx3.

    Film i of a split is drawn from (split, i) alone.
    """
    match = re.fullmatch(r"(?:(\d+)x)?(\d+)x(\d+)x3", argument)
    low, high = _SIDES
    if match is None or match[2] != match[3] or not low <= int(match[2]) <= high:
        raise DataError(
            f"moving_scenes:{argument}: FxHxWx3, or HxWx3, with equal sides from {low} to {high} "
            "is required, like 8x16x16x3"
        )
    side, size = int(match[2]), _SIZES[split]
    frames = int(match[1]) if match[1] else None
    shape = (side, side, 3) if frames is None else (frames, side, side, 3)

    def luck(index: int) -> np.random.Generator:
        key = np.array([2 + (split == "test"), index], np.uint64)
        return np.random.Generator(np.random.Philox(key=key))

    def draw(index: int) -> np.ndarray:
        rng = luck(index)
        things = make_film(rng, frames or _FRAMES).frames
        if frames is None:
            return draw_scene([things[rng.integers(_FRAMES)]], side)
        return np.stack([draw_scene([thing], side) for thing in things])

    return Source(
        name=f"moving_scenes:{argument}/{split}",
        size=size,
        image_shape=shape,
        num_classes=None,
        in_memory=False,
        fingerprint=f"{size}x{times(shape)}-moving_scenes-1",
        read=lambda indices: {"image": np.stack([draw(int(index)) for index in indices])},
        captions=lambda indices: [caption_of_film(luck(int(index))) for index in indices],
    )


def open_films(path: Path, split: str, shape: tuple[int, ...]) -> Source:
    """Open a folder of films: GIF, WebP, videos (the extra ``[video]``), or subfolders of frames.

    Each is cropped and scaled to the model's size, and seen in as many frames as the model has,
    evenly spaced; every tenth film is held out. ``NAME.txt`` beside a film is its caption.

    Args:
        path: of the folder.
        split: ``"train"`` or ``"test"``.
        shape: (frames, height, width, channels).
    """
    name = f"films:{path}"
    if not path.is_dir():
        raise DataError(f"{name}: no such folder")
    if len(shape) != 4:
        raise DataError(f"{name}: data.shape: got {times(shape)}; FxHxWxC is required for films")
    entries = sorted(x for x in path.iterdir() if x.is_dir() or x.suffix.lower() in FILMS)
    entries = [x for i, x in enumerate(entries) if (i % 10 == 9) == (split == "test")]
    if not entries:
        kinds = ", ".join(FILMS)
        raise DataError(f"{name}/{split}: no examples; {kinds}, or subfolders of frames")
    texts = [entry.with_suffix(".txt") for entry in entries]
    told = [text.read_text(encoding="utf-8").strip() if text.exists() else "" for text in texts]
    listing = "\n".join(f"{x.name}\0{text}" for x, text in zip(entries, told, strict=True))
    digest = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()[:16]

    def read(indices: np.ndarray) -> Examples:
        return {"image": np.stack([read_film(entries[int(index)], shape) for index in indices])}

    return Source(
        name=f"{name}/{split}",
        size=len(entries),
        image_shape=shape,
        num_classes=None,
        in_memory=False,
        fingerprint=f"{len(entries)}-{digest}",
        read=read,
        captions=(lambda rows: [told[row] for row in rows]) if all(told) else None,
        captions_from="NAME.txt" if all(told) else "",
    )
