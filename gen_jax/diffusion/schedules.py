"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps, with data at t = 0 and noise at t = 1.

A discrete schedule of T steps is a table read at t = i / T, with alpha(0) = 1. The step that the
DDPM paper calls i (1 to T) is t = i / T here; libraries that count from zero call it T t - 1.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion.rules import COSINE_MAX_BETA, MIN_ALPHA, beta_range
from gen_jax.ops.checks import check_floating, check_times, checked
from gen_jax.typing import Array, ArrayLike, Float

__all__ = [
    "Schedule",
    "cosine",
    "diffuse",
    "end_levels",
    "from_betas",
    "linear_beta",
    "logsnr",
    "rectified_flow",
    "time_of_noise",
    "variance_exploding",
    "zero_terminal_snr",
]


class Schedule(NamedTuple):
    """Signal and noise levels as functions of time t in [0, 1], of any shape.

    ``end`` holds alpha(1) and sigma(1) as plain numbers, so that asking for them compiles nothing;
    None where nobody has written them down. ``last_beta`` is beta_T of a table.
    """

    alpha: Callable[[ArrayLike], Float[Array, "*t"]]
    sigma: Callable[[ArrayLike], Float[Array, "*t"]]
    end: tuple[float, float] | None = None
    last_beta: float | None = None


def from_betas(betas: np.ndarray) -> Schedule:
    """Tabulate a variance-preserving schedule from the variances beta_1 ... beta_T.

    alpha(i/T)^2 = prod_{j <= i} (1 - beta_j) and sigma^2 = 1 - alpha^2 (Ho et al. 2020, Eq. 4).
    Between the entries log-SNR is a monotone cubic in t (Fritsch & Butland 1984), so that the
    schedule has a continuous derivative, which adaptive solvers need; before the first entry, where
    log-SNR is infinite, sigma is linear. At the entries the table itself is returned.

    Where beta_T is 1 nothing of the signal is left (zero terminal SNR, Lin et al. 2024), and in the
    last interval alpha is linear.

    Args:
        betas: [T], each in (0, 1), the last of several perhaps 1.

    Returns:
        A schedule whose two functions take t of any shape and give float32 of that shape.

    Raises:
        ValueError: if betas are not a vector of numbers in (0, 1), or leave so little of the signal
            that x_0 could not be told from x_1 in single precision.
    """
    betas = np.asarray(betas, np.float64)
    ends = bool(betas.ndim == 1 and betas.size > 1 and betas[-1] == 1)
    inner = betas[:-1] if ends else betas
    if betas.ndim != 1 or betas.size == 0 or not np.all((inner > 0) & (inner < 1)):
        raise ValueError(
            f"betas: got {betas!r}; a vector of numbers strictly between 0 and 1 is required"
        )
    with np.errstate(divide="ignore"):  # log 0 where nothing is left
        log_alpha_bar = np.concatenate([[0.0], np.cumsum(np.log1p(-betas))])
    if not ends and log_alpha_bar[-1] < 2 * np.log(MIN_ALPHA):
        raise ValueError(
            f"betas: alpha(1) is {np.exp(0.5 * log_alpha_bar[-1]):.1g}; at least {MIN_ALPHA} is "
            "required"
        )
    sigma_squared = -np.expm1(log_alpha_bar)
    # Computed in double precision: 1 - alpha^2 would lose all digits of the first steps in single.
    alphas = np.exp(0.5 * log_alpha_bar).astype(np.float32)
    sigmas = np.sqrt(sigma_squared).astype(np.float32)
    logsnrs = log_alpha_bar - np.log(np.where(sigma_squared > 0, sigma_squared, 1.0))
    logsnrs[0] = logsnrs[1]  # never read: the first interval interpolates sigma instead
    cubics = _monotone_cubics(logsnrs[1:-1] if ends else logsnrs[1:])

    table = _Table(alphas, sigmas, cubics, ends)
    end = float(alphas[-1]), float(sigmas[-1])
    return Schedule(table.alpha, table.sigma, end, float(betas[-1]))


class _Table:
    """Levels at the entries of a table, and cubics of log-SNR between them."""

    def __init__(
        self, alphas: np.ndarray, sigmas: np.ndarray, cubics: np.ndarray, ends: bool
    ) -> None:
        self.alphas, self.sigmas, self.cubics, self.ends = alphas, sigmas, cubics, ends

    def alpha(self, t: ArrayLike) -> Float[Array, "*t"]:
        return self.read(t)[0]

    def sigma(self, t: ArrayLike) -> Float[Array, "*t"]:
        return self.read(t)[1]

    def read(self, t: ArrayLike) -> tuple[Array, Array]:
        """Return alpha(t) and sigma(t)."""
        alphas, sigmas, cubics = self.alphas, self.sigmas, self.cubics
        num_steps = len(alphas) - 1
        u = jnp.asarray(t, jnp.float32) * num_steps
        nearest = jnp.round(u)
        # Near 0 without being 0 there is a little noise, whose direction can be asked for.
        on_grid = (jnp.abs(u - nearest) < 1e-3) & ((nearest > 0) | (u <= 0))
        left = jnp.clip(jnp.floor(u), 0, num_steps - 1).astype(jnp.int32)
        interval = jnp.clip(left - 1, 0, cubics.shape[1] - 1)
        between = _polynomial(jnp.asarray(cubics)[:, interval], u - left)
        sigma_first = jnp.clip(u, 0.0, 1.0) * sigmas[1]
        first = left == 0
        alpha = jnp.where(
            first,
            jnp.sqrt(1 - jnp.square(sigma_first)),
            jnp.sqrt(jax.nn.sigmoid(between)),
        )
        sigma = jnp.where(first, sigma_first, jnp.sqrt(jax.nn.sigmoid(-between)))
        if self.ends:
            last = left == num_steps - 1
            alpha_last = alphas[-2] * jnp.clip(num_steps - u, 0.0, 1.0)
            alpha = jnp.where(last, alpha_last, alpha)
            sigma = jnp.where(last, jnp.sqrt(1 - jnp.square(alpha_last)), sigma)
        index = jnp.clip(nearest, 0, num_steps).astype(jnp.int32)

        # The value of the table with the derivative of the interpolation.
        def snap(table: np.ndarray, value: Array) -> Array:
            correction = jnp.where(on_grid, jnp.asarray(table)[index] - value, 0.0)
            return value + jax.lax.stop_gradient(correction)

        return snap(alphas, alpha), snap(sigmas, sigma)


def _monotone_cubics(values: np.ndarray) -> np.ndarray:
    """Interpolate values a step of 1 apart: coefficients [4, steps], the constant first."""
    if len(values) < 2:
        return np.zeros((4, 1), np.float32)
    from scipy.interpolate import PchipInterpolator  # a third of a second, which flows need not pay

    slopes = PchipInterpolator(np.arange(len(values)), values).derivative()(np.arange(len(values)))
    low, high, rise = slopes[:-1], slopes[1:], np.diff(values)
    made = np.stack([values[:-1], low, 3 * rise - 2 * low - high, low + high - 2 * rise])
    return made.astype(np.float32)


def _polynomial(coefficients: Float[Array, "4 *u"], x: Float[Array, "*u"]) -> Float[Array, "*u"]:
    constant, first, second, third = coefficients
    return constant + x * (first + x * (second + x * third))


def linear_beta(
    num_steps: int = 1000, beta_start: float | None = None, beta_end: float | None = None
) -> Schedule:
    """Make the linear schedule of DDPM: beta rises linearly (Ho et al. 2020, Section 4).

    Args:
        num_steps: T >= 1.
        beta_start: beta_1 in (0, 1), by default 0.1 / T: the paper's 1e-4 for its 1,000 steps.
        beta_end: beta_T in (0, 1), by default 20 / T, the paper's 0.02.

    Raises:
        ValueError: if num_steps < 1 or a beta lies outside (0, 1).
    """
    _check_num_steps(num_steps)
    return from_betas(linear_betas(num_steps, *beta_range(num_steps, beta_start, beta_end)))


def linear_betas(num_steps: int, beta_start: float, beta_end: float) -> np.ndarray:
    """Return beta_1 to beta_T of :func:`linear_beta`."""
    return np.linspace(beta_start, beta_end, num_steps)


def scaled_linear_betas(num_steps: int, beta_start: float, beta_end: float) -> np.ndarray:
    """Return variances whose roots rise linearly, as in the code of Rombach et al. 2022."""
    return np.linspace(beta_start**0.5, beta_end**0.5, num_steps) ** 2


def zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Rescale variances so that nothing of the signal is left at T (Lin et al. 2024, Algorithm 1).

    alpha is shifted and scaled to end at 0 and begin as it did; the last beta becomes 1.

    Args:
        betas: [T], T > 1, each in (0, 1).
    """
    alphas = np.sqrt(np.cumprod(1 - np.asarray(betas, np.float64)))
    first, last = alphas[0], alphas[-1]
    bars = np.square((alphas - last) * first / (first - last))
    return 1 - np.concatenate([bars[:1], bars[1:] / bars[:-1]])


def cosine(
    num_steps: int = 1000, offset: float = 0.008, max_beta: float = COSINE_MAX_BETA
) -> Schedule:
    """Make the cosine schedule of improved DDPM (Nichol & Dhariwal 2021, Eq. 17).

    alpha_bar(u) = f(u) / f(0) with f(u) = cos^2((u + offset) / (1 + offset) * pi / 2), and
    beta_i = min(1 - alpha_bar(i/T) / alpha_bar((i-1)/T), max_beta).

    Args:
        num_steps: T >= 1.
        offset: s in the paper; keeps the first beta from vanishing.
        max_beta: upper bound of beta, in (0, 1).

    Raises:
        ValueError: if num_steps < 1 or max_beta lies outside (0, 1).
    """
    _check_num_steps(num_steps)
    return from_betas(cosine_betas(num_steps, offset, max_beta))


def cosine_betas(
    num_steps: int, offset: float = 0.008, max_beta: float = COSINE_MAX_BETA
) -> np.ndarray:
    """Return beta_1 to beta_T of :func:`cosine`."""
    u = np.arange(num_steps + 1) / num_steps
    f = np.cos((u + offset) / (1 + offset) * np.pi / 2) ** 2
    return np.minimum(1 - f[1:] / f[:-1], max_beta)


def rectified_flow() -> Schedule:
    """Make the straight path from data to noise: alpha = 1 - t, sigma = t (Liu et al. 2023, Eq. 1).

    The same path is flow matching's with sigma_min = 0 (Lipman et al. 2023, Eq. 20, where time runs
    from noise to data).
    """
    return Schedule(_rest_of, _time_itself, end=(0.0, 1.0))


def _rest_of(t: ArrayLike) -> Float[Array, "*t"]:
    return 1 - jnp.asarray(t, jnp.float32)


def _time_itself(t: ArrayLike, factor: float = 1.0) -> Float[Array, "*t"]:
    return factor * jnp.asarray(t, jnp.float32)


def _one(t: ArrayLike) -> Float[Array, "*t"]:
    return jnp.ones_like(jnp.asarray(t, jnp.float32))


def variance_exploding(sigma_max: float = 80.0) -> Schedule:
    """Make the schedule of EDM: alpha = 1, sigma = sigma_max t (Karras et al. 2022, Table 1).

    Their time is sigma itself; here it is scaled so that noise is at t = 1.

    Args:
        sigma_max: noise level at t = 1, in units of the data; above 0.

    Raises:
        ValueError: if sigma_max is not above 0.
    """
    if not sigma_max > 0:
        raise ValueError(f"sigma_max: got {sigma_max}; a number above 0 is required")
    scaled = functools.partial(_time_itself, factor=float(sigma_max))
    return Schedule(_one, scaled, end=(1.0, float(sigma_max)))


def time_of_noise(schedule: Schedule, ratio: ArrayLike) -> Float[Array, "*t"]:
    """Find the time t at which sigma(t) / alpha(t) is ``ratio``, by bisection.

    Args:
        schedule: with a ratio that rises with t.
        ratio: noise level relative to the signal, from 0; levels above the schedule's give 1.

    Returns:
        Times in [0, 1], of the shape of ``ratio``.
    """
    ratio = jnp.asarray(ratio, jnp.float32)

    # Halving in single precision goes on until neighboring numbers: small times, where the noise
    # level varies most, are found to as many digits as large ones.
    def halve(_: Array | int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        above = schedule.sigma(middle) > ratio * schedule.alpha(middle)
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    ends = jnp.zeros_like(ratio), jnp.ones_like(ratio)
    return jax.lax.fori_loop(0, 48, halve, ends)[1]


def end_levels(schedule: Schedule) -> tuple[float, float]:
    """Return alpha(1) and sigma(1) as numbers, also while something else is traced."""
    if schedule.end is not None:
        return schedule.end
    with jax.ensure_compile_time_eval():
        # One program, not one for each operation.
        alpha, sigma = jax.jit(lambda t: (schedule.alpha(t), schedule.sigma(t)))(jnp.float32(1))
        return float(alpha), float(sigma)


def logsnr(schedule: Schedule, t: ArrayLike) -> Float[Array, "*t"]:
    """Return log(alpha(t)^2 / sigma(t)^2), the log signal-to-noise ratio in nats."""
    return 2 * (jnp.log(schedule.alpha(t)) - jnp.log(schedule.sigma(t)))


@checked
def diffuse(
    schedule: Schedule,
    x_0: Float[Array, "batch *dims"],
    t: Float[Array, "batch"] | Float[Array, ""] | float,
    eps: Float[Array, "batch *dims"],
) -> Float[Array, "batch *dims"]:
    """Sample q(x_t | x_0) with the given noise: alpha(t) x_0 + sigma(t) eps (Ho et al., Eq. 4).

    Raises:
        TypeError: for pixels, or times that are whole numbers.
        ValueError: for a time outside of [0, 1].
    """
    check_floating(x_0=x_0, eps=eps)
    check_times(t)
    return like(schedule.alpha(t), x_0) * x_0 + like(schedule.sigma(t), x_0) * eps


def like(level: Float[Array, "*t"], x: Float[Array, "batch *dims"]) -> Float[Array, "..."]:
    """Shape a level, a scalar or one for each example, so that it multiplies ``x``."""
    return jnp.reshape(level, (-1,) + (1,) * (x.ndim - 1))


def _check_num_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps: got {num_steps}; at least 1 is required")
