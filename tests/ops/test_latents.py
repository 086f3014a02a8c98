import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gen_jax.ops import latents

A, B = jnp.array([3.0, 0.0]), jnp.array([0.0, 1.0])
THIRDS = jnp.array([0.0, 1 / 3, 2 / 3, 1.0])


@pytest.mark.parametrize("go", [latents.lerp, latents.slerp])
def test_both_ends_are_reached(go):
    points = go(A, B, THIRDS)
    np.testing.assert_allclose(points[0], A, atol=1e-6)
    np.testing.assert_allclose(points[-1], B, atol=1e-6)


def test_a_great_circle_turns_evenly_and_keeps_norms_between():
    points = latents.slerp(A, B, THIRDS)
    angles = jnp.arctan2(points[:, 1], points[:, 0])
    np.testing.assert_allclose(angles, np.linspace(0, np.pi / 2, 4), atol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(points, axis=1), [3, 7 / 3, 5 / 3, 1], rtol=1e-6)


def test_where_no_circle_is_defined_the_line_is_taken():
    for a, b in ((A, 2 * A), (A, -A), (A, 0 * A)):
        points = latents.slerp(a, b, THIRDS)
        np.testing.assert_allclose(points, latents.lerp(a, b, THIRDS), atol=1e-6)


def test_the_smallest_vectors_turn_too():
    tiny = latents.slerp(1e-7 * A, 1e-7 * B, jnp.array([0.5]))
    np.testing.assert_allclose(jnp.linalg.norm(tiny), 2e-7, rtol=1e-4)


def test_codes_on_a_circle_keep_the_prior_s_norm():
    a, b = jax.random.normal(jax.random.key(0), (2, 16, 16, 4))
    middle = jnp.array([0.5])
    norm = jnp.linalg.norm(a.ravel())
    assert float(jnp.linalg.norm(latents.slerp(a, b, middle).ravel())) == pytest.approx(
        float(norm), rel=0.05
    )
    assert float(jnp.linalg.norm(latents.lerp(a, b, middle).ravel())) < 0.8 * norm


def test_class_means():
    z = jnp.array([[1.0, 2.0], [3.0, 4.0], [10.0, 0.0]])
    means = latents.class_means(z, jnp.array([0, 0, 2]), 3)
    np.testing.assert_allclose(means[0], [2, 3])
    np.testing.assert_allclose(means[2], [10, 0])
    assert np.all(np.isnan(means[1]))


def test_a_grid_has_equal_prior_probability():
    grid = latents.normal_grid(5).reshape(5, 5, 2)
    np.testing.assert_allclose(
        scipy.stats.norm.cdf(grid[0, :, 0]), [0.1, 0.3, 0.5, 0.7, 0.9], atol=1e-5
    )
    np.testing.assert_allclose(grid[:, 0, 1], -grid[0, :, 0], atol=1e-6)  # upward
    np.testing.assert_allclose(grid[:, 0, 0], grid[0, 0, 0])


def test_running_moments_find_the_codes_scale():
    shift, scale = jnp.array([2.0, -1.0]), jnp.array([0.5, 3.0])
    moments = latents.init_moments((4, 4, 2))
    for step in range(300):
        z = latents.undo_scale(jax.random.normal(jax.random.key(step), (64, 4, 4, 2)), shift, scale)
        moments = latents.update_moments(moments, latents.observe_moments(z), jnp.int32(step))
    mean, deviation = latents.scale_of(moments)
    np.testing.assert_allclose(mean, shift, atol=0.03)
    np.testing.assert_allclose(deviation, scale, rtol=0.02)
    back = latents.apply_scale(z, mean, deviation)
    assert float(jnp.std(back)) == pytest.approx(1, abs=0.05)


def test_a_posterior_s_own_variance_counts_in_the_scale_and_not_in_activity():
    """A collapsed unit, N(0, 1) whatever x, has deviation 1 and is not active."""
    z = jax.random.normal(jax.random.key(0), (512, 2)) * jnp.array([[0.9, 0.01]])
    variance = jnp.broadcast_to(jnp.array([0.19, 1.0]), (512, 2))
    moments = latents.update_moments(
        latents.init_moments((2,)), latents.observe_moments(z, variance), jnp.int32(0)
    )
    np.testing.assert_allclose(latents.scale_of(moments)[1], [1, 1], rtol=0.05)
    assert float(latents.active_units(moments)) == 1


@pytest.mark.parametrize("case", ["parallel", "opposite", "zero", "both zero"])
def test_where_the_line_is_taken_it_has_a_derivative(case):
    a = jnp.zeros(3) if case == "both zero" else jnp.array([1.0, 2.0, 3.0])
    b = {"parallel": 2 * a, "opposite": -a, "zero": 0 * a, "both zero": 0 * a}[case]
    weights = jnp.array([0.25])
    for which in (0, 1):
        slope = jax.grad(lambda *ends: jnp.sum(latents.slerp(*ends, weights)), which)(a, b)
        np.testing.assert_allclose(slope, np.full(3, 0.25 if which else 0.75), atol=1e-6)
