"""The denoising loss, and the bound's."""

from collections.abc import Callable

import jax.numpy as jnp

from gen_jax.diffusion.parameterization import Parameterization
from gen_jax.diffusion.schedules import Schedule, diffuse, like
from gen_jax.diffusion.weighting import Weighting, of_target
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float

__all__ = ["denoising_loss"]


@checked
def denoising_loss(
    network: Callable[[Float[Array, "batch *dims"], Float[Array, "batch"]], Array],
    schedule: Schedule,
    parameterization: Parameterization,
    x_0: Float[Array, "batch *dims"],
    t: Float[Array, "batch"],
    eps: Float[Array, "batch *dims"],
    weighting: Weighting | None = None,
) -> Float[Array, "batch"]:
    """Measure how far a network is from its target, for each example.

    mean_d (target_d - network(alpha x_0 + sigma eps, t)_d)^2: the L_simple of Ho et al. 2020
    (Eq. 14) where the target is eps, as a mean over dimensions. For velocity on a rectified flow it
    is Liu et al. 2023, Eq. 1, and with :func:`gen_jax.diffusion.edm` Karras et al. 2022, Eq. 8.

    Args:
        network: ``(x_t, t) -> output``, of x_t's shape.
        schedule: signal and noise levels.
        parameterization: what the network should give.
        x_0: clean examples.
        t: times in (0, 1].
        eps: standard normal noise.
        weighting: how much each noise level counts; None leaves the error of the target as it is.

    Returns:
        Mean squared error of each example in float32, dimensionless.
    """
    alpha, sigma = like(schedule.alpha(t), x_0), like(schedule.sigma(t), x_0)
    target = parameterization.target(x_0, eps, alpha, sigma)
    x_t = diffuse(schedule, x_0, t, eps)
    error = target - network(*parameterization.show(x_t, t, alpha, sigma)).astype(target.dtype)
    losses = jnp.mean(jnp.square(error), axis=tuple(range(1, x_0.ndim)))
    if weighting is None:
        return losses
    return losses * of_target(weighting, parameterization, schedule.alpha(t), schedule.sigma(t))
