import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import diffusion as process
from gen_jax.diffusion import time_sampling

KINDS = {
    "eps": process.epsilon,
    "x_0": process.x_0,
    "v": process.v,
    "velocity": process.velocity,
    "edm": process.edm(0.7),
}
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
    shown = KINDS[kind].show(alpha * X_0 + sigma * EPS, t, alpha, sigma)
    np.testing.assert_allclose(seen["x"], shown[0], atol=1e-6)
    np.testing.assert_allclose(seen["t"], shown[1], atol=1e-6)


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
        (lambda: process.discrete(0), "num_steps: got 0; at least 1"),
        (lambda: process.continuous(0.0), "t_min: got 0.0; a number in"),
        (lambda: process.ddim(1.5), r"eta: got 1.5; a number in \[0, 1\] is required"),
        (
            lambda: process.ddpm.__wrapped__("small"),
            "variance: got 'small'; 'beta', 'beta_tilde', 'fixed_large', 'learned' is required",
        ),
        (lambda: process.uniform_times(0), "num_steps: got 0; at least 1"),
        (lambda: process.uniform_times(11, 10), "num_steps: got 11; at most"),
        (lambda: process.leading_times(11, 10), "num_steps: got 11; at most"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    from jaxtyping import TypeCheckError

    with pytest.raises((ValueError, TypeCheckError)) as error:
        make()
    if error.type is ValueError:
        assert error.match(message)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_of_the_error_of_eps_whatever_is_predicted(kind):
    t = jnp.array([0.01, 0.3, 0.5, 0.7, 0.9])
    alpha, sigma = SCHEDULE.alpha(t)[:, None], SCHEDULE.sigma(t)[:, None]
    x_t = process.diffuse(SCHEDULE, X_0, t, EPS)
    output = jax.random.normal(jax.random.key(7), X_0.shape)
    read = KINDS[kind].read(output, x_t, alpha, sigma)
    in_eps = jnp.mean((read.eps - EPS) ** 2, axis=1)
    in_x_0 = jnp.mean((read.x_0 - X_0) ** 2, axis=1)
    snr = jnp.square(alpha / sigma)[:, 0]

    def loss(weighting):
        return process.denoising_loss(
            lambda x, t: output, SCHEDULE, KINDS[kind], X_0, t, EPS, weighting
        )

    np.testing.assert_allclose(loss(process.simple()), in_eps, rtol=2e-3)
    # Hang et al. 2023: min(SNR, 5) of the error of x_0; Choi et al. 2022: of eps.
    np.testing.assert_allclose(loss(process.min_snr()), jnp.minimum(snr, 5) * in_x_0, rtol=2e-3)
    np.testing.assert_allclose(loss(process.p2(0.5, 1.0)), (1 + snr) ** -0.5 * in_eps, rtol=2e-3)


def test_edm_is_the_table_of_its_paper():
    """Karras et al. 2022, Table 1, in its own variables: alpha = 1."""
    d, sigma, one = 0.5, jnp.float32(1.7), jnp.float32(1.0)
    edm = process.edm(d)
    x = X_0 + sigma * EPS
    shown, level = edm.show(x, jnp.full(5, 0.3), one, jnp.full((5, 1), sigma))
    np.testing.assert_allclose(shown, x / np.sqrt(1.7**2 + d**2), rtol=1e-6)
    np.testing.assert_allclose(level, np.log(1.7) / 4, rtol=1e-5)
    output = jnp.sin(X_0)
    c_skip = d**2 / (1.7**2 + d**2)
    c_out = 1.7 * d / np.sqrt(1.7**2 + d**2)
    read = edm.read(output, x, one, sigma)
    np.testing.assert_allclose(read.x_0, c_skip * x + c_out * output, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        edm.target(X_0, EPS, one, sigma), (X_0 - c_skip * x) / c_out, rtol=1e-4, atol=1e-5
    )
    # On unit data and a variance-preserving schedule it is v, but for the sign.
    angle = jnp.float32(0.8)
    a, b = (
        p.target(X_0, EPS, jnp.cos(angle), jnp.sin(angle)) for p in (process.edm(1.0), process.v)
    )
    np.testing.assert_allclose(a, -b, atol=1e-6)


def test_targets_of_edm_have_unit_variance():
    eps = jax.random.normal(jax.random.key(1), (100_000,))
    x_0 = 0.5 * jax.random.normal(jax.random.key(2), (100_000,))
    for sigma in (0.01, 0.5, 30.0):
        target = process.edm(0.5).target(x_0, eps, jnp.float32(1.0), jnp.float32(sigma))
        assert float(target.std()) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("kind", ["velocity", "edm", "v"])
def test_both_ends_of_a_rectified_flow_can_be_read(kind):
    for alpha, sigma in ((0.0, 1.0), (1.0, 0.0)):
        a, s = jnp.float32(alpha), jnp.float32(sigma)
        x_t = a * X_0 + s * EPS
        _, level = KINDS[kind].show(x_t, jnp.ones(5), a, jnp.full((5, 1), s))
        read = KINDS[kind].read(KINDS[kind].target(X_0, EPS, a, s), x_t, a, s)
        np.testing.assert_allclose(read.eps if alpha == 0 else read.x_0, x_t, atol=1e-5)
        assert np.isfinite(level).all()
        assert np.isfinite(read.x_0).all()


def keys_of(num):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(0), jnp.arange(num))


def test_times_have_their_distributions():
    t = np.asarray(process.logit_normal(-0.5, 0.8)(keys_of(20_000)))
    logit = np.log(t / (1 - t))
    assert logit.mean() == pytest.approx(-0.5, abs=0.03)
    assert logit.std() == pytest.approx(0.8, abs=0.03)
    for schedule in (process.variance_exploding(80.0), process.rectified_flow()):
        t = process.log_normal_noise(schedule, -1.2, 1.2)(keys_of(20_000))
        noise = np.log(np.asarray(schedule.sigma(t) / schedule.alpha(t)))
        assert noise.mean() == pytest.approx(-1.2, abs=0.04)
        assert noise.std() == pytest.approx(1.2, abs=0.04)


@pytest.mark.parametrize("num", [8, 7])
def test_antithetic_times_are_mirrored_pairs(num):
    discrete = process.antithetic(process.discrete(10), 10)(keys_of(num))
    index = np.round(np.asarray(discrete) * 10)
    np.testing.assert_array_equal(index[0:6:2] + index[1:6:2], 11)
    assert len(discrete) == num
    t = np.asarray(process.antithetic(process.logit_normal())(keys_of(num)))
    np.testing.assert_allclose(t[0:6:2] + t[1:6:2], 1, atol=1e-6)
    for size in (100, 400, 1000):  # but for one rounding: 1 + 1/T - t is further off the table
        draw = jax.jit(process.antithetic(process.discrete(size), size))
        times = np.asarray(draw(keys_of(1001 - num)), np.float64)
        np.testing.assert_allclose(times, np.round(times * size) / size, rtol=2e-7)


class TestImportance:
    losses = jnp.array([8.0, 4.0, 2.0, 1.0])

    def history(self, seen=10.0):
        return time_sampling.LossHistory(self.losses**2, jnp.full(4, seen))

    def test_times_are_drawn_by_their_losses_and_weighed_back(self):
        t, weight = time_sampling.importance(self.history(), keys_of(20_000))
        index = np.round(np.asarray(t) * 4).astype(int) - 1
        share = np.bincount(index, minlength=4) / 20_000
        np.testing.assert_allclose(share, np.array([8, 4, 2, 1]) / 15, atol=0.015)
        estimate = np.asarray(self.losses)[index] * np.asarray(weight)
        assert estimate.mean() == pytest.approx(15 / 4, rel=0.01)
        # All that is left of the noise is the uniform share: this is what the method is for.
        assert estimate.std() < 0.05 * 15 / 4

    def test_uniform_until_all_have_been_seen(self):
        history = self.history()._replace(seen=jnp.array([10.0, 10.0, 9.0, 50.0]))
        t, weight = time_sampling.importance(history, keys_of(4000))
        np.testing.assert_array_equal(weight, 1.0)
        counts = np.bincount(np.round(np.asarray(t) * 4).astype(int), minlength=5)[1:]
        np.testing.assert_allclose(counts, 1000, atol=120)

    def test_the_history_is_the_mean_square_of_the_last_ten(self):
        history = time_sampling.init_history(4)
        t = jnp.array([0.25, 0.25, 0.5, 1.0])
        losses = jnp.array([1.0, 3.0, 2.0, 5.0])
        observed = time_sampling.observe_history(t, losses, 4)
        history = time_sampling.update_history(history, observed, 4)
        np.testing.assert_allclose(history.second_moment, [5, 4, 0, 25])
        np.testing.assert_allclose(history.seen, [2, 1, 0, 1])
        for _ in range(60):
            observed = time_sampling.observe_history(t, 2 * losses, 4)
            history = time_sampling.update_history(history, observed, 4)
        np.testing.assert_allclose(history.second_moment, [20, 16, 0, 100], rtol=0.02)
