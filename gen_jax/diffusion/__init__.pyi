from gen_jax.diffusion.editing import (
    difference_mask as difference_mask,
    from_partial as from_partial,
    inpainting as inpainting,
    invert as invert,
    last_part as last_part,
    repaint_times as repaint_times,
)
from gen_jax.diffusion.generation import (
    generate as generate,
    noise_of as noise_of,
)
from gen_jax.diffusion.guidance import (
    classifier_free as classifier_free,
    classifier_guidance as classifier_guidance,
    clip_x_0 as clip_x_0,
    dynamic_threshold as dynamic_threshold,
    through_x_0 as through_x_0,
    two_conditions as two_conditions,
)
from gen_jax.diffusion.likelihood import (
    Bound as Bound,
    bound as bound,
    bound_term as bound_term,
    flow_log_prob as flow_log_prob,
    prior_term as prior_term,
)
from gen_jax.diffusion.losses import (
    denoising_loss as denoising_loss,
)
from gen_jax.diffusion.objectives import (
    Objective as Objective,
    objective_losses as objective_losses,
)
from gen_jax.diffusion.options import (
    density_faults as density_faults,
    density_options as density_options,
    sampler_faults as sampler_faults,
    sampler_options as sampler_options,
)
from gen_jax.diffusion.pairing import (
    optimal_pairing as optimal_pairing,
)
from gen_jax.diffusion.parameterization import (
    Denoiser as Denoiser,
    Parameterization as Parameterization,
    Prediction as Prediction,
    denoiser as denoiser,
    edm as edm,
    epsilon as epsilon,
    v as v,
    velocity as velocity,
    x_0 as x_0,
)
from gen_jax.diffusion.process import (
    Process as Process,
    make_process as make_process,
)
from gen_jax.diffusion.recipes import (
    make_solver as make_solver,
    make_times as make_times,
)
from gen_jax.diffusion.sampling import (
    integrate as integrate,
    karras_times as karras_times,
    leading_times as leading_times,
    on_table as on_table,
    quadratic_times as quadratic_times,
    sample as sample,
    start_noise as start_noise,
    start_normal as start_normal,
    uniform_times as uniform_times,
)
from gen_jax.diffusion.schedules import (
    Schedule as Schedule,
    cosine as cosine,
    diffuse as diffuse,
    from_betas as from_betas,
    linear_beta as linear_beta,
    logsnr as logsnr,
    rectified_flow as rectified_flow,
    time_of_noise as time_of_noise,
    variance_exploding as variance_exploding,
    zero_terminal_snr as zero_terminal_snr,
)
from gen_jax.diffusion.solvers import (
    Solver as Solver,
    SolverState as SolverState,
    churned as churned,
    ddim as ddim,
    ddpm as ddpm,
    dpmpp_2m as dpmpp_2m,
    euler as euler,
    euler_ancestral as euler_ancestral,
    heun as heun,
)
from gen_jax.diffusion.time_sampling import (
    antithetic as antithetic,
    continuous as continuous,
    discrete as discrete,
    log_normal_noise as log_normal_noise,
    logit_normal as logit_normal,
)
from gen_jax.diffusion.weighting import (
    Weighting as Weighting,
    min_snr as min_snr,
    p2 as p2,
    simple as simple,
)
