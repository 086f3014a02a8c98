"""Files that are there whole or not at all."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from gen_jax.errors import StorageError

__all__ = ["film_bytes", "npz_bytes", "png_bytes", "write_file"]


def write_file(path: Path, data: bytes) -> None:
    """Put a file in place in one motion: after a crash it is the old one, or the new one whole.

    Raises:
        StorageError: naming the file and the reason.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error


def png_bytes(image: np.ndarray, text: dict[str, str] | None = None) -> bytes:
    """Encode uint8 [H, W, 1, 3 or 4] as PNG, with text chunks."""
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_text(key, value)
    buffer = io.BytesIO()
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def film_bytes(
    frames: Sequence[np.ndarray], milliseconds: int | Sequence[int], kind: str = "GIF"
) -> bytes:
    """Encode frames as an animation that begins again at its end.

    Args:
        frames: uint8 [H, W, C], all alike.
        milliseconds: how long each is seen, or all.
        kind: ``"GIF"`` or ``"WEBP"``.
    """
    pictures = [Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x) for x in frames]
    buffer = io.BytesIO()
    times = milliseconds if isinstance(milliseconds, int) else list(milliseconds)
    pictures[0].save(
        buffer, kind, save_all=True, append_images=pictures[1:], duration=times, loop=0
    )
    return buffer.getvalue()


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """Encode arrays as a compressed npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
