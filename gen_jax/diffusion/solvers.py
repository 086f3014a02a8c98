"""Solvers: one step of a reverse process, from any time t to any time s.

A solver is given the denoiser, not its output, so that methods which look at several points need
nothing else. Noise comes from one key for each example.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp

from gen_jax.diffusion.parameterization import Denoiser
from gen_jax.diffusion.schedules import Schedule
from gen_jax.ops import keys as rng
from gen_jax.typing import Array, Float, Keys, ScalarLike

__all__ = ["Solver", "SolverState", "Variance", "ddim", "ddpm"]


Variance = Literal["beta", "beta_tilde"]


class SolverState(NamedTuple):
    """What a one-step method carries: the point itself."""

    x: Float[Array, "batch *dims"]


class Solver(NamedTuple):
    """A way to move points through time.

    ``init(x)`` gives a state that has ``.x``, and
    ``step(denoiser, schedule, state, t, s, keys)`` moves it from time t to time s.
    """

    init: Callable[[Array], SolverState]
    step: Callable[[Denoiser, Schedule, SolverState, Array, Array, Keys], SolverState]


class _Transition(NamedTuple):
    alpha_s: Array
    sigma_s: Array
    ratio: Array  # alpha_t / alpha_s
    added: Array  # variance that q(x_t | x_s) adds; beta_t for neighbouring steps
    posterior: Array  # variance of q(x_s | x_t, x_0); beta-tilde_t for neighbouring steps
    sigma_t: Array


def _transition(schedule: Schedule, t: Array, s: Array) -> _Transition:
    alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    ratio = alpha_t / alpha_s
    # Of these two forms of beta_t, 1 - ratio^2 loses its digits for small betas; this one does not.
    # Negative only when moving towards noise (inversion), where nothing is added.
    added = jnp.maximum(jnp.square(sigma_t) - jnp.square(ratio * sigma_s), 0.0)
    posterior = added * jnp.square(sigma_s / sigma_t)
    return _Transition(alpha_s, sigma_s, ratio, added, posterior, sigma_t)


def ddpm(variance: Variance = "beta") -> Solver:
    """Make the ancestral sampler of DDPM (Ho et al. 2020, Algorithm 2).

    x_s = E[q(x_s | x_t, x_0)] + std z with the predicted x_0 (their Eq. 7), and no noise in the
    last step. Between times that are not neighbours, beta stands for 1 - alpha_t^2 / alpha_s^2.

    Args:
        variance: ``"beta"``, the larger of the paper's two choices, or ``"beta_tilde"``, the
            variance of the posterior.

    Raises:
        ValueError: for any other variance.
    """
    if variance not in ("beta", "beta_tilde"):
        raise ValueError(f"variance: 'beta' or 'beta_tilde' is needed, got {variance!r}")

    def step(
        denoiser: Denoiser, schedule: Schedule, state: SolverState, t: Array, s: Array, keys: Keys
    ) -> SolverState:
        x = state.x
        q = _transition(schedule, t, s)
        mean = (
            q.ratio * jnp.square(q.sigma_s / q.sigma_t) * x
            + q.alpha_s * q.added / jnp.square(q.sigma_t) * denoiser(x, t).x_0
        )
        std = jnp.sqrt(q.added if variance == "beta" else q.posterior) * (s > 0)
        return SolverState(mean + std * rng.normal(keys, x.shape[1:], x.dtype))

    return Solver(init=SolverState, step=step)


def ddim(eta: ScalarLike = 0.0) -> Solver:
    """Make the sampler of denoising diffusion implicit models (Song et al. 2021, Eq. 12).

    x_s = alpha_s x_0 + sqrt(sigma_s^2 - std^2) eps + std z, with std^2 = eta^2 times the variance
    of the posterior (their Eq. 16). eta = 0 is deterministic, and then s > t walks back to noise;
    eta = 1 is DDPM with beta-tilde.

    Args:
        eta: in [0, 1]; may be traced.

    Raises:
        ValueError: if eta is a number outside [0, 1].
    """
    if isinstance(eta, (int, float)) and not 0 <= eta <= 1:
        raise ValueError(f"eta: a number in [0, 1] is needed, got {eta}")

    def step(
        denoiser: Denoiser, schedule: Schedule, state: SolverState, t: Array, s: Array, keys: Keys
    ) -> SolverState:
        x = state.x
        q = _transition(schedule, t, s)
        prediction = denoiser(x, t)
        variance = jnp.square(eta) * q.posterior
        direction = jnp.sqrt(jnp.maximum(jnp.square(q.sigma_s) - variance, 0.0))
        mean = q.alpha_s * prediction.x_0 + direction * prediction.eps
        return SolverState(mean + jnp.sqrt(variance) * rng.normal(keys, x.shape[1:], x.dtype))

    return Solver(init=SolverState, step=step)
