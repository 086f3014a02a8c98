"""Letters and digits of fonts."""

import io
import string
from pathlib import Path
from typing import Any

import numpy as np

from gen_jax.data.sources.source import Source, from_arrays
from gen_jax.errors import DataError

__all__ = ["open_glyphs"]

_CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SUFFIXES = (".ttf", ".otf", ".ttc")
_NOBODY = "\U0010fffe"  # no character: how a font shows what it lacks


def open_glyphs(path: Path, split: str, image_shape: tuple[int, int, int]) -> Source:
    """Draw the 62 letters and digits of each font, white on black; labels name the character.

    Every tenth font, of the names in order, is for testing; of fewer than ten the last one, and of
    a single font there is nothing to test with. A character that a font lacks is left out.

    Args:
        path: a font, or a folder of fonts at any depth: TrueType or OpenType.
        split: ``"train"`` or ``"test"``.
        image_shape: of an image; all channels are the same.
    """
    name = f"glyphs:{path}"
    if path.is_dir():
        fonts = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
    else:
        fonts = [path] if path.is_file() else []
    if not fonts:
        raise DataError(f"{name}: no fonts; {', '.join(_SUFFIXES)} are known")
    held = fonts[9::10] or (fonts[-1:] if len(fonts) > 1 else [])
    chosen = held if split == "test" else [font for font in fonts if font not in held]
    if not chosen:
        raise DataError(f"{name}: one font; of a second one would be tested")
    images: list[np.ndarray] = []
    labels: list[int] = []
    lacking = 0
    for font in chosen:
        for label, drawn in enumerate(_draw(font, image_shape[0], image_shape[1])):
            if drawn is None:
                lacking += 1
            else:
                images.append(drawn)
                labels.append(label)
    if not images:
        raise DataError(f"{name}: no letters or digits in {len(chosen)} fonts")
    stack = np.repeat(np.stack(images)[..., None], image_shape[2], axis=-1)
    source = from_arrays(f"{name}/{split}", stack, np.array(labels, np.int32))
    notes = f"{lacking} characters that fonts lack" if lacking else ""
    classes = tuple(_CHARACTERS)
    return source._replace(num_classes=len(classes), class_names=classes, notes=notes)


def _draw(path: Path, height: int, width: int) -> list[np.ndarray | None]:
    """Draw each character around the middle, all at one size; None for those that are not there."""
    from PIL import ImageFont

    try:
        data = path.read_bytes()
        # The largest size at which a tall character, and a broad one, find room.
        for size in range(round(0.9 * height), 3, -1):
            font = ImageFont.truetype(io.BytesIO(data), size)
            boxes = [font.getbbox(character, anchor="ls") for character in _CHARACTERS]
            top, bottom = min(box[1] for box in boxes), max(box[3] for box in boxes)
            if bottom - top <= height and max(box[2] - box[0] for box in boxes) <= width:
                break
        else:
            raise DataError(f"glyphs:{path}: does not fit into {height}x{width} pixels")
        nobody = _of(font, _NOBODY, height, width, top, bottom)
        drawn = [_of(font, c, height, width, top, bottom) for c in _CHARACTERS]
    except OSError as error:
        raise DataError(f"glyphs:{path}: cannot be read as a font: {error}") from error
    return [x if x.any() and not np.array_equal(x, nobody) else None for x in drawn]


def _of(
    font: Any, character: str, height: int, width: int, top: float, bottom: float
) -> np.ndarray:
    """Draw a character in the middle of the width, on the font's line."""
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (width, height))
    left, _, right, _ = font.getbbox(character, anchor="ls")
    place = ((width - (right - left)) / 2 - left, (height - (bottom - top)) / 2 - top)
    ImageDraw.Draw(canvas).text(place, character, fill=255, font=font, anchor="ls")
    return np.asarray(canvas)
