"""The diffusion process: schedules, parameterisations, losses and samplers.

Nothing here knows a network. A denoiser is any callable ``(x, t) -> Prediction``; build one from
any network with :func:`denoiser`.
"""

from gen_jax.diffusion.guidance import clip_x_0
from gen_jax.diffusion.losses import denoising_loss
from gen_jax.diffusion.parameterization import (
    Denoiser,
    Parameterization,
    Prediction,
    denoiser,
    epsilon,
    v,
    x_0,
)
from gen_jax.diffusion.sampling import integrate, leading_times, sample, uniform_times
from gen_jax.diffusion.schedules import (
    Schedule,
    cosine,
    diffuse,
    from_betas,
    linear_beta,
    logsnr,
)
from gen_jax.diffusion.solvers import Solver, SolverState, ddim, ddpm
from gen_jax.diffusion.time_sampling import continuous, discrete

__all__ = [
    "Denoiser",
    "Parameterization",
    "Prediction",
    "Schedule",
    "Solver",
    "SolverState",
    "clip_x_0",
    "continuous",
    "cosine",
    "ddim",
    "ddpm",
    "denoiser",
    "denoising_loss",
    "diffuse",
    "discrete",
    "epsilon",
    "from_betas",
    "integrate",
    "leading_times",
    "linear_beta",
    "logsnr",
    "sample",
    "uniform_times",
    "v",
    "x_0",
]
