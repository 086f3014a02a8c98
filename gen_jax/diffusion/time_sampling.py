"""Which times a training batch sees."""

from collections.abc import Callable

import jax

from gen_jax.typing import Array, Float, Keys

__all__ = ["TimeSampler", "continuous", "discrete"]

TimeSampler = Callable[[Keys], Float[Array, "batch"]]
"""``keys [B] -> t [B]`` in (0, 1], one draw from each key."""


def discrete(num_steps: int) -> TimeSampler:
    """Draw t uniformly from {1/T, 2/T, ..., 1} (Ho et al. 2020, Algorithm 1).

    Raises:
        ValueError: if num_steps < 1.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps: at least 1 is needed, got {num_steps}")

    def draw(keys: Keys) -> Float[Array, "batch"]:
        index = jax.vmap(lambda key: jax.random.randint(key, (), 1, num_steps + 1))(keys)
        return index / num_steps

    return draw


def continuous(t_min: float = 1e-5) -> TimeSampler:
    """Draw t uniformly from [t_min, 1).

    Raises:
        ValueError: if t_min lies outside (0, 1), where log-SNR is infinite or nothing is left.
    """
    if not 0 < t_min < 1:
        raise ValueError(f"t_min: a number in (0, 1) is needed, got {t_min}")

    def draw(keys: Keys) -> Float[Array, "batch"]:
        return jax.vmap(lambda key: jax.random.uniform(key, (), minval=t_min))(keys)

    return draw
