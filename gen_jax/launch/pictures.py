"""Pictures of many images."""

import math

import numpy as np

__all__ = ["grid"]

BORDER = 2
BORDER_LEVEL = 128
# Smaller images are enlarged with hard edges until a person can see them.
MIN_CELL = 32


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Lay images out in rows, with a grey border around each.

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
    enlarged = images.repeat(scale, axis=1).repeat(scale, axis=2)
    for index, image in enumerate(enlarged):
        top = BORDER + index // columns * cell_height
        left = BORDER + index % columns * cell_width
        picture[top : top + height * scale, left : left + width * scale] = image
    return picture
