import numpy as np
import pytest

from gen_jax.evals.reconstruction import ssim

RNG = np.random.default_rng(0)


def window_by_hand(a, b):
    """Wang et al. 2004, Eq. 13, at the one place where an 11x11 window fits."""
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights = np.outer(weights, weights)
    weights /= weights.sum()
    a, b = a / 255.0, b / 255.0
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    variance_a, variance_b = ((weights * (x - m) ** 2).sum() for x, m in ((a, mean_a), (b, mean_b)))
    covariance = (weights * (a - mean_a) * (b - mean_b)).sum()
    return ((2 * mean_a * mean_b + 1e-4) * (2 * covariance + 9e-4)) / (
        (mean_a**2 + mean_b**2 + 1e-4) * (variance_a + variance_b + 9e-4)
    )


def test_one_window_by_hand():
    a, b = RNG.integers(0, 256, (2, 1, 11, 11, 1), np.uint8)
    expected = window_by_hand(a[0, ..., 0], b[0, ..., 0])
    assert ssim(a, b) == pytest.approx(expected, abs=1e-6)


def test_it_is_one_for_equal_images_and_symmetric():
    for shape in ((3, 32, 32, 3), (2, 8, 8, 1)):
        a, b = RNG.integers(0, 256, (2, *shape), np.uint8)
        assert ssim(a, a) == pytest.approx(1)
        assert ssim(a, b) == pytest.approx(ssim(b, a))
        assert ssim(a, b) < 0.5
        assert ssim(a, 255 - a) < 0


def test_structure_counts_more_than_brightness():
    a = RNG.integers(60, 190, (1, 32, 32, 1), np.uint8)
    noise = RNG.integers(-20, 21, a.shape)
    assert ssim(a, a + 20) > ssim(a, np.uint8(a + noise))
