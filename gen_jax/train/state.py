"""What a training step carries."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from gen_jax.protocols import Batch, Model, Params, Stats
from gen_jax.typing import Array, PyTree

__all__ = ["Guard", "TrainState", "init_state"]


class Guard(NamedTuple):
    """How often a step had to be refused because its loss or gradient was not finite, or leaped."""

    skipped: Array  # int32, in all
    consecutive: Array  # int32, up to now
    levels: Mapping[str, Array]  # float32 [2] of each loss: running means of it and of its square


@flax.struct.dataclass
class TrainState:
    """Everything that a checkpoint holds. There is no key in it: keys are made of seed and step.

    The leaves are arrays, or in an abstract state their shapes.
    """

    step: PyTree  # int32, steps taken
    params: Params
    stats: Stats
    opt_state: Mapping[str, Any]  # one for each player
    ema_params: Params  # of the players that are averaged
    guard: Guard


def init_state(
    model: Model,
    optimizers: Mapping[str, optax.GradientTransformation],
    key: jax.Array,
    batch: Batch,
    frozen: PyTree = None,
) -> TrainState:
    """Make the state of step 0 from the first batch. Call it inside jit, with output shardings.

    Args:
        model: whose ``init`` sees the batch and the frozen weights.
        optimizers: one for each player.
        key: for the initial parameters.
        batch: the first batch of training.
        frozen: weights that are not trained; None for none.

    Raises:
        ValueError: if the optimizers are not those of the model's players, or one that should be
            averaged is not a player.
    """
    params, stats = model.init(key, batch, {} if frozen is None else frozen)
    if set(optimizers) != set(params):
        raise ValueError(
            f"optimizers: got {sorted(optimizers)}; one for each of {sorted(params)} is required"
        )
    averaged = tuple(params) if model.averaged is None else tuple(model.averaged)
    if unknown := [player for player in averaged if player not in params]:
        raise ValueError(f"averaged: {unknown[0]!r} is none of the players {sorted(params)}")
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        stats=stats,
        opt_state={player: optimizers[player].init(params[player]) for player in params},
        # A copy: under jit an output may not share a buffer with another.
        ema_params=jax.tree.map(jnp.copy, {player: params[player] for player in averaged}),
        guard=Guard(
            skipped=jnp.zeros((), jnp.int32),
            consecutive=jnp.zeros((), jnp.int32),
            levels={name: jnp.zeros(2) for name in model.losses},
        ),
    )
