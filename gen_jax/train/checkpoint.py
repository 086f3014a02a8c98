"""Checkpoints: orbax behind three functions.

A step directory holds three items: ``weights`` (what sampling needs: the averaged parameters and
the statistics), ``training`` (the rest of the state) and ``meta`` (JSON: the config, the tree's
spec, the data's fingerprint). Orbax renames a step into place when all three are written.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from gen_jax.errors import CheckpointError, StorageError
from gen_jax.train.state import TrainState
from gen_jax.typing import PyTree

__all__ = ["latest_step", "open_checkpoints", "read_meta", "restore", "restore_weights", "save"]

_WEIGHTS = ("ema_params", "stats")


@contextlib.contextmanager
def open_checkpoints(
    directory: Path, *, keep: int | None = None, read_only: bool = False
) -> Iterator[ocp.CheckpointManager]:
    """Open a directory of checkpoints, and on leaving wait for the save that is under way.

    Args:
        directory: made if it is not there, unless ``read_only``.
        keep: how many of the latest to keep; None for all.
        read_only: never change the directory, not even to clear what a crash left.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every step
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=not read_only,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,
    )
    manager = ocp.CheckpointManager(directory.absolute(), options=options)
    try:
        yield manager
    except BaseException:
        # A save under way is finished even so, but the first error is the one to show.
        with contextlib.suppress(Exception):
            manager.wait_until_finished()
        raise
    else:
        try:
            manager.wait_until_finished()
        except Exception as error:
            raise _storage_error(manager, error) from error
    finally:
        with contextlib.suppress(Exception):
            manager.close()


def latest_step(manager: ocp.CheckpointManager) -> int | None:
    """Find the last step that was saved; None if there is none."""
    return manager.latest_step()


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    meta: Mapping[str, Any],
    *,
    wait: bool = False,
) -> None:
    """Save a state under its own step, in the background unless ``wait``.

    Raises:
        StorageError: if this or the save before it could not be written.
        CheckpointError: if a later step is there already.
    """
    step = int(state.step)
    weights, training = _split(state)
    meta = {**meta, "step": step, "spec": _spec(state)}
    args = ocp.args.Composite(
        weights=ocp.args.StandardSave(weights),
        training=ocp.args.StandardSave(training),
        meta=ocp.args.JsonSave(meta),
    )
    try:
        manager.check_for_errors()
        saved = manager.save(step, args=args)
        if wait:
            manager.wait_until_finished()
    except Exception as error:
        raise _storage_error(manager, error) from error
    if not saved and step not in manager.all_steps():
        raise CheckpointError(
            f"{manager.directory}: step {step}: not saved, because step {manager.latest_step()} "
            "is already there"
        )


def read_meta(manager: ocp.CheckpointManager, step: int) -> Mapping[str, Any]:
    """Read what was saved beside the arrays of a step.

    Raises:
        CheckpointError: if it cannot be read.
    """
    try:
        return manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())).meta
    except Exception as error:
        raise _unreadable(manager, step, error) from error


def restore(manager: ocp.CheckpointManager, step: int, abstract: TrainState) -> TrainState:
    """Restore a state into the shapes, types and shardings of ``abstract``.

    Raises:
        CheckpointError: if the checkpoint is of another network, naming the arrays that differ, or
            cannot be read.
    """
    _check_spec(manager, step, _spec(abstract))
    weights, training = _split(abstract)
    restored = _restore_items(manager, step, weights=weights, training=training)
    return abstract.replace(**restored.weights, **restored.training)


def restore_weights(manager: ocp.CheckpointManager, step: int, abstract: TrainState) -> PyTree:
    """Restore only what sampling needs: ``{"ema_params": ..., "stats": ...}``.

    Raises:
        CheckpointError: as :func:`restore`.
    """
    weights, _ = _split(abstract)
    prefixes = tuple(f".{name}" for name in _WEIGHTS)
    spec = {name: x for name, x in _spec(abstract).items() if name.startswith(prefixes)}
    _check_spec(manager, step, spec)
    # Said explicitly, or orbax would look for the devices that the checkpoint was written on.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), weights)
    return _restore_items(manager, step, weights=weights).weights


def _split(state: TrainState) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    weights = {name: fields.pop(name) for name in _WEIGHTS}
    return weights, fields


def _spec(tree: PyTree) -> dict[str, list]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): [list(x.shape), str(x.dtype)] for path, x in leaves}


def _check_spec(manager: ocp.CheckpointManager, step: int, expected: Mapping[str, list]) -> None:
    """Compare names, shapes and types ourselves: orbax casts silently and names no parameter."""
    meta = read_meta(manager, step)
    prefixes = {name.split("[")[0] for name in expected}
    found = {name: list(x) for name, x in meta["spec"].items() if name.split("[")[0] in prefixes}
    different = [
        f"{name}: checkpoint {_describe(found.get(name))}, config {_describe(expected.get(name))}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]
    if different:
        more = f" (and {len(different) - 3} more)" if len(different) > 3 else ""
        raise CheckpointError(
            f"{manager.directory / str(step)}: does not fit the config: "
            f"{'; '.join(different[:3])}{more}"
        )


def _describe(spec: list | None) -> str:
    return "none" if spec is None else f"{spec[1]}{spec[0]}"


def _restore_items(manager: ocp.CheckpointManager, step: int, **items: PyTree) -> Any:
    args = {name: ocp.args.StandardRestore(tree) for name, tree in items.items()}
    try:
        return manager.restore(step, args=ocp.args.Composite(**args))
    except Exception as error:  # orbax raises whatever its storage and JSON readers raise
        raise _unreadable(manager, step, error) from error


def _unreadable(manager: ocp.CheckpointManager, step: int, error: Exception) -> CheckpointError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"{manager.directory / str(step)}: cannot be read: {reason[:200]}")


def _storage_error(manager: ocp.CheckpointManager, error: Exception) -> StorageError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if "RESOURCE_EXHAUSTED" in str(error) or "No space left" in str(error):
        reason = "no space left on the device"
    return StorageError(f"{manager.directory}: cannot be written: {reason[:200]}")
