from gen_jax.diffusion.editing import (
    from_partial as from_partial,
)
from gen_jax.diffusion.editing import (
    inpainting as inpainting,
)
from gen_jax.diffusion.editing import (
    invert as invert,
)
from gen_jax.diffusion.editing import (
    last_part as last_part,
)
from gen_jax.diffusion.editing import (
    repaint_times as repaint_times,
)
from gen_jax.diffusion.generation import (
    generate as generate,
)
from gen_jax.diffusion.generation import (
    noise_of as noise_of,
)
from gen_jax.diffusion.guidance import (
    classifier_free as classifier_free,
)
from gen_jax.diffusion.guidance import (
    classifier_guidance as classifier_guidance,
)
from gen_jax.diffusion.guidance import (
    clip_x_0 as clip_x_0,
)
from gen_jax.diffusion.guidance import (
    dynamic_threshold as dynamic_threshold,
)
from gen_jax.diffusion.likelihood import (
    Bound as Bound,
)
from gen_jax.diffusion.likelihood import (
    bound as bound,
)
from gen_jax.diffusion.likelihood import (
    bound_term as bound_term,
)
from gen_jax.diffusion.likelihood import (
    flow_log_prob as flow_log_prob,
)
from gen_jax.diffusion.likelihood import (
    prior_term as prior_term,
)
from gen_jax.diffusion.losses import (
    denoising_loss as denoising_loss,
)
from gen_jax.diffusion.objectives import (
    Objective as Objective,
)
from gen_jax.diffusion.objectives import (
    objective_losses as objective_losses,
)
from gen_jax.diffusion.options import (
    density_faults as density_faults,
)
from gen_jax.diffusion.options import (
    density_options as density_options,
)
from gen_jax.diffusion.options import (
    sampler_faults as sampler_faults,
)
from gen_jax.diffusion.options import (
    sampler_options as sampler_options,
)
from gen_jax.diffusion.pairing import (
    optimal_pairing as optimal_pairing,
)
from gen_jax.diffusion.parameterization import (
    Denoiser as Denoiser,
)
from gen_jax.diffusion.parameterization import (
    Parameterization as Parameterization,
)
from gen_jax.diffusion.parameterization import (
    Prediction as Prediction,
)
from gen_jax.diffusion.parameterization import (
    denoiser as denoiser,
)
from gen_jax.diffusion.parameterization import (
    edm as edm,
)
from gen_jax.diffusion.parameterization import (
    epsilon as epsilon,
)
from gen_jax.diffusion.parameterization import (
    v as v,
)
from gen_jax.diffusion.parameterization import (
    velocity as velocity,
)
from gen_jax.diffusion.parameterization import (
    x_0 as x_0,
)
from gen_jax.diffusion.process import (
    Process as Process,
)
from gen_jax.diffusion.process import (
    make_process as make_process,
)
from gen_jax.diffusion.recipes import (
    make_solver as make_solver,
)
from gen_jax.diffusion.recipes import (
    make_times as make_times,
)
from gen_jax.diffusion.sampling import (
    integrate as integrate,
)
from gen_jax.diffusion.sampling import (
    karras_times as karras_times,
)
from gen_jax.diffusion.sampling import (
    leading_times as leading_times,
)
from gen_jax.diffusion.sampling import (
    on_table as on_table,
)
from gen_jax.diffusion.sampling import (
    quadratic_times as quadratic_times,
)
from gen_jax.diffusion.sampling import (
    sample as sample,
)
from gen_jax.diffusion.sampling import (
    start_noise as start_noise,
)
from gen_jax.diffusion.sampling import (
    start_normal as start_normal,
)
from gen_jax.diffusion.sampling import (
    uniform_times as uniform_times,
)
from gen_jax.diffusion.schedules import (
    Schedule as Schedule,
)
from gen_jax.diffusion.schedules import (
    cosine as cosine,
)
from gen_jax.diffusion.schedules import (
    diffuse as diffuse,
)
from gen_jax.diffusion.schedules import (
    from_betas as from_betas,
)
from gen_jax.diffusion.schedules import (
    linear_beta as linear_beta,
)
from gen_jax.diffusion.schedules import (
    logsnr as logsnr,
)
from gen_jax.diffusion.schedules import (
    rectified_flow as rectified_flow,
)
from gen_jax.diffusion.schedules import (
    time_of_noise as time_of_noise,
)
from gen_jax.diffusion.schedules import (
    variance_exploding as variance_exploding,
)
from gen_jax.diffusion.solvers import (
    Solver as Solver,
)
from gen_jax.diffusion.solvers import (
    SolverState as SolverState,
)
from gen_jax.diffusion.solvers import (
    churned as churned,
)
from gen_jax.diffusion.solvers import (
    ddim as ddim,
)
from gen_jax.diffusion.solvers import (
    ddpm as ddpm,
)
from gen_jax.diffusion.solvers import (
    dpmpp_2m as dpmpp_2m,
)
from gen_jax.diffusion.solvers import (
    euler as euler,
)
from gen_jax.diffusion.solvers import (
    euler_ancestral as euler_ancestral,
)
from gen_jax.diffusion.solvers import (
    heun as heun,
)
from gen_jax.diffusion.time_sampling import (
    antithetic as antithetic,
)
from gen_jax.diffusion.time_sampling import (
    continuous as continuous,
)
from gen_jax.diffusion.time_sampling import (
    discrete as discrete,
)
from gen_jax.diffusion.time_sampling import (
    log_normal_noise as log_normal_noise,
)
from gen_jax.diffusion.time_sampling import (
    logit_normal as logit_normal,
)
from gen_jax.diffusion.weighting import (
    Weighting as Weighting,
)
from gen_jax.diffusion.weighting import (
    min_snr as min_snr,
)
from gen_jax.diffusion.weighting import (
    p2 as p2,
)
from gen_jax.diffusion.weighting import (
    simple as simple,
)
