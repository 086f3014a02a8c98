"""How a step runs on many devices. Nothing outside this file knows a mesh axis."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from gen_jax.protocols import Batch, Model
from gen_jax.train.sharding import batch_sharding, replicated
from gen_jax.train.state import TrainState, init_state
from gen_jax.train.step import TrainStep, make_train_step
from gen_jax.typing import PyTree

__all__ = ["Engine", "jit_engine"]


class Engine(NamedTuple):
    """Training on devices.

    ``put(host batch)`` spreads this process's rows of a batch over the devices,
    ``key(seed)`` makes the run's key,
    ``init(key, batch)`` makes the state of step 0 in its sharding,
    ``abstract(batch)`` gives that state's shapes, types and shardings without making it, and
    ``step(state, frozen, batch, key)`` takes one step and consumes the state.
    """

    put: Callable[[Mapping[str, np.ndarray]], Batch]
    key: Callable[[int], jax.Array]
    init: Callable[[jax.Array, Batch], TrainState]
    abstract: Callable[[Batch], PyTree]
    step: TrainStep


def jit_engine(
    model: Model,
    optimizers: Mapping[str, optax.GradientTransformation],
    mesh: Mesh,
    **step_options: Any,
) -> Engine:
    """Run one jitted program over global arrays; the compiler finds the communication.

    Args:
        model: what is trained.
        optimizers: one for each player.
        mesh: with an axis ``data``.
        step_options: for :func:`gen_jax.train.step.make_train_step`.
    """
    everywhere, rows = replicated(mesh), batch_sharding(mesh)

    def put(batch: Mapping[str, np.ndarray]) -> Batch:
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(rows, x), dict(batch))

    def init(key: jax.Array, batch: Batch) -> TrainState:
        return init_state(model, optimizers, key, batch)

    def abstract(batch: Batch) -> PyTree:
        shapes = jax.eval_shape(init, jax.eval_shape(lambda: jax.random.key(0)), batch)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), shapes
        )

    step = make_train_step(model, optimizers, **step_options)
    # It runs once, and on CPU optimising it takes longer than it will ever run.
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    quickly = {"xla_backend_optimization_level": 0} if on_cpu else None
    return Engine(
        put=put,
        # Under jit, because a typed key cannot be put on devices of several processes.
        key=lambda seed: jax.jit(lambda: jax.random.key(seed), out_shardings=everywhere)(),
        init=jax.jit(init, out_shardings=everywhere, compiler_options=quickly),
        abstract=abstract,
        step=jax.jit(
            step,
            in_shardings=(everywhere, everywhere, rows, everywhere),
            out_shardings=(everywhere, everywhere),
            donate_argnums=0,
        ),
    )
