"""Losses of two players, in nats an example, from a discriminator's logits."""

import jax

from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float

__all__ = ["discriminator_loss", "non_saturating_loss"]


@checked
def discriminator_loss(
    real: Float[Array, "batch"], fake: Float[Array, "batch"]
) -> Float[Array, "batch"]:
    """Compute -log D(real) - log(1 - D(fake)), D = sigmoid(logits) (Goodfellow et al. 2014, Eq. 1).

    At D = 1/2 everywhere, where nothing can be told apart, it is 2 log 2.
    """
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


@checked
def non_saturating_loss(fake: Float[Array, "batch"]) -> Float[Array, "batch"]:
    """Compute -log D(fake), whose gradient stays where D is sure (Goodfellow et al. 2014, 3)."""
    return jax.nn.softplus(-fake)
