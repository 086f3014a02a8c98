"""How close images come back."""

import math

import numpy as np
from scipy.ndimage import gaussian_filter

from gen_jax.ops.checks import check_pixels

__all__ = ["mean_squared_error", "psnr", "ssim"]


def mean_squared_error(images: np.ndarray, again: np.ndarray) -> float:
    """Average the squared difference of uint8 images, of values scaled to [0, 1]."""
    _check_pairs(images, again)
    difference = (images.astype(np.float64) - again.astype(np.float64)) / 255
    return float(np.mean(difference**2))


def psnr(images: np.ndarray, again: np.ndarray) -> float:
    """Compute 10 log10(1 / MSE) in dB of uint8 images [N, ...], averaged over images.

    An image that comes back exactly counts as 100 dB.
    """
    _check_pairs(images, again)
    return float(
        np.mean(
            [
                min(100.0, -10 * math.log10(max(mean_squared_error(a, b), 1e-12)))
                for a, b in zip(images, again, strict=True)
            ]
        )
    )


def ssim(images: np.ndarray, again: np.ndarray) -> float:
    """Compute the structural similarity of uint8 images [N, H, W, C], averaged over all.

    Wang et al. 2004, Eq. 13, with their Gaussian window (sigma 1.5, 11 pixels wide) and constants,
    over the pixels around which the window fits, or over all of an image too small for it; 1 for
    equal images.
    """
    _check_pairs(images, again)
    total = 0.0
    for first in range(0, len(images), 64):  # in parts: it takes ten copies of its images
        part = slice(first, first + 64)
        total += len(images[part]) * _ssim(images[part], again[part])
    return total / len(images)


def _check_pairs(images: np.ndarray, again: np.ndarray) -> None:
    check_pixels(images)
    check_pixels(again)
    if images.shape != again.shape:
        raise ValueError(f"again: got {list(again.shape)}; {list(images.shape)} is required")


def _ssim(images: np.ndarray, again: np.ndarray) -> float:
    a, b = images.astype(np.float64) / 255, again.astype(np.float64) / 255

    def smooth(x: np.ndarray) -> np.ndarray:
        return gaussian_filter(x, sigma=1.5, radius=5, axes=(1, 2))

    mean_a, mean_b = smooth(a), smooth(b)
    variance_a, variance_b = smooth(a * a) - mean_a**2, smooth(b * b) - mean_b**2
    covariance = smooth(a * b) - mean_a * mean_b
    small, smaller = 0.01**2, 0.03**2
    similarity = ((2 * mean_a * mean_b + small) * (2 * covariance + smaller)) / (
        (mean_a**2 + mean_b**2 + small) * (variance_a + variance_b + smaller)
    )
    if min(images.shape[1:3]) > 10:
        similarity = similarity[:, 5:-5, 5:-5]
    return float(np.mean(similarity))
