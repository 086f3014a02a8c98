"""Guidance: Denoiser -> Denoiser, so that rules compose with each other and with any solver."""

import jax.numpy as jnp

from gen_jax.diffusion.parameterization import Denoiser, Prediction, eps_from_x_0
from gen_jax.diffusion.schedules import Schedule, like
from gen_jax.typing import Array, Float

__all__ = ["clip_x_0"]


def clip_x_0(
    denoiser: Denoiser, schedule: Schedule, low: float = -1.0, high: float = 1.0
) -> Denoiser:
    """Clip the predicted x_0 to the range of the data and make eps agree with it.

    Static thresholding (Saharia et al. 2022, Section 2.3); for the DDPM solver it is what Ho et
    al. 2020 do.

    Args:
        denoiser: the denoiser to guide.
        schedule: its schedule.
        low: smallest value of the data.
        high: largest value of the data.
    """

    def denoise(x: Float[Array, "batch *dims"], t: Float[Array, "*t"] | float) -> Prediction:
        x_0 = jnp.clip(denoiser(x, t).x_0, low, high)
        alpha, sigma = like(schedule.alpha(t), x), like(schedule.sigma(t), x)
        return Prediction(x_0=x_0, eps=eps_from_x_0(x_0, x, alpha, sigma))

    return denoise
