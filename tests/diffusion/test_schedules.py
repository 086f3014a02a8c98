import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from gen_jax import diffusion as process

LINEAR_BETAS = np.linspace(1e-4, 0.02, 1000)


def cosine_betas(num_steps):
    def f(u):
        return np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2

    i = np.arange(1, num_steps + 1)
    return np.minimum(1 - f(i / num_steps) / f((i - 1) / num_steps), 0.999)


@pytest.mark.parametrize(
    ("schedule", "betas"),
    [
        (process.linear_beta(), LINEAR_BETAS),
        (process.cosine(), cosine_betas(1000)),
        (process.linear_beta(7, 0.1, 0.3), np.linspace(0.1, 0.3, 7)),
    ],
    ids=["linear", "cosine", "short"],
)
def test_tables_are_exact_at_every_step(schedule, betas):
    """Also where 1 - alpha_bar would lose all its digits in single precision."""
    alpha_bar = np.cumprod(1 - betas)
    t = (np.arange(len(betas)) + 1) / len(betas)
    alpha, sigma = jax.jit(lambda t: (schedule.alpha(t), schedule.sigma(t)))(t.astype(np.float32))
    np.testing.assert_allclose(alpha, np.sqrt(alpha_bar), rtol=2e-7)
    np.testing.assert_allclose(sigma, np.sqrt(1 - alpha_bar), rtol=2e-7)


def test_data_is_at_zero():
    schedule = process.linear_beta()
    assert float(schedule.alpha(0.0)) == 1.0
    assert float(schedule.sigma(0.0)) == 0.0


@given(t=st.floats(0, 1, width=32))
@settings(max_examples=100)
def test_variance_is_preserved_and_levels_are_monotone_everywhere(t):
    schedule = process.cosine(50)
    later = min(1.0, t + 0.01)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    assert float(alpha**2 + sigma**2) == pytest.approx(1.0, abs=1e-6)
    assert float(schedule.sigma(later)) >= float(sigma)
    assert float(schedule.alpha(later)) <= float(alpha)


def test_log_snr_has_a_derivative_on_and_off_the_grid():
    schedule = process.linear_beta()
    slope = jax.vmap(jax.grad(lambda t: process.logsnr(schedule, t)))
    t = jnp.array([0.5, 0.5004, 0.7, 0.70049])
    h = 1e-3
    difference = (process.logsnr(schedule, t + h) - process.logsnr(schedule, t - h)) / (2 * h)
    np.testing.assert_allclose(slope(t), difference, rtol=1e-2)


def test_the_derivative_is_continuous():
    """Where it leaps, an adaptive solver stops at each of a thousand entries."""
    for schedule in (process.linear_beta(50), process.cosine(50)):
        slope = jax.jit(jax.vmap(jax.grad(lambda t, s=schedule: process.logsnr(s, t))))
        grid = np.arange(2, 48) / 50
        before, after = slope(jnp.asarray(grid - 5e-5)), slope(jnp.asarray(grid + 5e-5))
        np.testing.assert_allclose(before, after, rtol=2e-2)
        fine = jnp.linspace(0.02, 1, 2000)
        assert (np.asarray(slope(fine)) < 0).all()  # monotone


@pytest.mark.parametrize("t", [1e-8, 1e-6, 5e-4])
def test_before_the_first_step_there_is_a_little_noise(t):
    schedule = process.linear_beta(1000)
    assert float(schedule.sigma(t)) == pytest.approx(t * 1000 * 1e-2, rel=1e-4)


def test_interpolation_passes_through_the_tables_continuously():
    schedule = process.linear_beta(10, 0.01, 0.2)
    grid = np.arange(1, 10) / 10
    for side in (-2e-4, 2e-4):
        np.testing.assert_allclose(
            schedule.sigma(jnp.float32(grid + side)), schedule.sigma(jnp.float32(grid)), rtol=5e-3
        )


def test_diffuse_has_the_moments_of_equation_4():
    schedule = process.cosine()
    x_0 = jnp.full((20_000, 1), 0.7)
    eps = jax.random.normal(jax.random.key(0), x_0.shape)
    t = jnp.full(20_000, 0.4)
    x_t = process.diffuse(schedule, x_0, t, eps)
    alpha, sigma = float(schedule.alpha(0.4)), float(schedule.sigma(0.4))
    assert float(x_t.mean()) == pytest.approx(0.7 * alpha, abs=4 * sigma / np.sqrt(20_000))
    assert float(x_t.std()) == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize("betas", [[0.0, 0.1], [1.0, 0.1], [1.0], [], [[0.1]], [np.nan]])
def test_impossible_betas_are_refused(betas):
    with pytest.raises(
        ValueError, match="(?s)betas: got .*a vector of numbers strictly between 0 and 1"
    ):
        process.from_betas(np.array(betas))


def test_betas_that_leave_no_signal_are_refused():
    """alpha(1) would be 0 in single precision, and every sample not a number."""
    with pytest.raises(ValueError, match=r"betas: alpha\(1\) is .* at least 1e-18 is required"):
        process.linear_beta(1000, 1e-4, 0.5)


@pytest.mark.parametrize("schedule", [process.linear_beta, process.cosine])
def test_no_steps_are_refused(schedule):
    with pytest.raises(ValueError, match="num_steps: got 0; at least 1 is required"):
        schedule(0)
