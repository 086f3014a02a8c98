"""Likelihoods: the variational bound term by term, and the probability flow's exact density."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.diffusion.parameterization import Denoiser, Prediction
from gen_jax.diffusion.schedules import Schedule, diffuse, like
from gen_jax.diffusion.solvers import Variance, log_variance, posterior_mean, transition
from gen_jax.lazy import without_extra
from gen_jax.ops import distributions as dist, keys as rng
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, ArrayLike, Float, Keys, PyTree, Scalar, ScalarLike

__all__ = ["Bound", "bound", "bound_term", "flow_log_prob", "prior_term"]


class Bound(NamedTuple):
    """The terms of -log p(x_0) <= prior + sum of ``steps``, in nats an example."""

    prior: Float[Array, "batch"]  # KL(q(x_T | x_0) || N(0, I))
    steps: Float[Array, "steps batch"]  # in the order of the grid; the last is -log p(x_0 | x_1)
    x_0_error: Float[Array, "steps batch"]  # mean squared error of x_0 at the same times
    eps_error: Float[Array, "steps batch"]  # and of eps

    @property
    def total(self) -> Float[Array, "batch"]:
        """Return the whole bound."""
        return self.prior + jnp.sum(self.steps, axis=0)


@checked
def prior_term(
    schedule: Schedule, x_0: Float[Array, "batch *dims"], t: ArrayLike = 1.0
) -> Float[Array, "batch"]:
    """Return KL(q(x_t | x_0) || N(0, s^2)) in nats, with s^2 = alpha^2 + sigma^2, that of samplers.

    L_T of Ho et al. 2020, Eq. 5; there s is 1.
    """
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    scale = jnp.hypot(alpha, sigma)
    kl = dist.kl_normal(alpha / scale * x_0, jnp.full(x_0.shape, 2 * jnp.log(sigma / scale)))
    return jnp.sum(jnp.reshape(kl, (len(x_0), -1)), axis=1)


@checked
def bound_term(
    denoiser: Denoiser,
    schedule: Schedule,
    x_0: Float[Array, "batch *dims"],
    t: Float[Array, ""] | Float[Array, "batch"],
    s: Float[Array, ""] | Float[Array, "batch"],
    eps: Float[Array, "batch *dims"],
    variance: Variance = "beta_tilde",
    bin_width: float | None = 2.0 / 255,
    freeze_mean: bool = False,
) -> tuple[Float[Array, "batch"], tuple[Float[Array, "batch"], Float[Array, "batch"]]]:
    """Return one term of the bound: KL(q(x_s | x_t, x_0) || p(x_s | x_t)), or -log p(x_0 | x_t).

    L_{t-1} and L_0 of Ho et al. 2020, Eq. 5, between any two times; L_0, where s is 0, is the
    discretized Gaussian of their Eq. 13.

    Args:
        denoiser: ``(x, t) -> Prediction``.
        schedule: its schedule.
        x_0: data.
        t: from where, one time or one for each example.
        s: to where, below t.
        eps: the noise of x_t.
        variance: of the model's steps, as in :func:`gen_jax.diffusion.ddpm`.
        bin_width: of one gray level of x_0, the ends of whose range are -1 and 1; None for data
            that is not discrete, whose last term is a density's.
        freeze_mean: whether no gradient goes through the mean: L_vlb of the hybrid loss (Nichol &
            Dhariwal 2021, Section 3.1).

    Returns:
        Nats [B], and mean squared errors of x_0 and eps [B].
    """
    x_t = diffuse(schedule, x_0, t, eps)
    prediction = denoiser(x_t, t)
    q = jax.tree.map(lambda level: like(level, x_0), transition(schedule, t, s))
    seen = prediction.x_0
    mean = posterior_mean(q, x_t, jax.lax.stop_gradient(seen) if freeze_mean else seen)
    # The posterior has no variance at the first step: that of the second stands for it, as in the
    # authors' code. For times further apart than one step, of a step of the same length.
    later = transition(schedule, jnp.minimum(2 * jnp.asarray(t), 1.0), t)
    last_step = jnp.where(later.posterior > 0, later.posterior, jnp.inf)  # then beta itself
    small = jnp.where(like(jnp.asarray(s), x_0) > 0, q.posterior, like(last_step, x_0))
    q = q._replace(posterior=jnp.minimum(small, q.added))
    log_var = jnp.broadcast_to(log_variance(q, variance, prediction), x_0.shape)
    true_log_var = jnp.broadcast_to(log_variance(q, "beta_tilde", prediction), x_0.shape)
    kl = dist.kl_normal(posterior_mean(q, x_t, x_0), true_log_var, mean, log_var)
    if bin_width is None:
        last = dist.normal_log_prob(x_0, mean, 0.5 * log_var)
    else:
        last = dist.discretized_normal_log_prob(x_0, mean, 0.5 * log_var, bin_width)
    nats = jnp.where(like(jnp.asarray(s), x_0) > 0, kl, -last)

    def average(x: Array) -> Float[Array, "batch"]:
        return jnp.mean(jnp.reshape(x, (len(x_0), -1)), axis=1)

    errors = average(jnp.square(seen - x_0)), average(jnp.square(prediction.eps - eps))
    return math.prod(x_0.shape[1:]) * average(nats), errors


@checked
def bound(
    denoiser: Denoiser,
    schedule: Schedule,
    x_0: Float[Array, "batch *dims"],
    times: ArrayLike,
    keys: Keys,
    variance: Variance = "beta_tilde",
    bin_width: float | None = 2.0 / 255,
) -> Bound:
    """Compute every term of the variational bound on -log p(x_0) (Ho et al. 2020, Eq. 5).

    Args:
        denoiser: ``(x, t) -> Prediction``.
        schedule: its schedule.
        x_0: data.
        times: [S + 1] descending grid from 1 to 0; that of the whole schedule gives the bound that
            papers report, fewer steps a looser one of the sampler with those steps.
        keys: one for each example; step i draws from the key folded with i.
        variance: as in :func:`gen_jax.diffusion.ddpm`.
        bin_width: as in :func:`bound_term`.
    """
    times = jnp.asarray(times, jnp.float32)

    def term(_: None, step: tuple[Array, Array, Array]) -> tuple[None, tuple[Array, Array, Array]]:
        i, t, s = step
        eps = rng.normal(rng.fold_in(keys, i), x_0.shape[1:])
        nats, errors = bound_term(denoiser, schedule, x_0, t, s, eps, variance, bin_width)
        return None, (nats, *errors)

    steps = (jnp.arange(len(times) - 1), times[:-1], times[1:])
    _, (nats, x_0_error, eps_error) = jax.lax.scan(term, None, steps)
    return Bound(prior_term(schedule, x_0, times[0]), nats, x_0_error, eps_error)


@checked
def flow_log_prob(
    denoiser: Callable[..., Prediction],
    schedule: Schedule,
    x: Float[Array, "batch *dims"],
    keys: Keys,
    *,
    condition: PyTree = None,
    t_min: float = 1e-4,
    num_probes: int = 1,
    tolerance: ScalarLike = 1e-4,
    exact: bool = False,
    max_steps: int = 4096,
) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
    """Compute log p(x) along the probability flow (Song et al. 2021b, Section 4.3).

    log p(x) = log N(x_1; 0, s^2) + integral of the divergence of dx/dt, with Hutchinson's estimate
    of it, v^T (d dx/dt / dx) v for random signs v, whose noise is the same all the way (Grathwohl
    et al. 2019). Each example has its own adaptive steps (Tsitouras' method of order 5), so that
    its result does not depend on its batch.

    Args:
        denoiser: ``(x, t) -> Prediction``, or ``(x, t, condition) -> Prediction``. It is called
            with one example at a time, and so must not close over anything of the batch.
        schedule: whose derivatives are taken; a discrete one's are those of its interpolation.
        x: points; discrete data must be dequantized.
        keys: one for each example.
        condition: arrays [B, ...] of which the denoiser is given each example's own, [1, ...].
        t_min: the time that data is taken to be at.
        num_probes: how many random vectors; their spread is the standard error.
        tolerance: relative and absolute, of a step of the solver.
        exact: compute the whole divergence, with one derivative a dimension, in place of probes.
        max_steps: after which an example's result is not a number.

    Returns:
        Nats [B] and standard errors [B]: 0 if exact, not a number from a single probe.
    """
    try:
        import diffrax  # needed for this alone
    except ModuleNotFoundError as error:
        raise without_extra("the density of a probability flow", error) from error

    def velocity(x: Array, t: Array, own: PyTree) -> Array:
        _, d_alpha = _with_slope(schedule.alpha, t)
        _, d_sigma = _with_slope(schedule.sigma, t)
        extra = () if condition is None else (own,)
        prediction = denoiser(x[None], t, *extra)
        return (d_alpha * prediction.x_0 + d_sigma * prediction.eps)[0]

    def divergence(x: Array, t: Array, probes: Array, own: PyTree) -> tuple[Array, Array]:
        if exact:
            jacobian = jax.jacfwd(lambda x: velocity(x, t, own).reshape(-1))(x)
            return velocity(x, t, own), jnp.trace(jacobian.reshape(x.size, x.size))[None]
        slope, pull = jax.vjp(lambda x: velocity(x, t, own), x)
        return slope, jax.vmap(lambda probe: jnp.sum(pull(probe)[0] * probe))(probes)

    def one(x: Array, key: Array, own: PyTree) -> tuple[Scalar, Scalar]:
        own = jax.tree.map(lambda y: y[None], own)
        probes = jax.random.rademacher(key, (num_probes, *x.shape), jnp.float32)

        def field(t: Any, state: tuple[Array, Array], _: None) -> tuple[Array, Array]:
            return divergence(state[0], t, probes, own)

        num = 1 if exact else num_probes
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            t0=t_min,
            t1=1.0,
            dt0=None,
            y0=(x, jnp.zeros(num)),
            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
            max_steps=max_steps,
            throw=False,
        )
        assert solution.ys is not None
        end, change = (y[-1] for y in solution.ys)
        log_scale = jnp.log(jnp.hypot(schedule.alpha(1.0), schedule.sigma(1.0)))
        prior = jnp.sum(dist.normal_log_prob(end, 0.0, log_scale))
        done = solution.result == diffrax.RESULTS.successful
        nats = jnp.where(done, prior + jnp.mean(change), jnp.nan)
        if exact:
            return nats, jnp.zeros(())
        if num_probes == 1:
            return nats, jnp.full((), jnp.nan)
        return nats, jnp.std(change, ddof=1) / math.sqrt(num_probes)

    return jax.vmap(one)(x, keys, condition)


def _with_slope(level: object, t: Array) -> tuple[Array, Array]:
    return jax.jvp(level, (t,), (jnp.ones_like(t),))  # type: ignore[arg-type]
