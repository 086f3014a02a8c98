"""Precision, recall, density, coverage: pinned by laws whose values are known."""

import numpy as np
import pytest

from gen_jax.evals.coverage import count_modes, coverage, kernel_distance, nearest

GENERATOR = np.random.default_rng(0)
NUM = 1000


def normal(scale=1.0, mean=0.0, num=NUM, dim=16):
    return mean + scale * GENERATOR.standard_normal((num, dim))


REAL = normal()


def test_of_one_law_density_is_1_and_coverage_as_the_theory_says():
    made = coverage(REAL, normal())
    assert made.density == pytest.approx(1.0, abs=0.06)
    assert made.coverage == pytest.approx(1 - 2**-5, abs=0.02)
    assert made.precision == pytest.approx(made.recall, abs=0.05)


def test_a_collapsed_model_has_precision_and_no_recall():
    """What is high and what is low is easily swapped."""
    collapsed = REAL[GENERATOR.integers(0, 10, NUM)] + normal(1e-3)
    made = coverage(REAL, collapsed)
    assert made.precision == 1.0
    assert made.recall < 0.05
    assert made.coverage < 0.2
    other = coverage(collapsed, REAL)
    assert (other.precision, other.recall) == (made.recall, made.precision)


def test_a_narrow_law_and_a_wide_one():
    narrow, wide = coverage(REAL, normal(0.5)), coverage(REAL, normal(2.0))
    assert narrow.precision == 1.0
    assert narrow.recall < 0.1
    assert narrow.density > 3
    assert wide.precision < 0.1
    assert wide.recall > 0.95


def test_numbers_do_not_depend_on_chunks_or_a_shift_of_all():
    fake = normal(0.9, 0.2)
    assert coverage(REAL, fake, chunk=77) == coverage(REAL, fake)
    shifted = coverage(REAL + 1e4, fake + 1e4)
    np.testing.assert_allclose(shifted, coverage(REAL, fake), atol=0.003)


def test_they_are_the_brute_force_ones():
    real, fake = normal(num=40, dim=3), normal(num=30, dim=3, mean=0.5)
    apart = np.linalg.norm(real[:, None] - fake[None], axis=-1)
    reach = np.sort(np.linalg.norm(real[:, None] - real[None], axis=-1), axis=1)[:, 3]
    other = np.sort(np.linalg.norm(fake[:, None] - fake[None], axis=-1), axis=1)[:, 3]
    made = coverage(real, fake, k=3)
    assert made.precision == (apart < reach[:, None]).any(axis=0).mean()
    assert made.recall == (apart < other[None]).any(axis=1).mean()
    assert made.density == pytest.approx((apart < reach[:, None]).sum() / (3 * 30))
    assert made.coverage == (apart.min(axis=1) < reach).mean()
    index, distance = nearest(fake, real, chunk=7)
    np.testing.assert_array_equal(index, apart.argmin(axis=0))
    np.testing.assert_allclose(distance, apart.min(axis=0))
    for wrong in (fake[:3], fake[:, :2]):
        with pytest.raises(ValueError, match="fake"):
            coverage(real, wrong, k=3)


def test_the_kernel_distance_is_unbiased_and_knows_a_shift():
    equal = [kernel_distance(normal(num=50, dim=4), normal(num=60, dim=4)) for _ in range(200)]
    assert abs(np.mean(equal)) < 4 * np.std(equal) / np.sqrt(len(equal))
    assert min(equal) < 0
    a, b = normal(num=300, dim=4), normal(num=300, dim=4, mean=1.0)
    assert kernel_distance(a, b) > 5 * np.std(equal)
    assert kernel_distance(a, b, chunk=31) == pytest.approx(kernel_distance(a, b))


def test_modes_are_counted():
    every = np.arange(1000)
    assert count_modes(every, 1000) == (1000, pytest.approx(0.0, abs=1e-12))
    assert count_modes(every // 2, 1000) == (500, pytest.approx(np.log(2)))
    assert count_modes(np.zeros(5, int), 8) == (1, pytest.approx(np.log(8)))
    with pytest.raises(ValueError, match="labels"):
        count_modes(every, 999)
