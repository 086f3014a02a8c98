"""How much each noise level counts in a loss.

A weighting gives the weight of the squared error of **eps** at a signal-to-noise ratio, so that the
weight 1 is L_simple (Ho et al. 2020, Eq. 14) whatever the network predicts.
"""

from collections.abc import Callable

import jax.numpy as jnp

from gen_jax.diffusion.parameterization import Parameterization
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float

__all__ = ["Weighting", "min_snr", "of_target", "p2", "simple"]

Weighting = Callable[[Float[Array, "..."]], Float[Array, "..."]]
"""``alpha^2 / sigma^2 -> weight of the squared error of eps``, of the same shape."""


def simple() -> Weighting:
    """Weigh all errors of eps alike: L_simple, also for networks that predict something else."""
    return jnp.ones_like  # the same each time, by which it is known


def min_snr(gamma: float = 5.0) -> Weighting:
    """Weigh errors of x_0 by min(SNR, gamma) (Hang et al. 2023, Eq. 8).

    That is min(SNR, gamma) / SNR for errors of eps.

    Args:
        gamma: above 0; the paper's is 5.

    Raises:
        ValueError: if it is not.
    """
    if not gamma > 0:
        raise ValueError(f"gamma: got {gamma}; a number above 0 is required")
    return lambda snr: gamma / jnp.maximum(snr, gamma)


def p2(gamma: float = 1.0, k: float = 1.0) -> Weighting:
    """Weigh errors of eps by 1 / (k + SNR)^gamma (Choi et al. 2022, Eq. 8).

    Args:
        gamma: from 0; how strongly small noise counts less.
        k: above 0; keeps large noise from counting without limit.

    Raises:
        ValueError: for others.
    """
    if not gamma >= 0:
        raise ValueError(f"gamma: got {gamma}; a number from 0 is required")
    if not k > 0:
        raise ValueError(f"k: got {k}; a number above 0 is required")
    return lambda snr: (k + snr) ** -gamma


@checked
def of_target(
    weighting: Weighting,
    parameterization: Parameterization,
    alpha: Float[Array, "..."],
    sigma: Float[Array, "..."],
) -> Float[Array, "..."]:
    """Return the weight of the squared error of a network's target.

    Reading an output is linear: what an error of 1 makes of eps, its square is the factor between
    the two errors.
    """
    one = jnp.ones_like(alpha)
    error = parameterization.read(one, 0 * one, alpha, sigma).eps
    return weighting(jnp.square(alpha / sigma)) * jnp.square(error)
