"""Checkpoints: orbax behind a few functions.

A step directory holds three items: ``weights`` (what sampling needs: the averaged parameters and
the statistics), ``training`` (the rest of the state) and ``meta`` (JSON: the config, the data's
fingerprint, the shape, type and digest of every array). Orbax renames a step into place when all
three are written, so that a step is there whole or not at all; what happens to it afterward the
digests tell.
"""

import contextlib
import errno
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from gen_jax.errors import CheckpointError, DamagedError, NonFiniteError, StorageError, one_line
from gen_jax.reading import read_file
from gen_jax.train.integrity import inspect_leaves, seal, unseal
from gen_jax.train.state import TrainState
from gen_jax.typing import PyTree

__all__ = [
    "FORMAT",
    "check_saving",
    "open_checkpoints",
    "read_meta",
    "restore",
    "restore_weights",
    "save",
    "state_bytes",
]

FORMAT = 1
# Far more than names, shapes and digests of a million arrays.
MAX_META_BYTES = 2**28
_IN_THE_WAY = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE", "Too many open files")
_WEIGHTS = ("ema_params", "stats")


@contextlib.contextmanager
def open_checkpoints(
    directory: Path, *, keep: int | None = None
) -> Iterator[ocp.CheckpointManager]:
    """Open a directory to save to, and on leaving wait for the save that is under way.

    What a crash left half written is cleared away. Only one job may do this at a time.

    Args:
        directory: made if it is not there.
        keep: how many of the latest to keep; None for all.
    """
    _silence_orbax()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=True, cleanup_tmp_directories=True
    )
    try:
        manager = ocp.CheckpointManager(directory.absolute(), options=options)
    except OSError as error:
        raise _storage_error(directory, error) from error
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
            raise _storage_error(directory, error) from error
    finally:
        with contextlib.suppress(Exception):
            manager.close()


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
        NonFiniteError: if a number of the state is not finite; nothing is written.
    """
    step = int(state.step)
    leaves = inspect_leaves(state)
    if broken := [name for name, leaf in leaves.items() if not leaf.finite]:
        raise NonFiniteError(f"step {step}: {broken[0]} is not finite; not saved")
    spec = {name: [*x, leaves[name].digest] for name, x in _spec(state).items()}
    weights, training = _split(state)
    args = ocp.args.Composite(
        weights=ocp.args.StandardSave(weights),
        training=ocp.args.StandardSave(training),
        meta=ocp.args.JsonSave(seal({**meta, "format": FORMAT, "step": step, "spec": spec})),
    )
    directory = Path(manager.directory)
    try:
        manager.check_for_errors()
        saved = manager.save(step, args=args)
        if wait:
            manager.wait_until_finished()
    except Exception as error:
        raise _storage_error(directory, error, state_bytes(state)) from error
    if not saved and step not in manager.all_steps():
        raise CheckpointError(
            f"{directory}: step {step}: not saved, because step {manager.latest_step()} is already "
            "there"
        )


def check_saving(manager: ocp.CheckpointManager) -> None:
    """Look, without waiting, whether the save in the background has failed.

    Raises:
        StorageError: if it has.
    """
    try:
        manager.check_for_errors()
    except Exception as error:
        raise _storage_error(Path(manager.directory), error) from error


def state_bytes(state: PyTree) -> int:
    """Count the bytes of a state, or of its shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def read_meta(directory: Path, step: int) -> Mapping[str, Any]:
    """Read what was saved beside the arrays of a step.

    Raises:
        DamagedError: if it is not there, or not what was saved.
        CheckpointError: if it was made by a version of another format.
    """
    path = directory / str(step)
    try:
        _check_plain(path)
        meta = unseal(read_file(path / "meta" / "metadata", MAX_META_BYTES))
    except (OSError, ValueError, MemoryError) as error:
        raise _unreadable(path, error) from error
    if meta.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: of format {meta.get('format')!r}; this version reads {FORMAT}"
        )
    if not _is_meta(meta, step):
        raise DamagedError(f"{path}: damaged: what stands beside its arrays is not of this step")
    return meta


def restore(
    directory: Path,
    step: int,
    abstract: TrainState,
    together: Callable[[Callable[[], Any]], Any] = lambda action: action(),
) -> tuple[TrainState, Mapping[str, Any]]:
    """Restore a state into the shapes, types and shardings of ``abstract``, and verify it.

    Args:
        directory: of all steps.
        step: which of them.
        abstract: the state's shapes, types and shardings.
        together: does on all processes what may fail on one of them, and fails on all alike.

    Returns:
        The state, and what was saved beside it.

    Raises:
        CheckpointError: if the checkpoint is of another network, naming the arrays that differ, or
            cannot be read now, though it may be good.
        DamagedError: if it is not what was saved, naming the array or the reason.
    """
    path = directory / str(step)
    meta = together(lambda: read_meta(directory, step))
    together(lambda: _check_spec(path, meta["spec"], _spec(abstract)))
    weights, training = _split(abstract)
    items = together(lambda: _restore_items(path, weights=weights, training=training))
    state = abstract.replace(**items["weights"], **items["training"])
    together(lambda: _verify(path, state, meta["spec"]))
    return state, meta


def restore_weights(
    directory: Path, step: int, abstract: TrainState, *, whole: bool = False
) -> tuple[PyTree, Mapping[str, Any]]:
    """Restore and verify only what sampling needs: ``{"ema_params": ..., "stats": ...}``.

    With ``whole`` also what losses need: among ``ema_params`` then stand, as they are, the players
    that are not averaged. Speaks to no other process.

    Returns:
        These, and what was saved beside them.

    Raises:
        CheckpointError, DamagedError: as :func:`restore`.
    """
    path = directory / str(step)
    meta = read_meta(directory, step)
    weights, _ = _split(abstract)
    prefixes = tuple(f".{name}" for name in _WEIGHTS)
    expected = {name: x for name, x in _spec(abstract).items() if name.startswith(prefixes)}
    _check_spec(path, meta["spec"], expected)
    # Said explicitly, or orbax would look for the devices that the checkpoint was written on.
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    weights = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), weights)
    restored = _restore_items(path, weights=weights)["weights"]
    _verify(path, abstract.replace(**restored), meta["spec"])
    if whole and set(abstract.params) - set(abstract.ema_params):
        _, training = _split(abstract)
        _check_spec(path, meta["spec"], _spec(abstract))
        training = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), training
        )
        state = abstract.replace(**restored, **_restore_items(path, training=training)["training"])
        _verify(path, state, meta["spec"])
        restored = {**restored, "ema_params": {**state.params, **restored["ema_params"]}}
    return restored, meta


def _split(state: TrainState) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    weights = {name: fields.pop(name) for name in _WEIGHTS}
    return weights, fields


def _spec(tree: PyTree) -> dict[str, list]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): [list(x.shape), str(x.dtype)] for path, x in leaves}


def _is_meta(meta: Mapping[str, Any], step: int) -> bool:
    """Return whether what was sealed is what :func:`save` seals, and of this step."""
    spec = meta.get("spec")
    return (
        meta.get("step") == step
        and isinstance(spec, dict)
        and all(
            re.match(r"\.\w", name)
            and isinstance(x, list)
            and [type(part) for part in x] == [list, str, str]
            for name, x in spec.items()
        )
    )


def _check_spec(path: Path, spec: Mapping[str, list], expected: Mapping[str, list]) -> None:
    """Compare names, shapes and types ourselves: orbax casts silently and names no parameter."""
    prefixes = {_field(name) for name in expected}
    found = {name: list(x[:2]) for name, x in spec.items() if _field(name) in prefixes}
    different = [
        f"{name}: checkpoint {_describe(found.get(name))}, config {_describe(expected.get(name))}"
        for name in sorted({*found, *expected})
        if found.get(name) != expected.get(name)
    ]
    if different:
        more = f" (and {len(different) - 3} more)" if len(different) > 3 else ""
        raise CheckpointError(f"{path}: does not fit the config: {'; '.join(different[:3])}{more}")


def _field(name: str) -> str:
    """Return the field of the state that a leaf's path begins with."""
    return re.split(r"[\[.]", name)[1]


def _describe(spec: list | None) -> str:
    return "none" if spec is None else f"{spec[1]}{spec[0]}"


def _check_plain(path: Path) -> None:
    """Refuse links, which orbax would follow out of the directory, and whatever is no file."""
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise ValueError("is no directory")
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            mode = (Path(folder) / name).lstat().st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                raise ValueError(f"{name} is a link, or no file at all")


def _restore_items(path: Path, **items: PyTree) -> dict[str, Any]:
    _silence_orbax()
    # Each process for itself: orbax would let it wait for the others where it may fail alone.
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=None, active_processes={me}, barrier_sync_key_prefix=f"process_{me}"
    )
    restored = {}
    for name, tree in items.items():
        reader = ocp.StandardCheckpointHandler(multiprocessing_options=options)
        handler = ocp.Checkpointer(reader, multiprocessing_options=options)
        try:
            args = ocp.args.StandardRestore(tree)
            restored[name] = handler.restore((path / name).absolute(), args=args)
        except Exception as error:  # orbax raises whatever its storage and JSON readers raise
            raise _unreadable(path, error) from error
        finally:
            handler.close()
    return restored


def _silence_orbax() -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)  # it narrates every step


def _verify(path: Path, state: PyTree, spec: Mapping[str, list]) -> None:
    arrays = jax.tree.map(lambda x: x if isinstance(x, jax.Array) else None, state)
    wrong = [name for name, leaf in inspect_leaves(arrays).items() if leaf.digest != spec[name][2]]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise DamagedError(f"{path}: damaged: {wrong[0]} is not what was saved{more}")


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    """Tell damage, which another step may not have, from what only stands in the way now."""
    if not path.exists():
        return DamagedError(f"{path}: no longer there")
    wrong = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, None)
    in_the_way = isinstance(error, MemoryError) or any(word in str(error) for word in _IN_THE_WAY)
    if in_the_way or (isinstance(error, OSError) and error.errno not in wrong):
        return CheckpointError(f"{path}: cannot be read now: {one_line(error)[:200]}")
    return DamagedError(f"{path}: damaged: {one_line(error)[:200]}")


def _storage_error(directory: Path, error: Exception, needed: int | None = None) -> StorageError:
    reason = one_line(error)[:200]
    if "RESOURCE_EXHAUSTED" in str(error) or "No space left" in str(error):
        free = f"free {shutil.disk_usage(directory).free:,} bytes"
        need = f"need {needed:,} bytes, {free}" if needed else free
        reason = f"out of space: {need}; free some, and the same command goes on"
    return StorageError(f"{directory}: cannot be written: {reason}")
