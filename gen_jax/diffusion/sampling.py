"""The one loop that every sampler runs in, and the time grids it runs over."""

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion.parameterization import Denoiser
from gen_jax.diffusion.schedules import Schedule
from gen_jax.diffusion.solvers import Solver, SolverState
from gen_jax.ops import keys as rng
from gen_jax.typing import Array, ArrayLike, Float, Keys, Shape

__all__ = ["integrate", "leading_times", "sample", "uniform_times"]


def uniform_times(num_steps: int, num_train_steps: int | None = None) -> np.ndarray:
    """Lay a descending grid from 1 to 0 with ``num_steps`` equal steps.

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
    """Lay the grid tau_i = i floor(T / S) of the DDIM paper's code, counted from the first step.

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


def _check_num_steps(num_steps: int, num_train_steps: int | None) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps: at least 1 is needed, got {num_steps}")
    if num_train_steps is not None and num_steps > num_train_steps:
        raise ValueError(
            f"num_steps: at most the {num_train_steps} steps of the schedule, got {num_steps}"
        )


def integrate(
    denoiser: Denoiser,
    schedule: Schedule,
    solver: Solver,
    times: ArrayLike,
    x: Float[Array, "batch *dims"],
    keys: Keys,
    trace: bool = False,
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

    Returns:
        The points at ``times[-1]``, or with ``trace`` those at every time, [S + 1, batch, ...].
    """
    times = jnp.asarray(times, jnp.float32)

    def step(
        state: SolverState, index_and_times: tuple[Array, Array, Array]
    ) -> tuple[SolverState, Array | None]:
        i, t, s = index_and_times
        state = solver.step(denoiser, schedule, state, t, s, rng.fold_in(keys, i))
        return state, state.x if trace else None

    steps = (jnp.arange(len(times) - 1), times[:-1], times[1:])
    state, trajectory = jax.lax.scan(step, solver.init(x), steps)
    return state.x if trajectory is None else jnp.concatenate([x[None], trajectory])


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
    start_keys, step_keys = rng.split(keys, 2)
    start = jnp.asarray(times, jnp.float32)[0]
    std = jnp.hypot(schedule.alpha(start), schedule.sigma(start))
    x = std * rng.normal(start_keys, shape)
    return integrate(denoiser, schedule, solver, times, x, step_keys, trace)
