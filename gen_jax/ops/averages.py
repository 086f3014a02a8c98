"""Moving averages."""

import jax.numpy as jnp

from gen_jax.typing import Array, Scalar

__all__ = ["ema_decay_at"]


def ema_decay_at(step: Array, decay: float) -> Scalar:
    """Return the decay of a moving average after step ``step``: min(decay, (1 + n) / (10 + n)).

    The warm-up keeps what it began with from weighing on short runs.
    """
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
