"""Beginning from images: inversion, a partial noise level, and filling in what is missing."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion.parameterization import Denoiser
from gen_jax.diffusion.sampling import integrate
from gen_jax.diffusion.schedules import Schedule, diffuse
from gen_jax.diffusion.solvers import Solver, transition
from gen_jax.ops import keys as rng
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, ArrayLike, Float, Keys, ScalarLike

__all__ = [
    "difference_mask",
    "from_partial",
    "inpainting",
    "invert",
    "last_part",
    "repaint_times",
]


@checked
def invert(
    denoiser: Denoiser,
    schedule: Schedule,
    solver: Solver,
    times: ArrayLike,
    x: Float[Array, "batch *dims"],
    keys: Keys,
) -> Float[Array, "batch *dims"]:
    """Walk the probability flow from data to the noise that a deterministic solver begins with.

    DDIM inversion (Song et al. 2021, Section 4.3) is this with :func:`ddim`.

    Args:
        denoiser: ``(x, t) -> Prediction``.
        schedule: its schedule.
        solver: a deterministic one.
        times: the descending grid of the way back, [S + 1]. Its 0 stands for a small time, a
            hundredth of its last step: at 0 itself there is no direction.
        x: data.
        keys: not drawn from by deterministic solvers.

    Returns:
        Points at ``times[0]``; divided by hypot(alpha, sigma) there, standard normals.
    """
    ascending = jnp.flip(jnp.asarray(times, jnp.float32))
    first = jnp.where(ascending[0] > 0, ascending[0], ascending[1] / 100)
    return integrate(denoiser, schedule, solver, ascending.at[0].set(first), x, keys)


@checked
def from_partial(
    denoiser: Denoiser,
    schedule: Schedule,
    solver: Solver,
    times: ArrayLike,
    x_0: Float[Array, "batch *dims"],
    keys: Keys,
    trace: bool = False,
) -> Float[Array, "..."]:
    """Add the noise of ``times[0]`` to data, and take it off again (Meng et al. 2022, Algorithm 1).

    Args:
        denoiser: ``(x, t) -> Prediction``.
        schedule: its schedule.
        solver: how one step is made.
        times: [S + 1] descending grid, as of :func:`last_part`; may be traced.
        x_0: data.
        keys: one for each example.
        trace: whether to keep the points at every time.

    Returns:
        As :func:`integrate`.
    """
    times = jnp.asarray(times, jnp.float32)
    start_keys, step_keys = rng.split(keys, 2)
    x = diffuse(schedule, x_0, times[0], rng.normal(start_keys, x_0.shape[1:]))
    return integrate(denoiser, schedule, solver, times, x, step_keys, trace)


@checked
def inpainting(
    solver: Solver, x_0: Float[Array, "batch *dims"], mask: Float[Array, "batch *dims"]
) -> Solver:
    """Keep known pixels at their noisy selves while a solver fills in the others.

    After each step to s, known pixels are alpha_s x_0 + sigma_s z (Song et al. 2021b, Appendix I.2;
    Lugmayr et al. 2022, Eq. 8). A step to a larger time diffuses, as on :func:`repaint_times`.

    Args:
        solver: of one step of memory.
        x_0: known data; what stands where the mask is 0 does not matter.
        mask: 1 where the data is known, 0 where it is to be filled in.

    Raises:
        ValueError: for a solver with memory, whose last prediction would be of other pixels.
    """
    if solver.memory:
        raise ValueError(
            "solver: one of a single step is required with a mask, not one with memory"
        )

    def step(
        denoiser: Denoiser, schedule: Schedule, state: Any, t: Array, s: Array, keys: Keys
    ) -> Any:
        step_keys, known_keys, up_keys = rng.split(keys, 3)
        shape = state.x.shape[1:]

        def fall(state: Any) -> Any:
            down = solver.step(denoiser, schedule, state, t, s, step_keys)
            known = diffuse(schedule, x_0, s, rng.normal(known_keys, shape))
            return down._replace(x=mask * known + (1 - mask) * down.x)

        def rise(state: Any) -> Any:
            q = transition(schedule, s, t)
            risen = q.ratio * state.x + jnp.sqrt(q.added) * rng.normal(up_keys, shape)
            return state._replace(x=risen)

        # Rising needs no network: half of the steps of a resampled grid.
        return jax.lax.cond(s > t, rise, fall, state)

    return Solver(init=solver.init, step=step)


def last_part(times: ArrayLike, strength: ScalarLike) -> Float[Array, "*points"]:
    """Lay as many points over the last ``strength`` of a grid's steps, between its own points.

    A share of steps and not of time, so that it means the same on grids of noise levels.

    Args:
        times: [S + 1] descending grid.
        strength: in (0, 1]; may be traced.
    """
    times = jnp.asarray(times, jnp.float32)
    num_steps = len(times) - 1
    places = jnp.arange(num_steps + 1, dtype=jnp.float32)
    wanted = num_steps - strength * (num_steps - places)
    return jnp.interp(wanted, places, times)


def repaint_times(times: np.ndarray, jump: int = 10, resamples: int = 10) -> np.ndarray:
    """Let a grid go back and forth: ``jump`` steps down are walked ``resamples`` times.

    What is filled in then gets to agree with what is known (Lugmayr et al. 2022, Appendix B). As
    in their code the first steps, where all is noise, are walked once, and so is the last, to t =
    0. The number of evaluations grows about ``resamples`` times.

    Args:
        times: descending grid [S + 1].
        jump: from 1, in steps of the grid.
        resamples: from 1, which leaves the grid as it is.

    Returns:
        A grid that rises in single steps of the original.

    Raises:
        ValueError: for other numbers.
    """
    return np.asarray(times)[repaint_order(len(times) - 1, jump, resamples)]


def repaint_order(num_steps: int, jump: int, resamples: int) -> np.ndarray:
    """Return the indices, into a grid of ``num_steps`` steps, of :func:`repaint_times`."""
    if jump < 1 or resamples < 1:
        raise ValueError(f"jump, resamples: got {jump} and {resamples}; at least 1 is required")
    jump = max(1, min(jump, num_steps - 1))  # of few steps there is one way back, to the beginning
    # From so many steps before the last one it goes back up.
    again = dict.fromkeys(range(0, num_steps - jump, jump), resamples - 1)
    order, left = [0], num_steps - 1
    while left > 0:
        left -= 1
        order.append(num_steps - 1 - left)
        if again.get(left, 0):
            again[left] -= 1
            order += [num_steps - 1 - (left + step) for step in range(1, jump + 1)]
            left += jump
    return np.array([*order, num_steps] if num_steps else order)


@checked
def difference_mask(
    denoiser: Denoiser,
    other: Denoiser,
    schedule: Schedule,
    x_0: Float[Array, "batch *dims"],
    keys: Keys,
    *,
    threshold: ScalarLike = 0.5,
    time: float = 0.5,
    num: int = 8,
) -> Float[Array, "batch *dims"]:
    """Find where two conditions see data differently (Couairon et al. 2023, DiffEdit, step 1).

    Differences of predicted noise, averaged over draws and channels, clipped at three times their
    mean and divided by that.

    Args:
        denoiser: told what is wanted.
        other: told what is there.
        schedule: of both.
        x_0: data [batch, ..., channels].
        keys: one for each.
        threshold: share of the largest difference from which a place counts.
        time: of the noise.
        num: draws of it.

    Returns:
        1 where they differ, the same in all channels; 0 everywhere if they are the same.
    """
    t = jnp.full(len(x_0), time)

    def difference(number: Array) -> Array:
        eps = rng.normal(rng.fold_in(keys, number), x_0.shape[1:])
        x_t = diffuse(schedule, x_0, t, eps)
        return jnp.mean(jnp.abs(denoiser(x_t, t).eps - other(x_t, t).eps), axis=-1, keepdims=True)

    level = jnp.mean(jax.lax.map(difference, jnp.arange(num)), axis=0)
    most = 3 * jnp.mean(level, axis=tuple(range(1, level.ndim)), keepdims=True)
    differs = (level > threshold * most) & (most > 1e-6)
    return jnp.broadcast_to(differs.astype(x_0.dtype), x_0.shape)
