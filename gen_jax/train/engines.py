"""How a step runs on many devices. Nothing outside this file knows a collective.

Three engines do the same mathematics. ``jit`` sees global arrays, and the compiler finds the
communication; it alone can split the state. ``shard_map`` and ``pmap`` run the step once a device
on that device's part of the batch, with the reductions written out.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gen_jax.protocols import Across, Batch, Context, Loss, Model, Params, Weights
from gen_jax.train.sharding import (
    Rules,
    batch_sharding,
    check_overrides,
    replicated,
    state_shardings,
)
from gen_jax.train.state import TrainState, init_state
from gen_jax.train.step import TrainStep, make_train_step
from gen_jax.typing import Array, PyTree

__all__ = ["ENGINES", "Engine", "jit_engine", "make_engine", "pmap_engine", "shard_map_engine"]

# The axis over which the steps of pmap and shard_map reduce.
_REPLICAS = "replicas"


class Engine(NamedTuple):
    """Training on devices.

    ``rows(batch_size)`` tells which rows of each global batch this process must read,
    ``put(host batch)`` spreads these rows over the devices,
    ``place(tree)`` puts frozen weights, the same on every process, where the step wants them,
    ``key(seed)`` makes the run's key,
    ``init(key, batch, frozen=None)`` makes the state of step 0 in its sharding,
    ``abstract(batch, frozen=None)`` gives that state's shapes, types and shardings only,
    ``inputs(batch)`` gives those of a batch and of the key, from the shapes of a global batch,
    ``step(state, frozen, batch, key)`` takes one step and consumes the state, and
    ``compile(state, frozen, batch, key, options=None)`` gives the same, compiled with the options
    of XLA. All but pmap's also compile from shapes, for devices that are not there.
    """

    rows: Callable[[int], np.ndarray]
    put: Callable[[Mapping[str, np.ndarray]], Batch]
    place: Callable[[PyTree], PyTree]
    key: Callable[[int], jax.Array]
    init: Callable[..., TrainState]
    abstract: Callable[..., PyTree]
    inputs: Callable[[Batch], tuple[Batch, PyTree]]
    step: TrainStep
    compile: Callable[..., TrainStep]


def make_engine(
    name: str,
    model: Model,
    optimizers: Mapping[str, optax.GradientTransformation],
    mesh: Mesh,
    rules: Rules | None = None,
    **step_options: Any,
) -> Engine:
    """Make an engine by name.

    Args:
        name: one of :data:`ENGINES`.
        model: what is trained.
        optimizers: one for each player.
        mesh: of :func:`gen_jax.train.sharding.make_mesh`.
        rules: how ``jit`` splits the state; the others keep a copy on each device.
        step_options: for :func:`gen_jax.train.step.make_train_step`; on a CPU with ``unroll``.

    Raises:
        ValueError: for another name, or if pmap or shard_map are asked to split the state.
    """
    if name not in ENGINES:
        raise ValueError(f"engine: got {name!r}; one of {', '.join(ENGINES)} is required")
    if name == "jit":
        return jit_engine(model, optimizers, mesh, rules, **step_options)
    return ENGINES[name](model, optimizers, mesh, **step_options)


def jit_engine(
    model: Model,
    optimizers: Mapping[str, optax.GradientTransformation],
    mesh: Mesh,
    rules: Rules | None = None,
    **step_options: Any,
) -> Engine:
    """Run one jitted program over global arrays; the compiler finds the communication.

    Args:
        model: what is trained.
        optimizers: one for each player.
        mesh: of :func:`gen_jax.train.sharding.make_mesh`.
        rules: how the state is split over ``fsdp`` and ``tensor``.
        step_options: for :func:`gen_jax.train.step.make_train_step`; on a CPU with ``unroll``.
    """
    rules = Rules() if rules is None else rules
    everywhere, rows = replicated(mesh), batch_sharding(mesh)
    whole = mesh.shape["fsdp"] == 1
    step = make_train_step(
        model if whole else _gathering(model, mesh, rules),
        optimizers,
        **{"unroll": _on_cpu(mesh), **step_options},
    )

    def shardings_of(tree: PyTree) -> PyTree:
        return state_shardings(tree, mesh, rules)

    def check(state: PyTree) -> None:
        check_overrides(state, rules)

    @functools.cache
    def jitted(structure: Any, shardings: tuple[NamedSharding, ...]) -> Any:
        state = structure.unflatten(shardings)
        return jax.jit(step, out_shardings=(state, everywhere), donate_argnums=0)

    def jitted_for(state: TrainState) -> Any:
        # The arguments bring their shardings along; the state must leave in its own.
        leaves, structure = jax.tree.flatten(state)
        return jitted(structure, tuple(x.sharding for x in leaves))

    def run(state: TrainState, *arguments: PyTree) -> tuple[TrainState, Mapping[str, Array]]:
        return jitted_for(state)(state, *arguments)

    def compiled(
        state: TrainState, *arguments: PyTree, options: Mapping[str, Any] | None = None
    ) -> Any:
        return jitted_for(state).lower(state, *arguments).compile(compiler_options=options)

    return Engine(
        rows=functools.partial(_local_rows, rows),
        put=functools.partial(_put, rows),
        inputs=functools.partial(_inputs, rows, everywhere),
        step=run,
        compile=compiled,
        **_makers(model, optimizers, mesh, shardings_of, check=check),
    )


def shard_map_engine(
    model: Model,
    optimizers: Mapping[str, optax.GradientTransformation],
    mesh: Mesh,
    **step_options: Any,
) -> Engine:
    """Run the step once a device under ``jax.shard_map``; data parallel.

    Args:
        model: what is trained.
        optimizers: one for each player.
        mesh: of :func:`gen_jax.train.sharding.make_mesh`, of the axis ``data`` alone.
        step_options: for :func:`gen_jax.train.step.make_train_step`; on a CPU with ``unroll``.

    Raises:
        ValueError: if the mesh has another axis.
    """
    flat = _replicas(mesh)
    rows = NamedSharding(flat, PartitionSpec(_REPLICAS))
    step = make_train_step(model, optimizers, **_explicit(flat, step_options))
    whole, part = PartitionSpec(), PartitionSpec(_REPLICAS)
    # Without check_vma: with it, the gradient with respect to a replicated parameter arrives
    # already summed over devices, and a mean of it would be that many times too big.
    mapped = jax.shard_map(
        step,
        mesh=flat,
        in_specs=(whole, whole, part, whole),
        out_specs=(whole, whole),
        check_vma=False,
    )
    jitted = jax.jit(mapped, donate_argnums=0)
    return Engine(
        rows=functools.partial(_local_rows, rows),
        put=functools.partial(_put, rows),
        inputs=functools.partial(_inputs, rows, replicated(flat)),
        step=jitted,
        compile=lambda *arguments, options=None: jitted.lower(*arguments).compile(
            compiler_options=options
        ),
        **_makers(model, optimizers, flat, _everywhere(flat)),
    )


def pmap_engine(
    model: Model,
    optimizers: Mapping[str, optax.GradientTransformation],
    mesh: Mesh,
    **step_options: Any,
) -> Engine:
    """Run the step once a device under ``jax.pmap``, which is itself jit over shard_map today.

    Args:
        model: what is trained.
        optimizers: one for each player.
        mesh: of :func:`gen_jax.train.sharding.make_mesh`, of the axis ``data`` alone.
        step_options: for :func:`gen_jax.train.step.make_train_step`; on a CPU with ``unroll``.

    Raises:
        ValueError: if the mesh has another axis.
    """
    flat = _replicas(mesh)
    rows = NamedSharding(flat, PartitionSpec(_REPLICAS))
    everywhere = replicated(flat)
    alone = jax.process_count() == 1
    num_local = sum(device.process_index == jax.process_index() for device in flat.devices)
    pmapped = jax.pmap(
        make_train_step(model, optimizers, **_explicit(flat, step_options)),
        axis_name=_REPLICAS,
        in_axes=(None, None, 0, None),
        out_axes=(None, None),
        devices=list(flat.devices),
        donate_argnums=0,
    )

    def put(batch: Mapping[str, np.ndarray]) -> Batch:
        def split(x: np.ndarray) -> Any:
            x = x.reshape(num_local, -1, *x.shape[1:])
            return jax.device_put(x, rows) if alone else x

        return jax.tree.map(split, dict(batch))

    def to_global(x: jax.Array) -> jax.Array:
        shards = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, everywhere, shards)

    def step(*arguments: PyTree) -> tuple[TrainState, Mapping[str, Array]]:
        # Of many processes, pmap gives each its own devices' copies. They are the same everywhere,
        # and only as one global array can they be saved.
        return jax.tree.map(to_global, pmapped(*arguments))

    def merge(batch: Batch) -> Batch:
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)

    def split_shapes(batch: Batch) -> Batch:
        return jax.tree.map(lambda x: x.reshape(flat.size, -1, *x.shape[1:]), batch)

    return Engine(
        rows=functools.partial(_local_rows, rows),
        put=put,
        inputs=lambda batch: _inputs(rows, everywhere, jax.eval_shape(split_shapes, batch)),
        step=pmapped if alone else step,
        compile=lambda *arguments, options=None: (
            pmapped.lower(*arguments).compile(compiler_options=options) if alone else step
        ),
        **_makers(model, optimizers, flat, _everywhere(flat), merge=merge),
    )


ENGINES: Mapping[str, Callable[..., Engine]] = {
    "jit": jit_engine,
    "pmap": pmap_engine,
    "shard_map": shard_map_engine,
}


def _explicit(mesh: Mesh, step_options: Mapping[str, Any]) -> dict[str, Any]:
    """Tell the step how to look beyond its own part of the batch."""
    across = Across(
        mean=lambda tree: jax.lax.pmean(tree, _REPLICAS),
        gather=lambda tree: jax.lax.all_gather(tree, _REPLICAS, tiled=True),
        own=lambda tree: jax.tree.map(_own_rows, tree),
    )

    def first_example(num: int) -> Array:
        return jax.lax.axis_index(_REPLICAS) * num

    return {
        "unroll": _on_cpu(mesh),
        **step_options,
        "across": across,
        "first_example": first_example,
    }


def _on_cpu(mesh: Mesh) -> bool:
    return mesh.devices.flat[0].platform == "cpu"


def _own_rows(x: Array) -> Array:
    num = len(x) // jax.lax.axis_size(_REPLICAS)
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(_REPLICAS) * num, num)


def _replicas(mesh: Mesh) -> Mesh:
    if mesh.shape["fsdp"] * mesh.shape["tensor"] > 1:
        raise ValueError(
            f"mesh: fsdp {mesh.shape['fsdp']} x tensor {mesh.shape['tensor']}; only the engine "
            "'jit' splits the state"
        )
    return Mesh(mesh.devices.flatten(), (_REPLICAS,))


def _everywhere(mesh: Mesh) -> Callable[[PyTree], PyTree]:
    return lambda tree: jax.tree.map(lambda _: replicated(mesh), tree)


def _makers(
    model: Model,
    optimizers: Mapping[str, optax.GradientTransformation],
    mesh: Mesh,
    shardings_of: Callable[[PyTree], PyTree],
    *,
    merge: Callable[[Batch], Batch] = lambda batch: batch,
    check: Callable[[PyTree], None] = lambda state: None,
) -> dict[str, Any]:
    """Make the parts of an engine that only differ in where arrays live.

    Args:
        model: what is trained.
        optimizers: one for each player.
        mesh: of all devices.
        shardings_of: where each array of a state, or of frozen weights, lives.
        merge: from a batch as the step takes it to a whole one.
        check: raises if the state is not as was expected.
    """

    def init(key: jax.Array, batch: Batch, frozen: PyTree) -> TrainState:
        return init_state(model, optimizers, key, merge(batch), frozen)

    def abstract(batch: Batch, frozen: PyTree = None) -> PyTree:
        key = jax.eval_shape(lambda: jax.random.key(0))
        shapes = jax.eval_shape(init, key, batch, frozen)
        check(shapes)
        return _with_shardings(shapes, shardings_of(shapes))

    def init_in_place(key: jax.Array, batch: Batch, frozen: PyTree = None) -> TrainState:
        shardings = jax.tree.map(lambda x: x.sharding, abstract(batch, frozen))
        return _quickly(init, mesh, shardings)(key, batch, frozen)

    return {
        "place": lambda tree: _place(tree, shardings_of(tree)),
        "key": functools.partial(_key, mesh),
        "init": init_in_place,
        "abstract": abstract,
    }


def _gathering(model: Model, mesh: Mesh, rules: Rules) -> Model:
    """Let every loss see parameters that are whole over ``fsdp``.

    Otherwise the compiler is free to split the arithmetic by the parameters' dimension instead of
    by examples, and it does. What comes back, the gradient, is split again at once, so that it can
    be scattered while it is reduced.
    """

    def constrain(params: Params, change: Callable[[NamedSharding], NamedSharding]) -> Params:
        # Under the name that they have in the state, which overrides may speak of.
        shardings = state_shardings({"params": params}, mesh, rules)["params"]
        return jax.lax.with_sharding_constraint(params, jax.tree.map(change, shardings))

    @jax.custom_vjp
    def gather(params: Params) -> Params:
        return constrain(params, _without_fsdp)

    def forward(params: Params) -> tuple[Params, None]:
        return gather(params), None

    def backward(_: None, grads: Params) -> tuple[Params]:
        return (constrain(grads, lambda split: split),)

    gather.defvjp(forward, backward)

    def wrap(loss: Loss) -> Loss:
        def fn(weights: Weights, batch: Batch, keys: Any, context: Context) -> Any:
            whole = weights._replace(params=gather(weights.params))
            return loss.fn(whole, batch, keys, context)

        return Loss(loss.player, fn)

    return model._replace(losses={name: wrap(loss) for name, loss in model.losses.items()})


def _without_fsdp(sharding: NamedSharding) -> NamedSharding:
    spec = [None if axis == "fsdp" else axis for axis in sharding.spec]
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def _key(mesh: Mesh, seed: int) -> jax.Array:
    # Under jit, because a typed key cannot be put on devices of several processes.
    return jax.jit(lambda: jax.random.key(seed), out_shardings=replicated(mesh))()


def _inputs(rows: NamedSharding, everywhere: NamedSharding, batch: Batch) -> tuple[Batch, PyTree]:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return (
        _with_shardings(batch, jax.tree.map(lambda _: rows, batch)),
        _with_shardings(key, everywhere),
    )


def _quickly(init: Callable, mesh: Mesh, shardings: PyTree) -> Callable:
    """Compile without optimizing on CPU: it runs once, and optimizing takes longer than that."""
    options = {"xla_backend_optimization_level": 0} if _on_cpu(mesh) else None
    return jax.jit(init, out_shardings=shardings, compiler_options=options)


def _with_shardings(shapes: PyTree, shardings: PyTree) -> PyTree:
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _place(tree: PyTree, shardings: PyTree) -> PyTree:
    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        array = np.asarray(x)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put, tree, shardings)


def _local_parts(rows: NamedSharding) -> tuple[list[int], int]:
    """Find which of the equal parts of a batch lie on this process's devices, and of how many."""
    first = rows.spec[0]
    axes = first if isinstance(first, tuple) else (first,)
    num = math.prod(rows.mesh.shape[axis] for axis in axes)
    indices = rows.addressable_devices_indices_map((num,)).values()
    return sorted({_start(index) for index in indices}), num


def _start(index: tuple[slice, ...] | None) -> int:
    return index[0].start or 0 if index else 0


def _local_rows(rows: NamedSharding, batch_size: int) -> np.ndarray:
    parts, num = _local_parts(rows)
    size = batch_size // num
    return np.concatenate([np.arange(part * size, (part + 1) * size) for part in parts])


def _put(rows: NamedSharding, batch: Mapping[str, np.ndarray]) -> Batch:
    parts, num = _local_parts(rows)

    def put(x: np.ndarray) -> jax.Array:
        size = len(x) // len(parts)

        def shard(index: tuple[slice, ...] | None) -> Any:
            place = parts.index(_start(index) // size)
            return x[place * size : (place + 1) * size]

        return jax.make_array_from_callback((size * num, *x.shape[1:]), rows, shard)

    return jax.tree.map(put, dict(batch))
