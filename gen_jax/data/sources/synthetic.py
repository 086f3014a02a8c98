"""Colored discs, made on the spot."""

import re

import numpy as np

from gen_jax.data.sources.source import Examples, Source, from_arrays
from gen_jax.errors import DataError

__all__ = ["open_synthetic"]


def open_synthetic(argument: str, split: str) -> Source:
    """Draw discs of all colors, by the shape HxWxC.

    Their ``source`` is the negative; their ``factors``, float32 [N, 3 + C], are row, column and
    radius, in parts of height, width and the shorter side, and the color.
    """
    match = re.fullmatch(r"(\d+)x(\d+)x([13])", argument)
    if match is None:
        raise DataError(
            f"synthetic:{argument}: HxWxC with 1 or 3 channels is required, like 32x32x3"
        )
    height, width, channels = map(int, match.groups())
    rng = np.random.default_rng(0 if split == "train" else 1)
    size = 512 if split == "train" else 128
    labels = rng.integers(0, 4, size).astype(np.int32)
    rows, columns = np.mgrid[0:height, 0:width]
    # A disc in the quadrant that its label names, of a color and size of its own.
    center_row = height * (0.3 + 0.4 * (labels // 2)) + rng.normal(0, 0.05 * height, size)
    center_column = width * (0.3 + 0.4 * (labels % 2)) + rng.normal(0, 0.05 * width, size)
    radius = min(height, width) * rng.uniform(0.12, 0.25, size)
    distance = np.hypot(
        rows[None] - center_row[:, None, None], columns[None] - center_column[:, None, None]
    )
    inside = np.clip(radius[:, None, None] - distance + 0.5, 0, 1)[..., None]
    color = rng.uniform(0.5, 1.0, (size, 1, 1, channels))
    images = np.round(255 * inside * color).astype(np.uint8)
    place = np.stack([center_row / height, center_column / width], axis=1)
    size_of = radius[:, None] / min(height, width)
    factors = np.concatenate([place, size_of, color.reshape(size, channels)], axis=1)
    factors = factors.astype(np.float32)
    source = from_arrays(f"synthetic:{argument}/{split}", images, labels)

    def read(indices: np.ndarray) -> Examples:
        return {
            **source.read(indices),
            "source": 255 - images[indices],
            "factors": factors[indices],
        }

    return source._replace(read=read)
