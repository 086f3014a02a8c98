"""How close images come back."""

import math

import numpy as np

__all__ = ["mean_squared_error", "psnr"]


def mean_squared_error(images: np.ndarray, again: np.ndarray) -> float:
    """Average the squared difference of uint8 images, of values scaled to [0, 1]."""
    difference = (images.astype(np.float64) - again.astype(np.float64)) / 255
    return float(np.mean(difference**2))


def psnr(images: np.ndarray, again: np.ndarray) -> float:
    """Compute 10 log10(1 / MSE) in dB of uint8 images [N, ...], averaged over images.

    An image that comes back exactly counts as 100 dB.
    """
    return float(
        np.mean(
            [
                min(100.0, -10 * math.log10(max(mean_squared_error(a, b), 1e-12)))
                for a, b in zip(images, again, strict=True)
            ]
        )
    )
