"""Randomness: one key for each example.

Every draw comes from a key folded from (seed, step, global index of the example). An example's
noise is then the same on one device or eight, and in one batch or four.
"""

import jax
import jax.numpy as jnp

from gen_jax.ops.checks import checked
from gen_jax.typing import Array, DTypeLike, Int, Key, Keys, Shape

__all__ = ["fold_in", "normal", "per_example", "split", "uniform"]


@checked
def per_example(key: Key[Array, ""], first: int | Int[Array, ""], num: int) -> Keys:
    """Make the keys of the examples with global indices ``first`` to ``first + num - 1``.

    Args:
        key: One typed key, already folded with the step where there is one.
        first: Global index of the first example.
        num: How many keys.

    Returns:
        Typed keys [num]; the key of an index does not depend on ``first`` or ``num``.
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + jnp.arange(num))


@checked
def fold_in(keys: Keys, data: int | Int[Array, ""]) -> Keys:
    """Fold the same integer into each key."""
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, data)


@checked
def split(keys: Keys, num: int) -> tuple[Keys, ...]:
    """Split each key into ``num``; returns ``num`` arrays of keys, each [batch].

    Piece i of JAX's default generator is the key folded with i, so a key that is split must not be
    folded with small integers as well.
    """
    pieces = jax.vmap(lambda key: jax.random.split(key, num))(keys)
    return tuple(pieces[:, i] for i in range(num))


@checked
def normal(keys: Keys, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
    """Draw standard normals, one array of ``shape`` from each key: [batch, *shape]."""
    return jax.vmap(lambda key: jax.random.normal(key, shape, dtype))(keys)


@checked
def uniform(keys: Keys, shape: Shape, dtype: DTypeLike = jnp.float32) -> Array:
    """Draw an array [batch, *shape] of numbers in [0, 1), each row from its own key."""
    return jax.vmap(lambda key: jax.random.uniform(key, shape, dtype))(keys)
