"""Samples, latents and likelihoods of a process, asked for by the names of its options.

:mod:`gen_jax.diffusion.options` lists what can be asked for; everything here is also there piece
by piece, for whoever builds something else of it.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.diffusion import editing, guidance
from gen_jax.diffusion.likelihood import bound, flow_log_prob
from gen_jax.diffusion.parameterization import Denoiser, Prediction
from gen_jax.diffusion.process import Process
from gen_jax.diffusion.recipes import make_solver, make_times
from gen_jax.diffusion.sampling import (
    integrate,
    karras_times,
    start_noise,
    start_normal,
    uniform_times,
)
from gen_jax.diffusion.solvers import Variance
from gen_jax.ops import keys as rng
from gen_jax.ops.checks import checked
from gen_jax.protocols import LogProb
from gen_jax.typing import Array, ArrayLike, Float, Keys, PyTree, ScalarLike, Shape

__all__ = ["default_steps", "generate", "grid_ahead", "likelihood", "noise_of"]

# Smallest noise level above 0 of the bound of a schedule without a table: that of the first step of
# DDPM's, a bit more than a gray level of data from -1 to 1.
LEAST_NOISE = 0.01


def default_steps(process: Process, solver: str) -> int:
    """Return a solver's usual number of steps."""
    few = {"heun": 18, "dpmpp_2m": 20}.get(solver, 50)
    if process.num_steps is None:
        return 1000 if solver == "ddpm" else few
    return process.num_steps if solver == "ddpm" else min(few, process.num_steps)


# Grids of so many points, or a multiple, are one program.
_GRID_LENGTH = 1024


def grid_ahead(
    process: Process, options: Mapping[str, Any], told: Collection[str]
) -> Mapping[str, Any]:
    """Put the grid itself in the place of ``solver``'s ``steps`` and ``grid``.

    What :func:`generate` is asked for with it compiles one program for all numbers of steps. Where
    the number decides more than the grid (an image to begin with, a mask, a trace), options stay.

    Args:
        process: the noise.
        options: of :func:`gen_jax.diffusion.options.sampler_options`.
        told: names of what the model is told.

    Returns:
        Options with ``times``, float32 [multiple of 1024] filled up with zeros, and ``num_steps``.
    """
    if {"image", "mask"} & set(told) or any(options.get(name) for name in ("trace", "invert")):
        return options
    kept = {name: value for name, value in options.items() if name not in ("steps", "grid")}
    solver = options.get("solver", "ddim")
    times = _grid(process, solver, options.get("steps"), options.get("grid"))
    padded = np.zeros(-(-len(times) // _GRID_LENGTH) * _GRID_LENGTH, np.float32)
    padded[: len(times)] = times
    return {**kept, "times": padded, "num_steps": np.int32(len(times) - 1)}


def _grid(process: Process, solver: str, steps: int | None, grid: str | None) -> np.ndarray:
    steps = default_steps(process, solver) if steps is None else steps
    name = process.default_grid if grid is None else grid
    return make_times(name, steps, process.schedule, process.num_steps)


@checked
def generate(
    process: Process,
    denoise: Denoiser,
    keys: Keys,
    shape: Shape,
    *,
    noise: Float[Array, "batch *dims"] | None = None,
    image: Float[Array, "batch *dims"] | None = None,
    mask: Float[Array, "batch *dims"] | None = None,
    solver: str = "ddim",
    steps: int | None = None,
    grid: str | None = None,
    times: Float[Array, "points"] | None = None,
    num_steps: ArrayLike | None = None,
    eta: ScalarLike | None = None,
    variance: Variance | None = None,
    quantile: ScalarLike | None = None,
    churn: ScalarLike | None = None,
    churn_from: ScalarLike | None = None,
    churn_to: ScalarLike | None = None,
    churn_noise: ScalarLike | None = None,
    strength: ScalarLike | None = None,
    invert: bool = False,
    resamples: int = 1,
    jump: int = 10,
    trace: bool = False,
    clipped: bool = True,
    guide: Callable[[Denoiser], Denoiser] | None = None,
    inverting: Denoiser | None = None,
) -> Float[Array, "batch *points"]:
    """Draw one x from each key; see :func:`gen_jax.diffusion.options.sampler_options`.

    Args:
        process: the noise and the parameterization.
        denoise: of the model, guided already.
        keys: one for each x.
        shape: of one x.
        noise: standard normals to begin with, in place of drawn ones.
        image: x to begin from, or known x with a mask.
        mask: 1 where ``image`` is known.
        solver: one of :data:`gen_jax.diffusion.recipes.SOLVERS`.
        steps: of the solver.
        grid: one of :data:`gen_jax.diffusion.recipes.GRIDS`.
        times: the grid itself, in place of both, of which ``num_steps`` steps are walked; see
            :func:`grid_ahead`.
        num_steps: may be traced.
        eta: fresh noise of ddim and euler_ancestral.
        variance: of ddpm.
        quantile: of dynamic thresholding.
        churn: S_churn.
        churn_from: S_tmin.
        churn_to: S_tmax.
        churn_noise: S_noise.
        strength: share of the steps that are walked from the noisy image.
        invert: walk from the image to its noise and back.
        resamples: how often each stretch is walked with a mask.
        jump: steps in such a stretch.
        trace: give the points at every time, [batch, steps + 1, ...].
        clipped: whether x_0 is clipped, where the process clips; without, what :func:`noise_of`
            found leads back.
        guide: what is done to the denoiser after x_0 has been clipped, as guidance by a classifier
            (Dhariwal & Nichol 2021, Algorithms 1 and 2).
        inverting: the denoiser that walks from an image to its noise, where that is another.

    Raises:
        ValueError: if settings do not go together.
    """
    leads_back = invert or not clipped  # which a flow that is clipped does not
    schedule = process.schedule
    if quantile is not None:
        denoise = guidance.dynamic_threshold(denoise, schedule, quantile)
    elif process.clip and not leads_back:
        denoise = guidance.clip_x_0(denoise, schedule)
    if guide is not None:
        denoise = guide(denoise)
    points: np.ndarray | Array
    if times is None and num_steps is None:
        points = _grid(process, solver, steps, grid)
    else:
        whole = strength is None and mask is None and not (invert or trace)
        points = _given(times, num_steps, whole and steps is None and grid is None)
    method = make_solver(
        solver,
        len(points) - 1 if num_steps is None else num_steps,
        eta=eta,
        variance=process.variances[0] if variance is None else variance,
        churn=churn,
        churn_from=churn_from,
        churn_to=churn_to,
        churn_noise=churn_noise,
    )
    way = jnp.asarray(points) if strength is None else editing.last_part(points, strength)
    if mask is not None:
        if image is None:
            raise ValueError("mask: has a meaning only with an image")
        method = editing.inpainting(method, image, mask)
        way = way[editing.repaint_order(len(points) - 1, jump, resamples)]
    if strength is not None:
        if image is None:
            raise ValueError("strength: has a meaning only with an image")
        # Of a table too: between its entries, which its levels and the embedding bridge.
        made = editing.from_partial(denoise, schedule, method, way, image, keys, trace)
        return jnp.swapaxes(made, 0, 1) if trace else made
    if invert:
        if image is None:
            raise ValueError("invert: has a meaning only with an image")
        walker = denoise if inverting is None else inverting
        x = editing.invert(walker, schedule, method, points, image, keys)
    else:
        eps = start_normal(keys, shape) if noise is None else noise
        x = start_noise(schedule, points, eps)
    _, step_keys = rng.split(keys, 2)
    made = integrate(denoise, schedule, method, way, x, step_keys, trace, num_steps)
    return jnp.swapaxes(made, 0, 1) if trace else made


def _given(times: Array | None, num_steps: ArrayLike | None, whole: bool) -> Array:
    """Check that a grid given as arrays is all that decides the way."""
    if times is None or num_steps is None or not whole:
        raise ValueError(
            "times: stands with num_steps in the place of steps and grid; strength, mask, invert "
            "and trace need these"
        )
    return times


@checked
def noise_of(
    process: Process,
    denoise: Denoiser,
    x: Float[Array, "batch *dims"],
    keys: Keys,
    *,
    solver: str = "ddim",
    steps: int | None = None,
    grid: str | None = None,
) -> Float[Array, "batch *dims"]:
    """Invert a deterministic sampler: find the standard normals that lead to x.

    Args:
        process: the noise and the parameterization.
        denoise: of the model, not clipped.
        x: data.
        keys: not drawn from.
        solver: a deterministic one.
        steps: as of :func:`generate`, which then leads back.
        grid: likewise.
    """
    times = _grid(process, solver, steps, grid)
    method = make_solver(solver, len(times) - 1)
    points = editing.invert(denoise, process.schedule, method, times, x, keys)
    return points / jnp.hypot(process.schedule.alpha(times[0]), process.schedule.sigma(times[0]))


@checked
def likelihood(
    process: Process,
    denoise_for: Callable[[PyTree], Denoiser],
    condition: PyTree,
    x: Float[Array, "batch *dims"],
    keys: Keys,
    *,
    likelihood: str | None = None,
    likelihood_steps: int | None = None,
    likelihood_variance: Variance | None = None,
    probes: int = 1,
    tolerance: ScalarLike = 1e-4,
) -> LogProb:
    """Estimate log p(x); see :func:`gen_jax.diffusion.options.density_options`.

    Args:
        process: the noise and the parameterization.
        denoise_for: makes the denoiser of a condition, arrays [B, ...].
        condition: of each x.
        x: data.
        keys: one for each x.
        likelihood: ``"bound"`` or ``"flow"``; None for the bound, where it is one.
        likelihood_steps: of the bound.
        likelihood_variance: of its steps.
        probes: of the flow's divergence.
        tolerance: of the flow's solver.
    """
    if likelihood == "flow" or (likelihood is None and process.coupled):
        return _flow(process, denoise_for, condition, x, keys, probes, tolerance)
    steps = likelihood_steps or process.num_steps or 1000
    if process.num_steps is None:
        # Equal steps of time would end in leaps of the noise level, far below a gray level.
        times = karras_times(process.schedule, steps, low=LEAST_NOISE)
        times[0] = 1.0  # of the prior's term
    else:
        times = uniform_times(steps, process.num_steps)
    denoise = denoise_for(condition)
    if process.clip:
        denoise = guidance.clip_x_0(denoise, process.schedule)
    usual = process.likelihood_variances[0]
    variance = usual if likelihood_variance is None else likelihood_variance
    made = bound(denoise, process.schedule, x, times, keys, variance, process.bin_width)
    # What it gives of discrete x are probabilities; a density's are in units of x.
    unit = 0.0 if process.bin_width is None else math.log(process.bin_width)
    nats = -made.total - math.prod(x.shape[1:]) * unit
    terms = {
        "prior": made.prior,
        "steps": made.steps.T,
        "x_0_error": made.x_0_error.T,
        "eps_error": made.eps_error.T,
    }
    return LogProb(nats, jnp.full_like(nats, jnp.nan), terms)


def _flow(
    process: Process,
    denoise_for: Callable[[PyTree], Denoiser],
    condition: PyTree,
    x: Array,
    keys: Keys,
    probes: int,
    tolerance: ScalarLike,
) -> LogProb:
    noise_keys, probe_keys = rng.split(keys, 2)
    if process.bin_width is not None:
        shape = x.shape[1:]
        draw = jax.vmap(lambda key: jax.random.uniform(key, shape, minval=-0.5, maxval=0.5))
        x = x + process.bin_width * draw(noise_keys)

    def denoise_one(x: Array, t: Array, own: PyTree) -> Prediction:
        return denoise_for(own)(x, t)

    nats, stderr = flow_log_prob(
        denoise_one,
        process.schedule,
        x,
        probe_keys,
        condition=condition,
        num_probes=probes,
        tolerance=tolerance,
        # Below its first entry a table's network was never trained.
        t_min=1e-4 if process.num_steps is None else 1 / process.num_steps,
    )
    return LogProb(nats, stderr)
