"""Losses that bring what belongs together near, and the rest of the batch apart."""

import jax
import jax.numpy as jnp

from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Bool, Float, Scalar

__all__ = ["contrastive_losses", "sigmoid_losses"]


@checked
def contrastive_losses(
    own: Float[Array, "own dim"],
    others: Float[Array, "batch dim"],
    same: Bool[Array, "own batch"],
    scale: Scalar | float,
    present: Bool[Array, "batch"] | None = None,
) -> Float[Array, "own"]:
    """Compute -log of the probability that each vector chooses what belongs to it, of all.

    One direction of CLIP's loss (Radford et al. 2021, Fig. 3): softmax over scale u.v. Where more
    than one belongs to a vector, as equal captions do, any of them is right.

    Args:
        own: unit vectors u, those of this device.
        others: unit vectors v of the whole batch.
        same: which of them belong to each; one at least.
        scale: the inverse of the temperature.
        present: which of the batch there are; others are padding. None for all.

    Returns:
        Nats, 0 where nothing else is near.
    """
    logits = scale * own @ others.T
    if present is not None:
        logits, same = jnp.where(present[None], logits, -jnp.inf), same & present[None]
    right = jax.nn.logsumexp(jnp.where(same, logits, -jnp.inf), axis=1)
    # A row that is itself padding has nothing right, and must not be a number that spoils others.
    right = jnp.where(jnp.any(same, axis=1), right, 0.0)
    return jax.nn.logsumexp(logits, axis=1) - right


@checked
def sigmoid_losses(
    own: Float[Array, "own dim"],
    others: Float[Array, "batch dim"],
    same: Bool[Array, "own batch"],
    scale: Scalar | float,
    bias: Scalar | float,
    present: Bool[Array, "batch"] | None = None,
) -> Float[Array, "own"]:
    """Compute -log of the probability that each pair is told right, summed over a vector's pairs.

    SigLIP's loss (Zhai et al. 2023, Eq. 1): log sigmoid(z (scale u.v + bias)) with z = 1 of what
    belongs together and -1 of the rest.

    Args:
        own: unit vectors u, those of this device.
        others: unit vectors v of the whole batch.
        same: which of them belong to each.
        scale: the inverse of the temperature.
        bias: of all pairs; below 0, since most do not belong together.
        present: which of the batch there are; others are padding. None for all.
    """
    logits = scale * own @ others.T + bias
    nats = -jax.nn.log_sigmoid(jnp.where(same, logits, -logits))
    return jnp.sum(nats if present is None else jnp.where(present[None], nats, 0.0), axis=1)
