import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import diffusion as process

KINDS = {"eps": process.epsilon, "x_0": process.x_0, "v": process.v}
SCHEDULE = process.linear_beta()
KEYS = jax.random.split(jax.random.key(0), 2)
X_0 = jax.random.normal(KEYS[0], (5, 3))
EPS = jax.random.normal(KEYS[1], (5, 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [0.001, 0.3, 0.8])
def test_reading_the_target_gives_the_truth(kind, t):
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    x_t = process.diffuse(SCHEDULE, X_0, t, EPS)
    prediction = KINDS[kind].read(KINDS[kind].target(X_0, EPS, alpha, sigma), x_t, alpha, sigma)
    # Reading divides by sigma or alpha, which amplifies rounding by as much.
    tolerance = 3e-6 / float(min(alpha, sigma))
    np.testing.assert_allclose(prediction.x_0, X_0, atol=tolerance)
    np.testing.assert_allclose(prediction.eps, EPS, atol=tolerance)


@pytest.mark.parametrize(("a", "b"), list(itertools.permutations(KINDS, 2)))
def test_every_pair_converts_there_and_back(a, b):
    t = 0.4
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    x_t = process.diffuse(SCHEDULE, X_0, t, EPS)
    output = jax.random.normal(jax.random.key(7), X_0.shape)  # any output, not a consistent one
    there = KINDS[a].read(output, x_t, alpha, sigma)
    as_b = KINDS[b].target(there.x_0, there.eps, alpha, sigma)
    back = KINDS[b].read(as_b, x_t, alpha, sigma)
    np.testing.assert_allclose(KINDS[a].target(back.x_0, back.eps, alpha, sigma), output, atol=1e-5)


def test_v_reads_schedules_that_do_not_preserve_variance():
    alpha, sigma = jnp.float32(1.0), jnp.float32(3.0)
    x_t = alpha * X_0 + sigma * EPS
    prediction = process.v.read(process.v.target(X_0, EPS, alpha, sigma), x_t, alpha, sigma)
    np.testing.assert_allclose(prediction.x_0, X_0, atol=1e-5)
    np.testing.assert_allclose(prediction.eps, EPS, atol=1e-5)


def test_a_denoiser_takes_one_time_or_one_for_each_example():
    seen = []

    def network(x, t):
        seen.append(t.shape)
        return x * t[:, None]

    denoise = process.denoiser(network, SCHEDULE, process.epsilon)
    np.testing.assert_array_equal(denoise(X_0, 0.5).x_0, denoise(X_0, jnp.full(5, 0.5)).x_0)
    assert seen == [(5,), (5,)]


def test_clipping_keeps_x_0_in_range_and_eps_in_agreement():
    denoise = process.denoiser(lambda x, t: -3 * x, SCHEDULE, process.epsilon)
    t = jnp.float32(0.6)
    prediction = process.clip_x_0(denoise, SCHEDULE)(X_0, t)
    assert float(jnp.abs(prediction.x_0).max()) == 1.0
    x_t = SCHEDULE.alpha(t) * prediction.x_0 + SCHEDULE.sigma(t) * prediction.eps
    np.testing.assert_allclose(x_t, X_0, atol=1e-5)


def test_clipping_leaves_what_is_in_range():
    denoise = process.denoiser(lambda x, t: 0.01 * x, SCHEDULE, process.x_0)
    t = jnp.float32(0.6)
    before, after = denoise(X_0, t), process.clip_x_0(denoise, SCHEDULE)(X_0, t)
    np.testing.assert_array_equal(before.x_0, after.x_0)
    np.testing.assert_allclose(before.eps, after.eps, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_mean_squared_distance_from_the_target(kind):
    t = jnp.array([0.1, 0.3, 0.5, 0.7, 0.9])
    alpha, sigma = SCHEDULE.alpha(t)[:, None], SCHEDULE.sigma(t)[:, None]
    target = KINDS[kind].target(X_0, EPS, alpha, sigma)
    offset = jnp.array([0.0, 1.0, 2.0, 3.0, 4.0])[:, None]
    seen = {}

    def network(x, times):
        seen["x"], seen["t"] = x, times
        return target + offset

    loss = process.denoising_loss(network, SCHEDULE, KINDS[kind], X_0, t, EPS)
    np.testing.assert_allclose(loss, [0, 1, 4, 9, 16], atol=1e-5)
    np.testing.assert_allclose(seen["x"], alpha * X_0 + sigma * EPS, atol=1e-6)
    np.testing.assert_array_equal(seen["t"], t)


def test_discrete_times_are_uniform_on_the_grid():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(20_000))
    index = np.asarray(process.discrete(10)(keys)) * 10
    np.testing.assert_allclose(index, np.round(index), atol=1e-5)
    counts = np.bincount(np.round(index).astype(int), minlength=11)
    assert counts[0] == 0
    np.testing.assert_allclose(counts[1:], 2000, atol=5 * np.sqrt(2000))


def test_continuous_times_stay_off_zero():
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(10_000))
    t = np.asarray(process.continuous(0.1)(keys))
    assert t.min() >= 0.1
    assert t.max() < 1
    assert t.mean() == pytest.approx(0.55, abs=0.01)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: process.discrete(0), "num_steps: at least 1"),
        (lambda: process.continuous(0.0), "t_min: a number in"),
        (lambda: process.ddim(1.5), r"eta: a number in \[0, 1\] is needed, got 1.5"),
        (
            lambda: process.ddpm.__wrapped__("small"),
            "variance: 'beta' or 'beta_tilde' is needed, got 'small'",
        ),
        (lambda: process.uniform_times(0), "num_steps: at least 1"),
        (lambda: process.uniform_times(11, 10), "num_steps: at most the 10 steps"),
        (lambda: process.leading_times(11, 10), "num_steps: at most the 10 steps"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    from jaxtyping import TypeCheckError

    with pytest.raises((ValueError, TypeCheckError)) as error:
        make()
    if error.type is ValueError:
        assert error.match(message)
