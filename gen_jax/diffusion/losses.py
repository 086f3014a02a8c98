"""The denoising loss."""

from collections.abc import Callable

import jax.numpy as jnp

from gen_jax.diffusion.parameterization import Parameterization
from gen_jax.diffusion.schedules import Schedule, diffuse, like
from gen_jax.typing import Array, Float

__all__ = ["denoising_loss"]


def denoising_loss(
    network: Callable[[Float[Array, "batch *dims"], Float[Array, "batch"]], Array],
    schedule: Schedule,
    parameterization: Parameterization,
    x_0: Float[Array, "batch *dims"],
    t: Float[Array, "batch"],
    eps: Float[Array, "batch *dims"],
) -> Float[Array, "batch"]:
    """Measure how far a network is from its target, for each example.

    mean_d (target_d - network(alpha x_0 + sigma eps, t)_d)^2: the L_simple of Ho et al. 2020
    (Eq. 14) where the target is eps, as a mean over dimensions.

    Args:
        network: ``(x_t, t) -> output``, of x_t's shape.
        schedule: signal and noise levels.
        parameterization: what the network should give.
        x_0: clean examples.
        t: times in (0, 1].
        eps: standard normal noise.

    Returns:
        Mean squared error of each example in float32, dimensionless.
    """
    alpha, sigma = like(schedule.alpha(t), x_0), like(schedule.sigma(t), x_0)
    target = parameterization.target(x_0, eps, alpha, sigma)
    error = target - network(diffuse(schedule, x_0, t, eps), t).astype(target.dtype)
    return jnp.mean(jnp.square(error), axis=tuple(range(1, x_0.ndim)))
