"""The bound and the flow's density, against normals and mixtures whose density is known."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from gen_jax import diffusion as process
from gen_jax.diffusion.solvers import log_variance, transition
from gen_jax.ops import distributions as dist, keys as rng
from tests.diffusion.oracles import SCHEDULES, Mixture, gaussian_denoiser, keys_of

pytestmark = pytest.mark.slow

NUM = 16


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("exact", [True, False])
def test_the_flow_s_density_is_exact(name, exact):
    schedule = SCHEDULES[name]
    data = Mixture(schedule)
    x = Mixture.means[jnp.arange(NUM) % 3] + 0.3 * rng.normal(keys_of(NUM), (2,))
    run = functools.partial(
        process.flow_log_prob, data.denoiser, schedule, exact=exact, num_probes=64, t_min=1e-4
    )
    nats, error = jax.jit(run)(x, keys_of(NUM, 1))
    truth = data.log_prob(x)
    if exact:
        # N(0, s^2) stands for what is left of the data at t = 1, and at t_min there is a little
        # noise: 0.003 of it on the table of "linear".
        np.testing.assert_allclose(nats, truth, atol=0.03)
        np.testing.assert_array_equal(error, 0)
    else:
        assert (np.abs(nats - truth) < 4 * error + 0.02).mean() > 0.9
        assert 0 < float(error.mean()) < 0.3


def test_one_probe_has_no_error_and_its_mean_is_right():
    schedule = SCHEDULES["flow"]
    x = jnp.tile(jnp.array([[0.5, 0.2]]), (512, 1))
    data = Mixture(schedule)
    nats, error = process.flow_log_prob(data.denoiser, schedule, x, keys_of(512), tolerance=1e-3)
    assert np.isnan(error).all()
    spread = float(jnp.std(nats)) / np.sqrt(512)
    assert abs(float(nats.mean() - data.log_prob(x)[0])) < 4 * spread + 0.01


def test_a_density_that_takes_too_many_steps_is_not_a_number():
    schedule = SCHEDULES["flow"]
    x = jnp.zeros((2, 2))
    nats, _ = process.flow_log_prob(
        Mixture(schedule).denoiser, schedule, x, keys_of(2), exact=True, max_steps=2
    )
    assert np.isnan(nats).all()


@pytest.mark.parametrize("num_steps", [10, 100])
def test_the_bound_is_above_the_truth_and_tightens(num_steps):
    """For data N(0, 1) on a variance-preserving schedule every KL is known: see the comments."""
    schedule = process.cosine(num_steps)
    x_0 = rng.normal(keys_of(4000), (1,))
    made = process.bound(
        gaussian_denoiser(schedule, 0.0, 1.0),
        schedule,
        x_0,
        process.uniform_times(num_steps, num_steps),
        keys_of(4000, 1),
        "beta",
        bin_width=None,
    )
    entropy = 0.5 * np.log(2 * np.pi * np.e)
    # Data of unit variance: each reverse step is N(ratio x_t, beta_t), exactly the model's with
    # "beta", so that only the ends differ: the bound is the entropy but for noise.
    error = 4 * float(made.total.std()) / np.sqrt(4000)
    assert float(made.total.mean()) == pytest.approx(entropy, abs=error + 0.01)
    small = process.bound(
        gaussian_denoiser(schedule, 0.0, 1.0),
        schedule,
        x_0,
        process.uniform_times(num_steps, num_steps),
        keys_of(4000, 1),
        "beta_tilde",
        bin_width=None,
    )
    assert float(small.total.mean()) > entropy
    assert made.steps.shape == (num_steps, 4000)
    assert (np.asarray(made.steps[:-1]) >= -1e-5).all()


def test_mean_squared_errors_stand_beside_the_terms():
    schedule = process.linear_beta(20)
    x_0 = rng.normal(keys_of(3), (4,))
    denoise = process.denoiser(lambda x, t: 0 * x, schedule, process.epsilon)
    made = process.bound(denoise, schedule, x_0, process.uniform_times(20, 20), keys_of(3))
    eps = rng.normal(rng.fold_in(keys_of(3), 0), (4,))
    np.testing.assert_allclose(made.eps_error[0], jnp.mean(eps**2, axis=1), rtol=1e-5)
    ratio = schedule.sigma(1.0) / schedule.alpha(1.0)
    np.testing.assert_allclose(
        made.x_0_error,
        made.eps_error
        * jnp.array(
            [
                (schedule.sigma(t) / schedule.alpha(t)) ** 2
                for t in process.uniform_times(20, 20)[:-1]
            ]
        )[:, None],
        rtol=1e-3,
    )
    assert ratio > 0


def test_the_prior_s_term_is_a_kl():
    schedule = process.linear_beta(10)
    x_0 = jnp.array([[0.5, -2.0]])
    alpha, sigma = float(schedule.alpha(1.0)), float(schedule.sigma(1.0))
    truth = sum(0.5 * (sigma**2 + (alpha * x) ** 2 - 1 - 2 * np.log(sigma)) for x in (0.5, -2.0))
    assert float(process.prior_term(schedule, x_0)[0]) == pytest.approx(truth, rel=1e-4)


def test_the_last_step_has_the_variance_of_ho_et_al():
    """Their code's "fixedlarge" is betas[1:] behind posterior_variance[1]; an exact mean shows it.

    The numbers are of that arithmetic in double precision, in bits a dimension.
    """
    schedule = process.linear_beta()
    x_0 = jnp.full((1, 4), 0.5)

    def denoise(x, t):
        return process.Prediction(x_0, (x - schedule.alpha(t) * x_0) / schedule.sigma(t))

    betas = np.linspace(1e-4, 0.02, 1000)
    bars = np.cumprod(1 - betas)
    second = betas[1] * (1 - bars[0]) / (1 - bars[1])
    for variance, first in (("beta", betas[0]), ("fixed_large", second)):
        made = [
            process.bound_term(denoise, schedule, x_0, t, t - 1e-3, x_0, variance)[0]
            for t in (jnp.float32(1e-3), jnp.float32(0.5))
        ]
        last, middle = (float(nats[0]) / 4 / np.log(2) for nats in made)
        truth = -np.log2(math.erf(1 / 255 / np.sqrt(2 * first)))
        assert last == pytest.approx(truth, rel=1e-4)
        assert last == pytest.approx({"beta": 1.713, "fixed_large": 1.305}[variance], abs=1e-3)
        wide = 0.5 * (np.log(betas[499] / (betas[499] * (1 - bars[498]) / (1 - bars[499]))))
        ratio = (1 - bars[498]) / (1 - bars[499])
        assert middle == pytest.approx((wide + 0.5 * (ratio - 1)) / np.log(2), abs=1e-6)


def test_learned_variances_lie_between_the_two():
    schedule = process.cosine(50)
    q = transition(schedule, jnp.float32(0.5), jnp.float32(0.48))
    x = jnp.zeros((1, 3))
    ends = [log_variance(q, name, process.Prediction(x, x)) for name in ("beta_tilde", "beta")]
    for share in (0.0, 0.25, 1.0):
        prediction = process.Prediction(x, x, jnp.full((1, 3), share))
        made = log_variance(q, "learned", prediction)
        np.testing.assert_allclose(made, (1 - share) * ends[0] + share * ends[1], rtol=1e-6)
    with pytest.raises(ValueError, match="needs a denoiser that has learned variances"):
        log_variance(q, "learned", process.Prediction(x, x))
    network = process.denoiser(
        lambda x, t: jnp.concatenate([x, jnp.full_like(x, -0.5)], axis=-1),
        schedule,
        process.epsilon,
        learned_variance=True,
    )
    np.testing.assert_allclose(network(x, 0.3).variance, 0.25)


def test_the_bound_of_the_hybrid_loss_moves_the_variance_alone():
    schedule = process.cosine(50)
    x_0 = rng.normal(keys_of(2), (3,))
    eps = rng.normal(keys_of(2, 1), (3,))

    def term(params, freeze):
        denoise = process.denoiser(
            lambda x, t: jnp.concatenate([params[0] * x, params[1] + 0 * x], axis=-1),
            schedule,
            process.epsilon,
            learned_variance=True,
        )
        t = jnp.array([0.5, 0.02])  # one KL and one last term
        nats, _ = process.bound_term(
            denoise, schedule, x_0, t, t - 0.02, eps, "learned", freeze_mean=freeze
        )
        return nats.sum()

    mean, variance = jax.grad(term)((0.3, 0.2), True)
    assert float(mean) == 0
    assert abs(float(variance)) > 0.01
    assert abs(float(jax.grad(term)((0.3, 0.2), False)[0])) > 0.01


class TestDiscretizedNormal:
    x = jnp.linspace(-1, 1, 256)

    @pytest.mark.parametrize(
        ("mean", "sigma"), [(0.1, 0.3), (-0.97, 0.01), (3.0, 0.5), (0.0, 1e-3)]
    )
    def test_probabilities_sum_to_1(self, mean, sigma):
        nats = dist.discretized_normal_log_prob(
            self.x, jnp.full(256, mean), jnp.full(256, np.log(sigma))
        )
        assert float(jnp.exp(nats).sum()) == pytest.approx(1.0, abs=1e-4)
        assert np.isfinite(nats).all() or sigma < 0.01

    def test_against_scipy(self):
        mean, sigma = 0.2, 0.05
        ours = dist.discretized_normal_log_prob(
            self.x, jnp.full(256, mean), jnp.full(256, np.log(sigma))
        )
        x, half = np.linspace(-1, 1, 256), 1 / 255
        upper, lower = ((x + h - mean) / sigma for h in (half, -half))
        truth = np.log(scipy.stats.norm.cdf(upper) - scipy.stats.norm.cdf(lower))
        near = (np.abs(x - mean) < 4 * sigma) & (np.abs(x) < 1)
        assert near.sum() > 40
        np.testing.assert_allclose(ours[near], truth[near], rtol=1e-3, atol=1e-3)

    def test_far_away_it_still_has_a_gradient(self):
        slope = jax.grad(
            lambda mean: dist.discretized_normal_log_prob(jnp.float32(0.0), mean, jnp.log(0.05))
        )(jnp.float32(0.9))
        assert np.isfinite(slope)
        assert float(slope) < -100
