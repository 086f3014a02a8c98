"""What a network is trained to predict, and how to read it.

Whatever the target, one output becomes one :class:`Prediction` with both x_0 and eps, so that
solvers and guidance never ask what the network was trained on.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from gen_jax.diffusion.schedules import Schedule, like
from gen_jax.typing import Array, Float

__all__ = ["Denoiser", "Parameterization", "Prediction", "denoiser", "epsilon", "v", "x_0"]


class Prediction(NamedTuple):
    """A denoised example and the noise that goes with it: x_t = alpha x_0 + sigma eps."""

    x_0: Float[Array, "batch *dims"]
    eps: Float[Array, "batch *dims"]


Denoiser = Callable[[Float[Array, "batch *dims"], Float[Array, "*t"] | float], Prediction]
"""``(x [B, ...], t in (0, 1], a scalar or [B]) -> Prediction``; parameters, condition and guidance
are already closed over."""


class Parameterization(NamedTuple):
    """A pair of linear maps; ``alpha`` and ``sigma`` are shaped to multiply the arrays.

    ``target(x_0, eps, alpha, sigma)`` is what the network should give, and
    ``read(output, x_t, alpha, sigma)`` the :class:`Prediction` that an output stands for.
    """

    target: Callable[[Array, Array, Array, Array], Array]
    read: Callable[[Array, Array, Array, Array], Prediction]


def _x_0_from_eps(eps: Array, x_t: Array, alpha: Array, sigma: Array) -> Array:
    return (x_t - sigma * eps) / alpha


def eps_from_x_0(x_0: Array, x_t: Array, alpha: Array, sigma: Array) -> Array:
    """Give the noise that leads from ``x_0`` to ``x_t``: (x_t - alpha x_0) / sigma."""
    return (x_t - alpha * x_0) / sigma


epsilon = Parameterization(
    target=lambda x_0, eps, alpha, sigma: eps,
    read=lambda output, x_t, alpha, sigma: Prediction(
        x_0=_x_0_from_eps(output, x_t, alpha, sigma), eps=output
    ),
)
"""The noise itself (Ho et al. 2020, Eq. 12)."""

x_0 = Parameterization(
    target=lambda x_0, eps, alpha, sigma: x_0,
    read=lambda output, x_t, alpha, sigma: Prediction(
        x_0=output, eps=eps_from_x_0(output, x_t, alpha, sigma)
    ),
)
"""The clean example."""


def _read_v(output: Array, x_t: Array, alpha: Array, sigma: Array) -> Prediction:
    # Divided by alpha^2 + sigma^2, which is 1 for a variance-preserving schedule only.
    norm = jnp.square(alpha) + jnp.square(sigma)
    return Prediction(
        x_0=(alpha * x_t - sigma * output) / norm, eps=(sigma * x_t + alpha * output) / norm
    )


v = Parameterization(
    target=lambda x_0, eps, alpha, sigma: alpha * eps - sigma * x_0,
    read=_read_v,
)
"""v = alpha eps - sigma x_0 (Salimans & Ho 2022, Appendix D); defined at both ends of time."""


def denoiser(
    network: Callable[[Float[Array, "batch *dims"], Float[Array, "batch"]], Array],
    schedule: Schedule,
    parameterization: Parameterization,
) -> Denoiser:
    """Make a denoiser of any network.

    Args:
        network: ``(x_t [B, ...], t [B] in (0, 1]) -> output [B, ...]``: a bare function, or a bound
            module of any framework.
        schedule: the schedule that the network was trained with.
        parameterization: what the network was trained to predict.
    """

    def denoise(x: Float[Array, "batch *dims"], t: Float[Array, "*t"] | float) -> Prediction:
        t = jnp.broadcast_to(jnp.asarray(t, jnp.float32), x.shape[:1])
        alpha, sigma = like(schedule.alpha(t), x), like(schedule.sigma(t), x)
        return parameterization.read(network(x, t), x, alpha, sigma)

    return denoise
