"""Codes whose entanglement is known."""

import numpy as np
import pytest

from gen_jax.evals.disentanglement import dci, mutual_information_gap

RNG = np.random.default_rng(0)
FACTORS = RNG.uniform(size=(600, 2))
NOISE = RNG.normal(size=(600, 2))


def test_each_number_a_factor_is_best_and_a_rotation_is_worse():
    alone = np.concatenate([FACTORS[:, ::-1] ** 3, NOISE], axis=1)
    turned = np.concatenate([FACTORS @ [[1, 1], [1, -1]], NOISE], axis=1)
    best, worse = dci(alone, FACTORS, trees=15), dci(turned, FACTORS, trees=15)
    assert min(best) > 0.9
    assert worse.disentanglement < 0.3
    assert worse.informativeness > 0.8  # all is still there
    assert mutual_information_gap(alone, FACTORS) > 0.5
    assert mutual_information_gap(turned, FACTORS) < 0.1


def test_noise_says_nothing_and_a_copy_leaves_no_gap():
    nothing = dci(NOISE, FACTORS, trees=15)
    assert nothing.informativeness < 0.1
    assert mutual_information_gap(NOISE, FACTORS) < 0.1
    twice = np.concatenate([FACTORS, FACTORS], axis=1)
    assert mutual_information_gap(twice, FACTORS) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="are required"):
        dci(NOISE, FACTORS[:5])
