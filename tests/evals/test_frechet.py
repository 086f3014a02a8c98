import tracemalloc

import jax
import numpy as np
import pytest
import scipy.linalg

from gen_jax.evals.frechet import (
    Gaussian,
    bytes_of_distance,
    fit_gaussian,
    frechet_between,
    frechet_distance,
    raw_pixels,
)
from gen_jax.evals.losses import mean_losses
from gen_jax.protocols import Weights
from tests.train.toy import toy

RNG = np.random.default_rng(0)


def random_gaussian(dim, rank=None):
    root = RNG.normal(size=(dim, rank or dim))
    return Gaussian(RNG.normal(size=dim), root @ root.T)


@pytest.mark.parametrize("dim", [1, 3, 20])
def test_against_scipy_s_matrix_root(dim):
    a, b = random_gaussian(dim), random_gaussian(dim)
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)


def test_it_is_a_squared_distance():
    a, b = random_gaussian(6), random_gaussian(6)
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    shifted = a._replace(mean=a.mean + 2.0)
    assert frechet_distance(a, shifted) == pytest.approx(24.0)
    wider = Gaussian(a.mean, 4 * a.covariance)  # deviations double: tr (2 - 1)^2 C
    assert frechet_distance(a, wider) == pytest.approx(np.trace(a.covariance))


def test_singular_covariances_are_no_trouble():
    """Border pixels never vary."""
    a, b = random_gaussian(10, rank=3), random_gaussian(10, rank=2)
    assert np.isfinite(frechet_distance(a, b))
    assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-6)


def test_fitting_finds_mean_and_covariance():
    truth = random_gaussian(3)
    x = RNG.multivariate_normal(truth.mean, truth.covariance, 100_000)
    fitted = fit_gaussian(x)
    np.testing.assert_allclose(fitted.mean, truth.mean, atol=0.05)
    np.testing.assert_allclose(fitted.covariance, truth.covariance, atol=0.2)
    with pytest.raises(ValueError, match="got 1; at least 2 examples are required"):
        fit_gaussian(x[:1])


def test_pixels_are_flattened_to_the_unit_interval():
    features = raw_pixels(np.array([[[[0], [255]]], [[[51], [102]]]], np.uint8))
    np.testing.assert_allclose(features, [[0, 1], [0.2, 0.4]])


def test_losses_are_means_over_examples_not_over_batches():
    """Of 10 examples in batches of 8, six rows are padding; here the toy gets weights."""
    model = toy(noise=0.0)
    inner = model.losses["disc"].fn

    def weighted(weights, batch, keys, context):
        each = jax.vmap(lambda x: inner(weights, {"x": x[None]}, keys[:1], context)[0])(batch["x"])
        return (each * batch["weight"]).mean(), None

    model = model._replace(losses={"disc": model.losses["disc"]._replace(fn=weighted)})
    x = RNG.normal(size=(10, 3)).astype(np.float32)
    weights = Weights(*toy().init(jax.random.key(0), {"x": x}, {}))
    padded = np.concatenate([x, np.full((6, 3), 1e3, np.float32)])
    weight = (np.arange(16) < 10).astype(np.float32)
    batches = [{"x": padded[i : i + 8], "weight": weight[i : i + 8]} for i in (0, 8)]
    key = jax.random.key(0)
    value = mean_losses(model, weights, batches, key, draws=2)["disc"]
    single = [{"x": x[i : i + 1], "weight": np.ones(1, np.float32)} for i in range(10)]
    each = [mean_losses(model, weights, [b], key)["disc"] for b in single]
    assert value == pytest.approx(np.mean(each), rel=1e-5)


def test_features_in_single_precision_keep_their_mean():
    features = np.full((200_000, 2), 0.1, np.float32)
    features[1] += np.float32(1e-3)
    fitted = fit_gaussian(features)
    assert fitted.mean.dtype == np.float64
    np.testing.assert_allclose(fitted.mean, features.astype(np.float64).mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize(("num", "other", "dim"), [(5, 9, 30), (9, 5, 8), (40, 50, 7)])
def test_in_the_span_of_the_examples_it_is_the_same(num, other, dim):
    random = np.random.default_rng(num)
    a = random.integers(0, 256, (num, dim), np.uint8)
    b = random.integers(0, 200, (other, dim), np.uint8)
    expected = frechet_distance(fit_gaussian(raw_pixels(a)), fit_gaussian(raw_pixels(b)))
    for chunk in (4, 4096):
        assert frechet_between(a, b, chunk) / 255**2 == pytest.approx(expected, rel=1e-6)
    assert frechet_between(a, a) == pytest.approx(0, abs=1e-6)


def test_many_dimensions_need_no_matrix_of_them(monkeypatch):
    """At 256 x 256 x 3 a covariance would take 288 GiB."""
    monkeypatch.setattr("gen_jax.evals.frechet.fit_gaussian", None)
    a, b = (np.random.default_rng(x).integers(0, 256, (4, 3 * 256**2), np.uint8) for x in (0, 1))
    assert frechet_between(a, b) > 0


@pytest.mark.parametrize(("num", "other", "dim"), [(3000, 200, 5000), (3000, 2500, 300)])
def test_the_memory_of_a_distance_is_known_before(num, other, dim):
    """Within a factor of two of what NumPy takes at its peak."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(0, 256, (n, dim), np.uint8) for n in (num, other))
    tracemalloc.start()
    frechet_between(a, b)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak / 2 < bytes_of_distance(num, other, dim) < 2 * peak
