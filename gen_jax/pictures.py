"""Pictures of many images."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

__all__ = ["film", "grid", "pairs", "scatter", "strips", "titled"]

BORDER = 2
BORDER_LEVEL = 128
# Smaller images are enlarged with hard edges until a person can see them.
MIN_CELL = 32


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Arrange images in rows, with a gray border around each.

    Args:
        images: uint8 [N, H, W, C].
        columns: images a row; by default as near to a square as N allows.

    Returns:
        uint8 [height, width, C]; images smaller than 32 pixels are enlarged by a whole factor.
    """
    num, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(num))
    rows = math.ceil(num / columns)
    scale = max(1, math.ceil(MIN_CELL / min(height, width)))
    cell_height, cell_width = height * scale + BORDER, width * scale + BORDER
    shape = (rows * cell_height + BORDER, columns * cell_width + BORDER, channels)
    picture = np.full(shape, BORDER_LEVEL, np.uint8)
    picture[..., 3:] = 255  # opaque
    enlarged = images.repeat(scale, axis=1).repeat(scale, axis=2)
    for index, image in enumerate(enlarged):
        top = BORDER + index // columns * cell_height
        left = BORDER + index % columns * cell_width
        picture[top : top + height * scale, left : left + width * scale] = image
    return picture


def strips(films: np.ndarray) -> np.ndarray:
    """Arrange films in rows, the frames of each from left to right.

    Args:
        films: uint8 [N, frames, H, W, C].

    Returns:
        uint8 [height, width, C].
    """
    return grid(films.reshape(-1, *films.shape[2:]), films.shape[1])


def film(films: np.ndarray, titles: Sequence[str] = ()) -> list[np.ndarray]:
    """Arrange films side by side, as frames of one film.

    Args:
        films: uint8 [N, frames, H, W, C].
        titles: a text under each, or none.

    Returns:
        A picture for each moment.
    """
    moments = np.swapaxes(films, 0, 1)
    return [titled(x, titles) if len(titles) else grid(x) for x in moments]


def pairs(images: np.ndarray, again: np.ndarray, columns: int = 16) -> np.ndarray:
    """Arrange images in rows, and below each row the same images as they came back.

    Args:
        images: uint8 [N, H, W, C].
        again: likewise.
        columns: images a row.

    Returns:
        uint8 [height, width, C]; what is missing from the last row is black.
    """
    columns = min(columns, len(images))
    rows: list[np.ndarray] = []
    for first in range(0, len(images), columns):
        for part in (images, again):
            row = part[first : first + columns]
            rows += [*row, *np.zeros((columns - len(row), *row.shape[1:]), np.uint8)]
    return grid(np.stack(rows), columns)


TITLED_CELL = 96


def titled(images: np.ndarray, titles: Sequence[str], columns: int | None = None) -> np.ndarray:
    """Arrange images in rows, with a title under each.

    Args:
        images: uint8 [N, H, W, C].
        titles: N texts.
        columns: images a row; by default as near to a square as N allows.

    Returns:
        uint8 [height, width, C]; images smaller than 96 pixels are enlarged by a whole factor.
    """
    num, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(num))
    scale = max(1, math.ceil(TITLED_CELL / min(height, width)))
    cell_height, cell_width = height * scale, width * scale
    font = ImageFont.load_default(11)
    lines = [_wrapped(title, font, cell_width) for title in titles]
    below = 14 * max(map(len, lines)) + 6
    rows = math.ceil(num / columns)
    size = (columns * (cell_width + 6) + 6, rows * (cell_height + below) + 6)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    for index, image in enumerate(images):
        top = 6 + index // columns * (cell_height + below)
        left = 6 + index % columns * (cell_width + 6)
        shown = image[..., 0] if channels == 1 else image[..., :3]
        picture = Image.fromarray(np.ascontiguousarray(shown))
        canvas.paste(
            picture.resize((cell_width, cell_height), Image.Resampling.NEAREST), (left, top)
        )
        for number, line in enumerate(lines[index]):
            pen.text((left, top + cell_height + 2 + 14 * number), line, fill="black", font=font)
    return np.asarray(canvas)


def _wrapped(title: str, font: Any, width: int) -> list[str]:
    """Break a title into lines that fit, by words."""
    lines: list[str] = []
    for word in title.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines or [""]


# Ten colors that stay apart, also for most who see fewer of them (Tableau 10).
COLORS = (
    "#4e79a7", "#f28e2b", "#e15759", "#76b7b2", "#59a14f",
    "#edc948", "#b07aa1", "#ff9da7", "#9c755f", "#bab0ac",
)  # fmt: skip


def scatter(points: np.ndarray, labels: np.ndarray | None, side: int = 800) -> np.ndarray:
    """Plot points in the plane, colored by label, with a legend and the range of both axes.

    Args:
        points: float [N, 2]; the first coordinate grows to the right, the second upward.
        labels: int [N], or None for one color; colors repeat after ten labels.
        side: pixels.

    Returns:
        uint8 [side, side, 3].
    """
    margin = 40
    low, high = points.min(axis=0), points.max(axis=0)
    span = np.maximum(high - low, 1e-9)
    places = margin + (points - low) / span * (side - 2 * margin)
    picture = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(picture)
    for index, (x, y) in enumerate(places):
        color = COLORS[0 if labels is None else int(labels[index]) % len(COLORS)]
        draw.ellipse((x - 2, side - y - 2, x + 2, side - y + 2), fill=color)
    if labels is not None:
        for row, label in enumerate(np.unique(labels)):
            top = 5 + 14 * row
            draw.ellipse((5, top, 13, top + 8), fill=COLORS[int(label) % len(COLORS)])
            draw.text((18, top - 2), str(label), fill="black")
    for axis, (x, y) in enumerate(((side // 2 - 60, side - 20), (side - 120, 10))):
        name = "first" if axis == 0 else "second"
        draw.text((x, y), f"{name}: {low[axis]:.2f} to {high[axis]:.2f}", fill="black")
    return np.asarray(picture)
