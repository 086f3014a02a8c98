"""Guidance, against a mixture of normals whose labels are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import diffusion as process
from gen_jax.ops import keys as rng
from tests.diffusion.oracles import SCHEDULES, Mixture, gaussian_denoiser, keys_of

X = rng.normal(keys_of(9, 3), (2,))
LABEL = jnp.arange(9) % 3


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
def test_the_true_classifier_makes_the_conditional_denoiser(name, t):
    """Bayes: grad log p(x | y) = grad log p(x) + grad log p(y | x)."""
    schedule = SCHEDULES[name]
    data = Mixture(schedule)
    guided = process.classifier_guidance(data.denoiser, schedule, data.label_log_prob(LABEL))
    ours, truth = guided(X, t), data.conditional(LABEL)(X, t)
    np.testing.assert_allclose(ours.eps, truth.eps, atol=2e-4)
    np.testing.assert_allclose(ours.x_0, truth.x_0, atol=2e-3)


@pytest.mark.parametrize("name", ["cosine", "flow"])
def test_classifier_free_is_guidance_by_the_implicit_classifier(name):
    """Ho & Salimans 2022: u + w (c - u) is the classifier p(x | y) / p(x) with strength w."""
    schedule = SCHEDULES[name]
    data = Mixture(schedule)

    def pair(x, t):
        return data.conditional(LABEL)(x, t), data.denoiser(x, t)

    for scale in (0.0, 1.0, 3.0):
        free = process.classifier_free(pair, scale)(X, 0.6)
        by = process.classifier_guidance(
            data.denoiser, schedule, data.label_log_prob(LABEL), scale
        )(X, 0.6)
        np.testing.assert_allclose(free.eps, by.eps, atol=3e-4)
        np.testing.assert_allclose(free.x_0, by.x_0, atol=2e-3)


def test_outside_its_interval_guidance_does_nothing():
    schedule = SCHEDULES["cosine"]
    data = Mixture(schedule)
    conditional = data.conditional(LABEL)

    def pair(x, t):
        return conditional(x, t), data.denoiser(x, t)

    free = process.classifier_free(pair, 4.0, (0.3, 0.7))
    by = process.classifier_guidance(
        data.denoiser, schedule, data.label_log_prob(LABEL), 4.0, (0.3, 0.7)
    )
    for t in (0.2, 0.8):
        np.testing.assert_allclose(free(X, t).x_0, conditional(X, t).x_0, atol=1e-6)
        np.testing.assert_allclose(by(X, t).x_0, data.denoiser(X, t).x_0, atol=1e-6)
    assert np.abs(free(X, 0.5).x_0 - conditional(X, 0.5).x_0).max() > 0.05


def test_stronger_guidance_gives_more_of_the_class_and_less_spread():
    schedule = SCHEDULES["flow"]
    data = Mixture(schedule)
    label = jnp.zeros(3000, jnp.int32)
    wrong, spread = [], []
    for scale in (0.0, 1.0, 3.0):

        def pair(x, t):
            return data.conditional(label)(x, t), data.denoiser(x, t)

        guided = process.classifier_free(pair, scale)
        x = process.sample(
            guided, schedule, process.heun(), process.uniform_times(30), (2,), keys_of(3000)
        )
        wrong.append(1 - float(jnp.mean(jnp.exp(data.label_log_prob(label)(x, 0.0)))))
        spread.append(float(jnp.std(x, axis=0).mean()))
    assert wrong[0] == pytest.approx(2 / 3, abs=0.05)
    assert wrong[0] > wrong[1] > wrong[2]
    assert spread[1] == pytest.approx(Mixture.std, rel=0.05)
    assert spread[2] < spread[1]


def test_thresholding_bounds_x_0_and_keeps_eps_in_agreement():
    schedule = SCHEDULES["cosine"]
    x = rng.normal(keys_of(4), (50,)) * 3
    t = 0.5
    denoise = process.denoiser(lambda x, t: -x, schedule, process.epsilon)
    raw = np.asarray(denoise(x, t).x_0)
    made = process.dynamic_threshold(denoise, schedule, 0.9)(x, t)
    s = np.maximum(np.quantile(np.abs(raw), 0.9, axis=1), 1.0)[:, None]
    np.testing.assert_allclose(made.x_0, np.clip(raw, -s, s) / s, rtol=1e-5, atol=1e-6)
    again = schedule.alpha(t) * made.x_0 + schedule.sigma(t) * made.eps
    np.testing.assert_allclose(again, x, atol=1e-5)
    small = process.denoiser(lambda x, t: 0.01 * x, schedule, process.x_0)
    kept = process.dynamic_threshold(small, schedule, 0.9)(x / 10, t)
    np.testing.assert_allclose(kept.x_0, 0.001 * x, atol=1e-6)


def test_strengths_are_traced():
    schedule = SCHEDULES["cosine"]
    data = Mixture(schedule)
    count = 0

    @jax.jit
    def run(keys, scale, low, quantile, eta, churn):
        nonlocal count
        count += 1

        def pair(x, t):
            label = jnp.zeros(4, jnp.int32)
            return data.conditional(label)(x, t), data.denoiser(x, t)

        guided = process.classifier_free(pair, scale, (low, 1.0))
        guided = process.dynamic_threshold(guided, schedule, quantile, 2.0)
        times = process.uniform_times(6, 1000)
        solver = process.churned(process.euler_ancestral(eta), churn, 6)
        return process.sample(guided, schedule, solver, times, (2,), keys)

    first = run(keys_of(4), 1.0, 0.0, 1.0, 0.0, 0.0)
    for change in ((2.0, 0.1, 0.9, 0.5, 1.0), (7.5, 0.0, 0.5, 1.0, 2.0)):
        assert np.abs(run(keys_of(4), *change) - first).max() > 1e-3
    assert count == 1


def test_a_learned_variance_is_the_condition_s_own():
    def pair(x, t):
        conditional = process.Prediction(x, x, variance=jnp.ones_like(x))
        return conditional, process.Prediction(0 * x, 0 * x, variance=0 * x)

    made = process.classifier_free(pair, 2.0)(X, 0.5)
    np.testing.assert_array_equal(made.variance, jnp.ones_like(X))
    np.testing.assert_allclose(made.x_0, 2 * X)


def test_guidance_of_one_dimension_is_what_arithmetic_says():
    """Two normals of equal width: guided data is a normal whose mean moves with the scale."""
    schedule = SCHEDULES["flow"]
    one, both = gaussian_denoiser(schedule, 1.0, 1.0), gaussian_denoiser(schedule, 0.0, 1.0)
    guided = process.classifier_free(lambda x, t: (one(x, t), both(x, t)), 2.5)
    truth = gaussian_denoiser(schedule, 2.5, 1.0)
    x = jnp.linspace(-2, 2, 7)
    for t in (0.2, 0.9):
        np.testing.assert_allclose(guided(x, t).x_0, truth(x, t).x_0, atol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "flow"])
@pytest.mark.parametrize("t", [0.1, 0.6, 0.95])
def test_a_judge_of_clean_x_is_exact_where_it_is_linear(name, t):
    """N(m, s^2) times exp(b x) is N(m + b s^2, s^2); scale 2 is twice the b."""
    schedule, b = SCHEDULES[name], 1.5
    plain = gaussian_denoiser(schedule)
    log_prob = process.through_x_0(plain, lambda x_0: b * jnp.sum(x_0, axis=1))
    for scale in (1.0, 2.0):
        guided = process.classifier_guidance(plain, schedule, log_prob, scale)(X, t)
        truth = gaussian_denoiser(schedule, mean=2.0 + scale * b * 0.25)(X, t)
        np.testing.assert_allclose(guided.x_0, truth.x_0, atol=1e-3)
        np.testing.assert_allclose(guided.eps, truth.eps, atol=1e-4)
