"""The one loop that every sampler runs in, and the time grids it runs over."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion.parameterization import Denoiser
from gen_jax.diffusion.schedules import MIN_ALPHA, Schedule, end_levels, time_of_noise
from gen_jax.diffusion.solvers import Solver
from gen_jax.ops import keys as rng
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, ArrayLike, Float, Keys, Shape

__all__ = [
    "integrate",
    "karras_times",
    "leading_times",
    "on_table",
    "quadratic_times",
    "sample",
    "start_noise",
    "start_normal",
    "uniform_times",
]


def uniform_times(num_steps: int, num_train_steps: int | None = None) -> np.ndarray:
    """Make a descending grid from 1 to 0 with ``num_steps`` equal steps.

    Args:
        num_steps: S >= 1; the grid has S + 1 points.
        num_train_steps: T of a discrete schedule; the points are then rounded to multiples of 1/T,
            and S = T is the full grid.

    Returns:
        float32 [S + 1], strictly descending, the first 1 and the last 0.

    Raises:
        ValueError: if S < 1 or S > T.
    """
    _check_num_steps(num_steps, num_train_steps)
    times = np.linspace(1.0, 0.0, num_steps + 1)
    if num_train_steps is not None:
        times = np.round(times * num_train_steps) / num_train_steps
    return times.astype(np.float32)


def leading_times(num_steps: int, num_train_steps: int) -> np.ndarray:
    """Make the grid tau_i = i floor(T / S) of the DDIM paper's code, counted from the first step.

    Unlike :func:`uniform_times` it does not begin at t = 1 unless S = T.

    Args:
        num_steps: S >= 1; the grid has S + 1 points.
        num_train_steps: T >= S.

    Returns:
        float32 [S + 1], strictly descending, the last 0.

    Raises:
        ValueError: if S < 1 or S > T.
    """
    _check_num_steps(num_steps, num_train_steps)
    stride = num_train_steps // num_steps
    index = np.concatenate([np.arange(num_steps)[::-1] * stride + 1, [0]])
    return (index / num_train_steps).astype(np.float32)


def quadratic_times(num_steps: int, t_min: float = 0.0) -> np.ndarray:
    """Make the grid t_i = t_min + (1 - t_min) (i / S)^2: finer steps near the data.

    Song et al. 2021, appendix D.2, "quadratic", whose tau_i = c i^2.

    Args:
        num_steps: S >= 1; the grid has S + 1 points.
        t_min: the last point.

    Returns:
        float32 [S + 1], strictly descending.

    Raises:
        ValueError: if S < 1.
    """
    _check_num_steps(num_steps, None)
    return (t_min + (1 - t_min) * np.linspace(1.0, 0.0, num_steps + 1) ** 2).astype(np.float32)


def karras_times(
    schedule: Schedule,
    num_steps: int,
    *,
    low: float = 0.002,
    high: float = 80.0,
    rho: float = 7.0,
) -> np.ndarray:
    """Make a grid whose noise levels r = sigma / alpha have equal steps in r^(1 / rho).

    r_i = (high^(1/rho) + i / (S - 1) (low^(1/rho) - high^(1/rho)))^rho for i < S, and r_S = 0
    (Karras et al. 2022, Eq. 5).

    Args:
        schedule: levels that it does not reach become its own: its largest at t = 1, and for a
            discrete schedule, if there is any, its smallest.
        num_steps: S >= 1; the grid has S + 1 points.
        low: smallest level above 0.
        high: largest level.
        rho: 7 in the paper; 1 gives equal steps of r.

    Returns:
        float32 [S + 1], strictly descending, the last 0. The first is 1 where the schedule's
        largest level is at most ``high``.

    Raises:
        ValueError: if S < 1, or not 0 < low < high.
    """
    _check_num_steps(num_steps, None)
    if not 0 < low < high:
        raise ValueError(f"low, high: got {low} and {high}; 0 < low < high is required")
    alpha, sigma = end_levels(schedule)
    last = sigma / max(alpha, MIN_ALPHA)
    first, final = (x ** (1 / rho) for x in (min(high, last), min(low, last / 2)))
    ratios = np.float32(np.linspace(first, final, num_steps) ** rho)
    with jax.ensure_compile_time_eval():  # grids are constants, also of a compiled sampler
        times = np.array(jax.jit(lambda ratio: time_of_noise(schedule, ratio))(ratios))
    if high >= last:
        times[0] = 1.0
    return np.append(times, 0.0).astype(np.float32)


def on_table(times: np.ndarray, num_train_steps: int) -> np.ndarray:
    """Move a descending grid onto the multiples of 1 / T that a discrete model was trained at.

    Points that would meet are pushed apart, one step of 1 / T each, so that their number stays.

    Args:
        times: [S + 1] from at most 1 to 0.
        num_train_steps: T >= S.

    Raises:
        ValueError: if S > T.
    """
    num_steps = len(times) - 1
    _check_num_steps(num_steps, num_train_steps)
    index = np.round(np.asarray(times, np.float64) * num_train_steps)
    least = np.arange(num_steps, -1, -1)  # room for those that follow
    index = np.maximum(index, least)
    for i in range(1, len(index)):
        index[i] = min(index[i], index[i - 1] - 1)
    return (index / num_train_steps).astype(np.float32)


def _check_num_steps(num_steps: int, num_train_steps: int | None) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps: got {num_steps}; at least 1 is required")
    if num_train_steps is not None and num_steps > num_train_steps:
        raise ValueError(
            f"num_steps: got {num_steps}; at most the schedule's {num_train_steps} are required"
        )


@checked
def integrate(
    denoiser: Denoiser,
    schedule: Schedule,
    solver: Solver,
    times: ArrayLike,
    x: Float[Array, "batch *dims"],
    keys: Keys,
    trace: bool = False,
    num_steps: ArrayLike | None = None,
) -> Float[Array, "..."]:
    """Carry points along a time grid with one ``lax.scan``.

    Args:
        denoiser: ``(x, t) -> Prediction``.
        schedule: the denoiser's schedule.
        solver: how one step is made.
        times: [S + 1] grid; descending for sampling, ascending for inversion.
        x: points at ``times[0]``.
        keys: one for each point; step i draws from the key folded with i.
        trace: whether to keep the points at every time.
        num_steps: how many steps of the grid are walked; by default all. It may be traced, so that
            one program serves grids of any number of steps, filled up to one length; the loop then
            has no reverse-mode gradient.

    Returns:
        The points at ``times[-1]``, or with ``trace`` those at every time, [S + 1, batch, ...].

    Raises:
        ValueError: for ``trace`` with ``num_steps``, which would leave times without points.
    """
    if trace and num_steps is not None:
        raise ValueError("trace: does not go with num_steps")
    times = jnp.asarray(times, jnp.float32)

    def step(state: Any, index_and_times: tuple[Array, Array, Array]) -> tuple[Any, Array | None]:
        i, t, s = index_and_times
        new = solver.step(denoiser, schedule, state, t, s, rng.fold_in(keys, i))
        # A network may answer in another precision than the points are in, and a loop carries one.
        new = jax.tree.map(lambda x, old: jnp.asarray(x, old.dtype), new, state)
        return new, new.x if trace else None

    if num_steps is not None:

        def walk(i: Array, state: Any) -> Any:
            return step(state, (i, times[i], times[i + 1]))[0]

        return jax.lax.fori_loop(0, num_steps, walk, solver.init(x)).x
    steps = (jnp.arange(len(times) - 1), times[:-1], times[1:])
    state, trajectory = jax.lax.scan(step, solver.init(x), steps)
    return state.x if trajectory is None else jnp.concatenate([x[None], trajectory])


@checked
def sample(
    denoiser: Denoiser,
    schedule: Schedule,
    solver: Solver,
    times: ArrayLike,
    shape: Shape,
    keys: Keys,
    trace: bool = False,
) -> Float[Array, "..."]:
    """Draw one sample from each key: noise at ``times[0]``, carried to ``times[-1]``.

    The noise has the standard deviation sqrt(alpha^2 + sigma^2) of diffused data of unit variance,
    which for a variance-preserving schedule is 1 (Ho et al. 2020, Algorithm 2, line 1).

    Args:
        denoiser: ``(x, t) -> Prediction``.
        schedule: the denoiser's schedule.
        solver: how one step is made.
        times: [S + 1] descending grid, usually from 1 to 0.
        shape: shape of one sample.
        keys: [batch]; a sample depends on its own key alone.
        trace: whether to keep the points at every time.

    Returns:
        [batch, *shape], or with ``trace`` [S + 1, batch, *shape].
    """
    _, step_keys = rng.split(keys, 2)
    x = start_noise(schedule, times, start_normal(keys, shape))
    return integrate(denoiser, schedule, solver, times, x, step_keys, trace)


@checked
def start_normal(keys: Keys, shape: Shape) -> Float[Array, "batch *dims"]:
    """Draw the standard normals that :func:`sample` begins with, one of ``shape`` from each key."""
    return rng.normal(rng.split(keys, 2)[0], shape)


@checked
def start_noise(
    schedule: Schedule, times: ArrayLike, eps: Float[Array, "batch *dims"]
) -> Float[Array, "batch *dims"]:
    """Scale standard normals to the points at ``times[0]`` that :func:`sample` begins with."""
    start = jnp.asarray(times, jnp.float32)[0]
    return jnp.hypot(schedule.alpha(start), schedule.sigma(start)) * eps
