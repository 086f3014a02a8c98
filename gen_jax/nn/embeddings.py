"""Embeddings of time."""

import math

import jax.numpy as jnp

from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float

__all__ = ["sinusoidal"]


@checked
def sinusoidal(
    t: Float[Array, "batch"],
    dim: int,
    scale: float = 1000.0,
    max_period: float = 10000.0,
    *,
    offset: float = 0.0,
    cos_first: bool = False,
    shift: int = 1,
) -> Float[Array, "batch dim"]:
    """Embed time as sines and cosines of geometrically spaced frequencies.

    Frequencies fall from 1 to 1 / max_period (Vaswani et al. 2017, Section 3.5, as in Ho et al.
    2020, Appendix B).

    Args:
        t: times in [0, 1].
        dim: even, at least 4.
        scale: t is multiplied by this first; 1000 gives DDPM's step numbers.
        max_period: period of the slowest wave, over 2 pi.
        offset: is added then; -1 counts the steps from zero.
        cos_first: all cosines before all sines.
        shift: 1 gives the slowest wave max_period itself; 0 spaces frequencies as if there were
            one more.

    Returns:
        [batch, dim] in [-1, 1]: all sines, then all cosines.

    Raises:
        ValueError: if dim is odd or less than 4.
    """
    if dim < 4 or dim % 2:
        raise ValueError(f"dim: got {dim}; an even number from 4 is required")
    half = dim // 2
    frequencies = jnp.exp(-math.log(max_period) / (half - shift) * jnp.arange(half))
    angles = (scale * t + offset)[:, None] * frequencies[None, :]
    waves = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(waves[::-1] if cos_first else waves, axis=-1)
