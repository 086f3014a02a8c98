"""The diffusion process: schedules, parameterisations, losses and samplers.

Nothing here knows a network. A denoiser is any callable ``(x, t) -> Prediction``; build one from
any network with :func:`denoiser`.
"""

from gen_jax.diffusion.editing import from_partial, inpainting, invert, last_part, repaint_times
from gen_jax.diffusion.guidance import classifier, classifier_free, clip_x_0, dynamic_threshold
from gen_jax.diffusion.likelihood import Bound, bound, bound_term, flow_log_prob, prior_term
from gen_jax.diffusion.losses import denoising_loss
from gen_jax.diffusion.pairing import optimal_pairing
from gen_jax.diffusion.parameterization import (
    Denoiser,
    Parameterization,
    Prediction,
    denoiser,
    edm,
    epsilon,
    v,
    velocity,
    x_0,
)
from gen_jax.diffusion.sampling import (
    integrate,
    karras_times,
    leading_times,
    on_table,
    quadratic_times,
    sample,
    start_noise,
    start_normal,
    uniform_times,
)
from gen_jax.diffusion.schedules import (
    Schedule,
    cosine,
    diffuse,
    from_betas,
    linear_beta,
    logsnr,
    rectified_flow,
    time_of_noise,
    variance_exploding,
)
from gen_jax.diffusion.solvers import (
    Solver,
    SolverState,
    churned,
    ddim,
    ddpm,
    dpmpp_2m,
    euler,
    euler_ancestral,
    heun,
)
from gen_jax.diffusion.time_sampling import (
    antithetic,
    continuous,
    discrete,
    log_normal_noise,
    logit_normal,
)
from gen_jax.diffusion.weighting import Weighting, min_snr, p2, simple

__all__ = [
    "Bound",
    "Denoiser",
    "Parameterization",
    "Prediction",
    "Schedule",
    "Solver",
    "SolverState",
    "Weighting",
    "antithetic",
    "bound",
    "bound_term",
    "churned",
    "classifier",
    "classifier_free",
    "clip_x_0",
    "continuous",
    "cosine",
    "ddim",
    "ddpm",
    "denoiser",
    "denoising_loss",
    "diffuse",
    "discrete",
    "dpmpp_2m",
    "dynamic_threshold",
    "edm",
    "epsilon",
    "euler",
    "euler_ancestral",
    "flow_log_prob",
    "from_betas",
    "from_partial",
    "heun",
    "inpainting",
    "integrate",
    "invert",
    "karras_times",
    "last_part",
    "leading_times",
    "linear_beta",
    "log_normal_noise",
    "logit_normal",
    "logsnr",
    "min_snr",
    "on_table",
    "optimal_pairing",
    "p2",
    "prior_term",
    "quadratic_times",
    "rectified_flow",
    "repaint_times",
    "sample",
    "simple",
    "start_noise",
    "start_normal",
    "time_of_noise",
    "uniform_times",
    "v",
    "variance_exploding",
    "velocity",
    "x_0",
]
