"""Reading films: GIF and WebP through Pillow, videos through the extra ``[video]``."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageSequence

from gen_jax.data.decode import SUFFIXES, decode_image, fit_image
from gen_jax.errors import DataError

__all__ = ["FILMS", "VIDEOS", "read_film", "read_frames"]

VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm")
FILMS = (".gif", ".webp", *VIDEOS)
_MOST = 200  # frames


def read_frames(path: Path) -> list[Image.Image]:
    """Read the frames of a film, or the one of a picture.

    Raises:
        DataError: naming the file and what is wrong with it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    suffix = path.suffix.lower()
    if suffix in VIDEOS:
        return _video(path)
    if suffix in (".gif", ".webp") and (film := _animated(data)) is not None:
        return film
    return [decode_image(data, str(path)).convert("RGB")]


def read_film(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a film, or a folder of its frames, in as many as are wanted, evenly spaced.

    Args:
        path: of a file, or of a folder of pictures.
        shape: (frames, height, width, channels); frames are cropped and scaled.

    Returns:
        uint8 of that shape.

    Raises:
        DataError: if it cannot be read, or is shorter.
    """
    frames, *size = shape
    if path.is_dir():
        files = sorted(x for x in path.iterdir() if x.suffix.lower() in SUFFIXES)
        pictures = [picture for file in files for picture in read_frames(file)]
    else:
        pictures = read_frames(path)
    if len(pictures) < frames:
        raise DataError(f"{path}: {len(pictures)} frames; {frames} or more are required")
    chosen = np.linspace(0, len(pictures) - 1, frames).round().astype(int)
    height, width, channels = size
    return np.stack([fit_image(pictures[i], (height, width, channels), str(path)) for i in chosen])


def _animated(data: bytes) -> list[Any] | None:
    """Read the frames of a film that Pillow knows; None for a picture."""
    try:
        image = Image.open(io.BytesIO(data), formats=("GIF", "WEBP"))
        if getattr(image, "n_frames", 1) == 1:
            return None
        frames = zip(range(_MOST + 1), ImageSequence.Iterator(image), strict=False)
        return _few([frame.convert("RGB") for _, frame in frames])
    except (OSError, ValueError, SyntaxError):
        return None  # decode_image says what is wrong


def _video(path: Path) -> list[Any]:
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"{path}: videos need the extra [video]: pip install 'gen_jax[video]'"
        ) from (error)
    try:
        with av.open(str(path)) as container:
            frames = zip(range(_MOST + 1), container.decode(video=0), strict=False)
            return _few([frame.to_image() for _, frame in frames])
    except (av.error.FFmpegError, IndexError) as error:
        raise DataError(f"{path}: cannot be read as a video: {error}") from error


def _few(frames: list[Any]) -> list[Any]:
    if not frames:
        raise DataError("a film without frames")
    if len(frames) > _MOST:
        raise DataError(f"a film of more than {_MOST} frames; cut it first")
    return frames
