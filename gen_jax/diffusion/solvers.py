"""Solvers: one step of a reverse process, from any time t to any time s.

A solver is given the denoiser, not its output, so that methods which look at several points need
nothing else. Noise comes from one key for each example.

Along x = alpha x_0 + sigma eps the probability flow is dx = x_0 dalpha + eps dsigma. Written so, it
needs no derivative of a schedule, nothing is infinite at either end, and Euler's step is DDIM's on
every schedule. On a rectified flow it is dx = (eps - x_0) dt, and with alpha = 1 it is dx = eps
dsigma, the flow of Karras et al. 2022.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp

from gen_jax.diffusion.parameterization import Denoiser, Prediction
from gen_jax.diffusion.schedules import MIN_ALPHA, Schedule, time_of_noise
from gen_jax.ops import keys as rng
from gen_jax.typing import Array, ArrayLike, Float, Keys, ScalarLike

__all__ = [
    "MultistepState",
    "Solver",
    "SolverState",
    "Transition",
    "Variance",
    "churned",
    "ddim",
    "ddpm",
    "dpmpp_2m",
    "euler",
    "euler_ancestral",
    "heun",
    "log_variance",
    "transition",
]


Variance = Literal["beta", "beta_tilde", "fixed_large", "learned"]


class SolverState(NamedTuple):
    """What a one-step method carries: the point itself."""

    x: Float[Array, "batch *dims"]


class MultistepState(NamedTuple):
    """What a method of several steps carries: the point, and what was predicted a step before."""

    x: Float[Array, "batch *dims"]
    x_0: Float[Array, "batch *dims"]
    t: Float[Array, ""]  # of that prediction; infinite before the first step


class Solver(NamedTuple):
    """A way to move points through time.

    ``init(x)`` gives a state that has ``.x``, and
    ``step(denoiser, schedule, state, t, s, keys)`` moves it from time t to time s. ``memory``:
    whether a step looks at the ones before it, which must then not be changed in between.
    """

    init: Callable[[Array], Any]
    step: Callable[[Denoiser, Schedule, Any, Array, Array, Keys], Any]
    memory: bool = False


class Transition(NamedTuple):
    """The levels of one step from t down to s, all scalars."""

    alpha_s: Array
    sigma_s: Array
    ratio: Array  # alpha_t / alpha_s
    added: Array  # variance that q(x_t | x_s) adds; beta_t for neighboring steps
    posterior: Array  # variance of q(x_s | x_t, x_0); beta-tilde_t for neighboring steps
    sigma_t: Array


def transition(schedule: Schedule, t: Array, s: Array) -> Transition:
    """Return what q(x_s | x_t, x_0) is made of (Ho et al. 2020, Eq. 7), for any two times."""
    alpha_t, sigma_t = schedule.alpha(t), schedule.sigma(t)
    alpha_s, sigma_s = schedule.alpha(s), schedule.sigma(s)
    ratio = alpha_t / alpha_s
    # Of these two forms of beta_t, 1 - ratio^2 loses its digits for small betas; this one does not.
    # Negative only when moving toward noise (inversion), where nothing is added.
    added = jnp.maximum(jnp.square(sigma_t) - jnp.square(ratio * sigma_s), 0.0)
    posterior = added * jnp.square(sigma_s / sigma_t)
    return Transition(alpha_s, sigma_s, ratio, added, posterior, sigma_t)


def posterior_mean(q: Transition, x_t: Array, x_0: Array) -> Array:
    """Return the mean of q(x_s | x_t, x_0) (Ho et al. 2020, Eq. 7)."""
    return (
        q.ratio * jnp.square(q.sigma_s / q.sigma_t) * x_t
        + q.alpha_s * q.added / jnp.square(q.sigma_t) * x_0
    )


# Of variances that are 0, as the posterior's is at the last step.
MIN_VARIANCE = 1e-20


def log_variance(q: Transition, variance: Variance, prediction: Prediction) -> Array:
    """Return the log-variance of a model's step, a scalar or, where it is learned, an array.

    ``"fixed_large"`` is beta but in the last step, which has the posterior's: what the code of Ho
    et al. 2020 calls so, and their bits/dim are of. Learned variances are
    v log beta + (1 - v) log beta-tilde (Nichol & Dhariwal 2021, Eq. 15).

    Raises:
        ValueError: if it should be learned, and the prediction has none.
    """
    large, small = (jnp.log(jnp.maximum(x, MIN_VARIANCE)) for x in (q.added, q.posterior))
    if variance == "fixed_large":
        return jnp.where(q.sigma_s > 0, large, small)
    if variance != "learned":
        return large if variance == "beta" else small
    if prediction.variance is None:
        raise ValueError("variance: 'learned' needs a denoiser that has learned variances")
    return prediction.variance * large + (1 - prediction.variance) * small


def ddpm(variance: Variance = "beta") -> Solver:
    """Make the ancestral sampler of DDPM (Ho et al. 2020, Algorithm 2).

    x_s = E[q(x_s | x_t, x_0)] + std z with the predicted x_0 (their Eq. 7), and no noise in the
    last step. Between times that are not neighbors, beta stands for 1 - alpha_t^2 / alpha_s^2.

    Args:
        variance: ``"beta"``, the larger of the paper's two choices, ``"beta_tilde"``, the variance
            of the posterior, or ``"learned"``, what a denoiser with learned variances says. The
            last step has no noise, so that ``"fixed_large"`` is ``"beta"`` here.

    Raises:
        ValueError: for any other variance, or if a denoiser has not learned any.
    """
    if variance not in get_args(Variance):
        raise ValueError(
            f"variance: got {variance!r}; {', '.join(map(repr, get_args(Variance)))} is required"
        )

    return Solver(SolverState, functools.partial(_ddpm_step, variance))


def _ddpm_step(
    variance: Variance,
    denoiser: Denoiser,
    schedule: Schedule,
    state: SolverState,
    t: Array,
    s: Array,
    keys: Keys,
) -> SolverState:
    x = state.x
    q = transition(schedule, t, s)
    prediction = denoiser(x, t)
    std = jnp.exp(0.5 * log_variance(q, variance, prediction)) * (s > 0)
    noise = rng.normal(keys, x.shape[1:], x.dtype)
    return SolverState(posterior_mean(q, x, prediction.x_0) + std * noise)


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
        raise ValueError(f"eta: got {eta}; a number in [0, 1] is required")

    return Solver(SolverState, functools.partial(_ddim_step, eta))


def _ddim_step(
    eta: ScalarLike,
    denoiser: Denoiser,
    schedule: Schedule,
    state: SolverState,
    t: Array,
    s: Array,
    keys: Keys,
) -> SolverState:
    x = state.x
    q = transition(schedule, t, s)
    prediction = denoiser(x, t)
    variance = jnp.square(eta) * q.posterior
    direction = jnp.sqrt(jnp.maximum(jnp.square(q.sigma_s) - variance, 0.0))
    mean = q.alpha_s * prediction.x_0 + direction * prediction.eps
    return SolverState(mean + jnp.sqrt(variance) * rng.normal(keys, x.shape[1:], x.dtype))


def euler() -> Solver:
    """Make Euler's method for the probability flow: x_s = alpha_s x_0 + sigma_s eps.

    The step of DDIM with eta = 0, and of Euler's method in the time of a rectified flow and in the
    noise level of EDM (Karras et al. 2022, Algorithm 1 without its correction). First order.
    """
    return ddim(0.0)


def euler_ancestral(eta: ScalarLike = 1.0) -> Solver:
    """Make Euler's method with fresh noise in each step, as k-diffusion has it.

    A step down to the noise level that leaves room for the noise which is then added: DDIM's with
    that eta, written in x / alpha and sigma / alpha.

    Args:
        eta: from 0, deterministic, to 1; may be traced.

    Raises:
        ValueError: if eta is a number outside [0, 1].
    """
    return ddim(eta)


def heun() -> Solver:
    """Make Heun's method for the probability flow (Karras et al. 2022, Algorithm 1).

    A step of Euler, and then one with the mean of both ends' predictions: x_s = x_t + dalpha (x_0 +
    x_0') / 2 + dsigma (eps + eps') / 2. Two evaluations a step, but one in a step to t = 0. Second
    order.
    """
    return Solver(SolverState, _heun_step)


def _heun_step(
    denoiser: Denoiser, schedule: Schedule, state: SolverState, t: Array, s: Array, keys: Keys
) -> SolverState:
    del keys
    x = state.x
    here = denoiser(x, t)
    ends = [(schedule.alpha(u), schedule.sigma(u)) for u in (t, s)]
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ends
    guess = alpha_s * here.x_0 + sigma_s * here.eps

    def correct(guess: Array) -> Array:
        there = denoiser(guess, s)
        return (
            x
            + (alpha_s - alpha_t) * (here.x_0 + there.x_0) / 2
            + (sigma_s - sigma_t) * (here.eps + there.eps) / 2
        )

    # At s = 0 there is no noise, whose direction could be asked for.
    return SolverState(jax.lax.cond(s > 0, correct, lambda guess: guess, guess))


def dpmpp_2m() -> Solver:
    """Make DPM-Solver++(2M) (Lu et al. 2022b, Algorithm 2): two steps of memory, one evaluation.

    x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) D with h the step in log(alpha / sigma), and D
    the prediction of x_0 extrapolated from this and the step before. The first step, and one to t =
    0, are DDIM's. Second order.
    """
    return Solver(_dpmpp_init, _dpmpp_step, memory=True)


def _dpmpp_init(x: Array) -> MultistepState:
    return MultistepState(x, jnp.zeros_like(x), jnp.float32(jnp.inf))


def _dpmpp_step(
    denoiser: Denoiser,
    schedule: Schedule,
    state: MultistepState,
    t: Array,
    s: Array,
    keys: Keys,
) -> MultistepState:
    del keys
    x_0 = denoiser(state.x, t).x_0
    lam_before, lam_t, lam_s = (
        jnp.log(jnp.maximum(schedule.alpha(u), MIN_ALPHA))
        - jnp.log(jnp.maximum(schedule.sigma(u), MIN_ALPHA))
        for u in (jnp.where(jnp.isinf(state.t), t, state.t), t, s)
    )
    # Weight of the difference between the two predictions: h / (2 h_before).
    # No extrapolation from a step that led nowhere, as two equal times of a table do.
    first = jnp.isinf(state.t) | (lam_t == lam_before)
    ahead = (lam_s - lam_t) / (2 * jnp.where(first, 1.0, lam_t - lam_before))
    ahead = jnp.where(first | (s <= 0), 0.0, ahead)
    d = x_0 + ahead * (x_0 - state.x_0)
    kept = schedule.sigma(s) / schedule.sigma(t)
    gain = schedule.alpha(s) - schedule.alpha(t) * kept  # alpha_s (1 - e^-h)
    return MultistepState(kept * state.x + gain * d, x_0, t)


def churned(
    solver: Solver,
    amount: ScalarLike,
    num_steps: ArrayLike,
    low: ScalarLike = 0.0,
    high: ScalarLike = jnp.inf,
    noise: ScalarLike = 1.0,
) -> Solver:
    """Let noise be added before each step of another solver (Karras et al. 2022, Algorithm 2).

    The noise level rises from r = sigma / alpha to r (1 + gamma), with gamma = min(amount /
    num_steps, sqrt(2) - 1) where low <= r <= high; the step then begins there.

    Args:
        solver: usually :func:`heun`.
        amount: S_churn, from 0, which changes nothing.
        num_steps: of the whole run; may be traced.
        low: S_tmin.
        high: S_tmax. Noise beyond the schedule's own is not added.
        noise: S_noise, the standard deviation of what is added.

    Returns:
        A solver for descending times.
    """
    gamma = jnp.minimum(jnp.asarray(amount, jnp.float32) / num_steps, 2**0.5 - 1)

    churn = _Churn(solver, gamma, low, high, noise)
    return Solver(solver.init, functools.partial(_churned_step, churn), memory=solver.memory)


class _Churn(NamedTuple):
    """What :func:`churned` was asked for."""

    solver: Solver
    gamma: Array
    low: ScalarLike
    high: ScalarLike
    noise: ScalarLike


def _churned_step(
    churn: _Churn,
    denoiser: Denoiser,
    schedule: Schedule,
    state: Any,
    t: Array,
    s: Array,
    keys: Keys,
) -> Any:
    solver, gamma, low, high, noise = churn
    step_keys, noise_keys = rng.split(keys, 2)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    ratio = sigma / jnp.maximum(alpha, MIN_ALPHA)
    rises = (ratio >= low) & (ratio <= high) & (gamma > 0) & (t < 1)
    up = jnp.where(rises, jnp.maximum(time_of_noise(schedule, ratio * (1 + gamma)), t), t)
    # Without churn nothing may change, not even by rounding.
    kept = jnp.where(rises, schedule.alpha(up) / jnp.maximum(alpha, MIN_ALPHA), 1.0)
    added = jnp.where(rises, jnp.square(schedule.sigma(up)) - jnp.square(kept * sigma), 0.0)
    std = noise * jnp.sqrt(jnp.maximum(added, 0.0))
    x = kept * state.x + std * rng.normal(noise_keys, state.x.shape[1:], state.x.dtype)
    return solver.step(denoiser, schedule, state._replace(x=x), up, s, step_keys)
