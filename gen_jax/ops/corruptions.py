"""Noise that a denoising autoencoder learns to undo (Vincent et al. 2010, section 3.3)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gen_jax.ops import keys as rng
from gen_jax.typing import Array, Float, Keys

__all__ = ["Corruption", "gaussian_noise", "masking", "salt_and_pepper"]

Corruption = Callable[[Keys, Array], Array]
"""``(keys, x [batch, *dims]) -> x``, one key an example."""


def masking(share: float, value: float = 0.0) -> Corruption:
    """Set each element to ``value`` with probability ``share``, in [0, 1]."""
    _check("share", share, 1.0)

    def corrupt(keys: Keys, x: Float[Array, "batch *dims"]) -> Array:
        return jnp.where(_events(keys, share, x), value, x)

    return corrupt


def gaussian_noise(sigma: float) -> Corruption:
    """Add N(0, sigma^2) to each element."""
    _check("sigma", sigma)

    def corrupt(keys: Keys, x: Float[Array, "batch *dims"]) -> Array:
        return x + sigma * rng.normal(keys, x.shape[1:])

    return corrupt


def salt_and_pepper(share: float, low: float = 0.0, high: float = 1.0) -> Corruption:
    """Set each element, with probability ``share``, to ``low`` or ``high`` by a fair coin."""
    _check("share", share, 1.0)

    def corrupt(keys: Keys, x: Float[Array, "batch *dims"]) -> Array:
        coin = jnp.where(_events(rng.fold_in(keys, 1), 0.5, x), high, low)
        return jnp.where(_events(rng.fold_in(keys, 0), share, x), coin, x)

    return corrupt


def _events(keys: Keys, probability: float, x: Array) -> Array:
    draw = jax.vmap(lambda key: jax.random.bernoulli(key, probability, x.shape[1:]))
    return draw(keys)


def _check(name: str, value: float, high: float = float("inf")) -> None:
    if not 0 <= value <= high:
        raise ValueError(f"{name}: got {value}; from 0 to {high:g} is required")
