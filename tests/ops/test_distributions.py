import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st

from gen_jax.ops import distributions as dist, keys as rng, likelihoods

LEVELS = np.linspace(-1, 1, 256, dtype=np.float32)
means = st.floats(-1.5, 1.5, width=32, allow_subnormal=False)
scales = st.floats(-7, 2, width=32, allow_subnormal=False)


def test_normal_is_scipy_s():
    x = jnp.linspace(-3, 3, 7)
    expected = scipy.stats.norm(0.5, np.exp(0.3)).logpdf(x)
    np.testing.assert_allclose(dist.normal_log_prob(x, 0.5, 0.3), expected, rtol=1e-5)


def test_bernoulli_is_scipy_s_and_survives_large_logits():
    logits = jnp.array([-200.0, -1.0, 0.0, 3.0, 200.0])
    for x in (0.0, 1.0):
        nats = dist.bernoulli_log_prob(jnp.full(5, x), logits)
        expected = np.where(x == 1, -np.logaddexp(0, -logits), -np.logaddexp(0, logits))
        np.testing.assert_allclose(nats, expected, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize(("prior_mean", "prior_log_variance"), [(0.0, 0.0), (0.7, -0.5)])
def test_kl_of_normals_is_what_monte_carlo_finds(prior_mean, prior_log_variance):
    mean, log_variance = jnp.array([0.3, -1.2, 0.0]), jnp.array([-1.0, 0.4, 0.0])
    noise = jax.random.normal(jax.random.key(0), (200_000, 3))
    z = mean[None] + jnp.exp(0.5 * log_variance)[None] * noise
    log_q = dist.normal_log_prob(z, mean[None], 0.5 * log_variance[None])
    log_p = dist.normal_log_prob(z, prior_mean, 0.5 * prior_log_variance)
    draws = np.asarray(log_q - log_p, np.float64)
    kl = dist.kl_normal(mean, log_variance, prior_mean, prior_log_variance)
    error = draws.std(axis=0) / np.sqrt(len(draws))
    assert np.all(np.abs(draws.mean(axis=0) - kl) < 4 * error + 1e-6)


def test_kl_is_zero_at_the_prior_and_keeps_its_digits_near_it():
    assert float(dist.kl_normal(jnp.zeros(()), jnp.zeros(()))) == 0.0
    # (expm1(d) - d) / 2 ~ d^2 / 4: naively nothing but rounding would be left.
    np.testing.assert_allclose(dist.kl_normal(jnp.zeros(()), jnp.float32(1e-2)), 2.5e-5, rtol=1e-2)


def test_kl_of_bernoullis():
    p, q = 0.05, jnp.array([0.05, 0.5, 0.9])
    expected = [scipy.stats.entropy([p, 1 - p], [x, 1 - x]) for x in np.asarray(q, np.float64)]
    np.testing.assert_allclose(dist.kl_bernoulli(p, q), expected, rtol=1e-4, atol=1e-7)


@given(mean=means, log_scale=scales)
@settings(max_examples=60)
def test_a_discretized_logistic_sums_to_one(mean, log_scale):
    nats = dist.discretized_logistic_log_prob(
        jnp.array(LEVELS), jnp.float32(mean), jnp.float32(log_scale)
    )
    assert bool(jnp.all(jnp.isfinite(nats)))
    assert float(jnp.sum(jnp.exp(nats))) == pytest.approx(1, abs=2e-4)


def test_a_discretized_logistic_is_scipy_s():
    law = scipy.stats.logistic(0.1, np.exp(-2.0))
    edges = (LEVELS[:-1] + LEVELS[1:]).astype(np.float64) / 2
    expected = np.diff(np.concatenate([[0.0], law.cdf(edges), [1.0]]))
    nats = dist.discretized_logistic_log_prob(jnp.array(LEVELS), jnp.float32(0.1), jnp.float32(-2))
    np.testing.assert_allclose(np.exp(nats), expected, rtol=2e-3)


def test_gradients_of_a_discretized_logistic_are_finite_far_away():
    grad = jax.grad(dist.discretized_logistic_log_prob, argnums=(1, 2))
    for x, mean, log_scale in itertools.product(
        (-1.0, 0.0, 1.0), (-3.0, 3.0), (-200.0, -7.0, 0.0, 90.0)
    ):
        assert np.all(np.isfinite(grad(jnp.float32(x), jnp.float32(mean), jnp.float32(log_scale))))


def test_a_mixture_over_gray_levels_sums_to_one():
    outputs = jax.random.normal(jax.random.key(0), (dist.logistic_mixture_outputs(1, 5),))
    nats = dist.logistic_mixture_log_prob(
        jnp.array(LEVELS)[:, None], jnp.broadcast_to(outputs, (256, len(outputs)))
    )
    assert float(jnp.sum(jnp.exp(nats))) == pytest.approx(1, abs=1e-4)


def test_each_channel_of_a_mixture_sums_to_one_given_those_before():
    """The joint over (r, g, b), summed over b, and then over g, is that of fewer channels."""
    size = dist.logistic_mixture_outputs(3, 4)
    outputs = 0.5 * jax.random.normal(jax.random.key(1), (size,))
    some = LEVELS[::51]
    pixels = jnp.array([[r, g, b] for r in some for g in some for b in LEVELS])
    wide = jnp.broadcast_to(outputs, (len(pixels), size))
    joint = jnp.exp(dist.logistic_mixture_log_prob(pixels, wide)).reshape(6, 6, 256).sum(axis=2)
    # The mixture of two channels has the same table without the last channel's rows.
    rows = outputs.reshape(10, 4)
    two = jnp.concatenate([rows[:1], rows[1:3], rows[4:6], rows[7:8]]).ravel()
    pairs = jnp.array([[r, g] for r in some for g in some])
    expected = dist.logistic_mixture_log_prob(pairs, jnp.broadcast_to(two, (36, 24)))
    np.testing.assert_allclose(joint.ravel(), np.exp(expected), rtol=1e-3)


def test_one_component_is_a_logistic_and_draws_follow_it():
    outputs = jnp.array([0.0, 0.2, -2.0])  # one logit, one mean, one log-scale
    nats = dist.logistic_mixture_log_prob(
        jnp.array(LEVELS)[:, None], jnp.broadcast_to(outputs, (256, 3))
    )
    expected = dist.discretized_logistic_log_prob(
        jnp.array(LEVELS), jnp.float32(0.2), jnp.float32(-2)
    )
    np.testing.assert_allclose(nats, expected, rtol=1e-5, atol=1e-6)
    keys = rng.per_example(jax.random.key(0), 0, 4)
    draws = dist.sample_logistic_mixture(keys, jnp.broadcast_to(outputs, (4, 5000, 3)), 1)
    mean = np.sum(np.exp(np.asarray(nats, np.float64)) * LEVELS)
    assert float(draws.mean()) == pytest.approx(mean, abs=0.01)


def test_a_channel_s_mean_follows_the_channels_before_it():
    size = dist.logistic_mixture_outputs(3, 1)
    table = np.zeros((10, 1), np.float32)
    table[1, 0], table[4:7] = 0.5, -7.0  # red at 1/2, all sharp
    table[7, 0], table[8, 0], table[9, 0] = 10.0, 0.0, -10.0  # g = r, b = -g
    keys = rng.per_example(jax.random.key(0), 0, 1)
    outputs = jnp.array(table.reshape(1, 1, size))
    np.testing.assert_allclose(
        dist.sample_logistic_mixture(keys, outputs, 3)[0, 0], [0.5, 0.5, -0.5], atol=0.03
    )
    np.testing.assert_allclose(dist.logistic_mixture_mean(outputs[0], 3)[0], [0.5, 0.5, -0.5])


def test_wrong_numbers_of_outputs_are_refused():
    with pytest.raises(ValueError, match="got 4; a multiple of 3 is required for 1 channels"):
        dist.logistic_mixture_mean(jnp.zeros((2, 4)), 1)


LIKELIHOODS = {
    "bernoulli": likelihoods.bernoulli(),
    "gaussian": likelihoods.gaussian(initial_log_sigma=-1.0),
    "discretized_logistic": likelihoods.discretized_logistic(),
    "logistic_mixture": likelihoods.logistic_mixture(1, 3),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_draws_have_the_mean_that_is_stated(name):
    likelihood = LIKELIHOODS[name]
    outputs = 0.3 * jax.random.normal(jax.random.key(2), (1, 2, 2, likelihood.num_outputs(1)))
    if name == "discretized_logistic":  # sharp, or clipping at the edges would move the mean
        outputs = outputs + jnp.array([0.0, -3.0]).reshape(1, 1, 1, 2)
    if name == "logistic_mixture":
        outputs = outputs - jnp.repeat(jnp.array([0.0, 0.0, 3.0]), 3).reshape(1, 1, 1, 9)
    outputs = jnp.tile(outputs, (4000, 1, 1, 1))
    keys = rng.per_example(jax.random.key(3), 0, 4000)
    draws = likelihood.sample(outputs, likelihood.initial_log_sigma, keys)
    assert draws.shape == (4000, 2, 2, 1)
    np.testing.assert_allclose(draws.mean(axis=0), likelihood.mean(outputs)[0], atol=0.04)
    nats = likelihood.log_prob(outputs, draws, likelihood.initial_log_sigma)
    assert nats.shape == (4000,)


def test_several_outputs_for_one_x_broadcast():
    x = jnp.zeros((2, 1, 4, 4, 1))
    for likelihood in LIKELIHOODS.values():
        outputs = jnp.zeros((2, 5, 4, 4, likelihood.num_outputs(1)))
        assert likelihood.log_prob(outputs, x, 0.0).shape == (2, 5)


@pytest.mark.parametrize(("mean", "log_scale"), [(0.0, 0.0), (1.5, -1.0), (-0.7, 0.5)])
def test_a_logit_laplace_is_scipy_s_and_integrates_to_one(mean, log_scale):
    x = np.linspace(1e-5, 1 - 1e-5, 200_001)
    nats = dist.logit_laplace_log_prob(jnp.float32(x), jnp.float32(mean), jnp.float32(log_scale))
    logit = np.log(x) - np.log1p(-x)
    expected = scipy.stats.laplace.logpdf(logit, mean, np.exp(log_scale)) - np.log(x * (1 - x))
    np.testing.assert_allclose(nats[200:-200], expected[200:-200], atol=1e-3)
    total = np.trapezoid(np.exp(np.float64(nats)), x)
    assert total == pytest.approx(1.0, abs=0.01)


def test_a_logit_laplace_decoder_s_mean_is_its_median():
    likelihood = likelihoods.logit_laplace()
    outputs = jnp.broadcast_to(jnp.array([0.8, -0.5]), (4000, 1, 1, 2))
    keys = rng.per_example(jax.random.key(0), 0, 4000)
    draws = likelihood.sample(outputs, 0.0, keys)
    assert float(jnp.median(draws)) == pytest.approx(
        float(likelihood.mean(outputs)[0, 0, 0, 0]), abs=0.01
    )
    nats = likelihood.log_prob(outputs, draws, 0.0)
    expected = dist.logit_laplace_log_prob(draws, jnp.float32(0.8), jnp.float32(-0.5))
    np.testing.assert_allclose(nats, expected[:, 0, 0, 0], rtol=1e-5)
