"""Values that change over the steps of training."""

import math
from typing import NamedTuple

import jax.numpy as jnp

from gen_jax.typing import Scalar, ScalarLike

__all__ = ["Ramp"]


class Ramp(NamedTuple):
    """A value that goes from ``start`` to ``end`` in ``steps`` steps, along half a cosine."""

    start: float
    end: float
    steps: int

    def at(self, step: ScalarLike) -> Scalar:
        """Return the value at a step."""
        share = jnp.clip(step / max(self.steps, 1), 0.0, 1.0) if self.steps else jnp.float32(1.0)
        return self.end + 0.5 * (self.start - self.end) * (1 + jnp.cos(math.pi * share))
