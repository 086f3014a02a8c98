"""Which step to go on from: the newest that is what was saved, and never none where some are."""

import contextlib
import gc
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from gen_jax.errors import CheckpointError, DamagedError, DataError, StorageError
from gen_jax.launch.cluster import agree, is_first, together
from gen_jax.launch.configfile import from_json
from gen_jax.launch.schema import frozen_changes

__all__ = [
    "Resuming",
    "check_unchanged",
    "checkpoint_steps",
    "newest_good",
    "newest_good_beside",
    "put_away",
    "resume",
    "see_that_there_is_room",
    "set_aside",
]

T = TypeVar("T")

# How often a running job may delete a step while it is being read.
_RETRIES = 20


def checkpoint_steps(workdir: Path) -> list[int]:
    """List the steps that have a directory, whole or damaged."""
    folder = workdir / "checkpoints"
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9]\d*", name, re.ASCII))


class Resuming(NamedTuple):
    """How to treat what a work directory holds already."""

    from_scratch: bool = False  # put it away and begin anew
    strict: bool = False  # the newest checkpoint or none
    allowed: tuple[str, ...] = ()  # frozen fields that may change all the same


def put_away(workdir: Path) -> None:
    """Move what a run has made to ``before-<n>``: to begin anew is not to destroy."""
    # Checkpoints last: until then the rest is known to be unfinished business.
    made = ("config.json", "metrics.jsonl", "tensorboard", "images", "stage1", "checkpoints")
    there = [workdir / name for name in made if (workdir / name).exists()]
    if not there:
        return
    number = 1
    while (target := workdir / f"before-{number}").exists():
        number += 1
    try:
        target.mkdir()
        for path in there:
            path.rename(target / path.name)
    except OSError as error:
        raise StorageError(f"{workdir}: cannot be put away: {error.strerror}") from error
    print(f"{workdir}: beginning anew; what was there is in {target}", flush=True)


def check_unchanged(config: Mapping[str, Any], workdir: Path, allowed: tuple[str, ...]) -> None:
    """Compare the config with that of the checkpoints, field by field.

    Args:
        config: without faults.
        workdir: with checkpoints.
        allowed: frozen fields that may differ all the same.

    Raises:
        CheckpointError: naming every other frozen field that differs.
    """
    before = from_json(workdir / "config.json")
    frozen, free = frozen_changes(before, config, allowed)
    # A first stage may move, but not come or go.
    if bool(before.get("stage1")) != bool(config.get("stage1")):
        frozen += [change for change in free if change.startswith("stage1:")]
    if frozen:
        names = ",".join(change.partition(":")[0] for change in frozen)
        raise CheckpointError(
            f"{workdir}: its checkpoints were made with another config: {'; '.join(frozen)}; undo "
            f"this, use a new work directory, or --allow_config_change={names}"
        )
    for change in free:
        print(f"config changed: {change}", flush=True)


def resume(
    workdir: Path, target: Any, meta: Mapping[str, Any], resuming: Resuming
) -> tuple[int, Any] | None:
    """Restore the newest step that is what was saved, in all processes of a job alike.

    Args:
        workdir: of the run.
        target: the state's shapes, types and shardings.
        meta: what will be saved beside it: the config, and what data and first stage are.
        resuming: what the flags said.

    Returns:
        The step and the state; None where there is none yet.

    Raises:
        CheckpointError: if none is good, or it does not fit.
        DataError: if the data is not what it was.
    """
    from gen_jax.train import checkpoint

    folder = workdir / "checkpoints"

    def read(step: int) -> tuple[Any, Any]:
        return checkpoint.restore(folder, step, target, together)

    def rename(path: Path) -> None:
        together(lambda: set_aside(path) if is_first() else None)

    # Over a network's file system another process may see others.
    steps = agree(checkpoint_steps(workdir))
    found = newest_good(folder, steps, read, strict=resuming.strict, rename=rename)
    if found is None:
        return None
    step, (state, before) = found
    together(lambda: _check_data(before, meta["data"]))
    together(lambda: _check_stage1(before, meta["stage1"]))
    together(lambda: _check_skipped(before, meta["config"], step))
    return step, state


def newest_good(
    folder: Path,
    steps: Sequence[int],
    read: Callable[[int], T],
    *,
    strict: bool = False,
    rename: Callable[[Path], None] = lambda path: None,
) -> tuple[int, T] | None:
    """Read the newest step, or where it is damaged the one before it, and so on.

    What is damaged is told on stderr, and only when a good step was found is anything renamed.

    Args:
        folder: of the checkpoints.
        steps: that are there, in order; of many processes, the same for all.
        read: reads and verifies a step; raises DamagedError for one that is not what was saved.
        strict: accept only the newest.
        rename: called with the path of each damaged step that was passed over.

    Returns:
        The step and what was read; None if there is no step at all.

    Raises:
        CheckpointError: if no step is good, or with ``strict`` the newest is not.
    """
    damaged: list[tuple[int, DamagedError]] = []
    for step in reversed(steps):
        try:
            with _quiet_threads():
                result = read(step)
        except DamagedError as error:
            if strict:
                raise
            damaged.append((step, error))
            continue
        for bad, error in damaged:
            line = f"gen_jax: {error.area}: {error}; step {step} is used instead"
            print(line, file=sys.stderr, flush=True)
            rename(folder / str(bad))
        return step, result
    if not damaged:
        return None
    told = "; ".join(str(error) for _, error in damaged[:3])
    raise CheckpointError(f"{folder}: no usable checkpoint among {len(damaged)}: {told}")


def newest_good_beside(workdir: Path, read: Callable[[int], T]) -> tuple[int, T] | None:
    """Read the newest good step while a job may be running there, saving new and deleting old.

    A step that fails to be read while others come or go was probably being deleted: then what is
    there now is tried. Nothing is renamed.

    Raises:
        CheckpointError: as :func:`newest_good`.
    """
    for attempt in range(_RETRIES):
        steps = checkpoint_steps(workdir)
        last = attempt == _RETRIES - 1

        def read_here(step: int, steps: list[int] = steps, last: bool = last) -> T:
            try:
                return read(step)
            except DamagedError as error:
                if not last and checkpoint_steps(workdir) != steps:
                    raise _ChangedError from error
                raise

        try:
            return newest_good(workdir / "checkpoints", steps, read_here)
        except _ChangedError:
            time.sleep(0.1)
    return None


class _ChangedError(Exception):
    """What was there is not what is there now."""


@contextlib.contextmanager
def _quiet_threads() -> Iterator[None]:
    """Keep to one line: what orbax leaves behind prints pages about a file that one error names."""
    hooks = (threading, "excepthook"), (sys, "unraisablehook"), (sys, "excepthook")
    before = [getattr(module, name) for module, name in hooks]
    for module, name in hooks:
        setattr(module, name, lambda *_: None)
    try:
        yield
    except DamagedError:
        gc.collect()  # coroutines that were never awaited speak when they are collected
        time.sleep(0.1)  # and callbacks of tensorstore's threads come a moment later
        raise
    finally:
        for (module, name), hook in zip(hooks, before, strict=True):
            setattr(module, name, hook)


def set_aside(path: Path) -> None:
    """Rename a damaged step to ``<step>.corrupt``, where it is out of the way but not lost.

    Raises:
        StorageError: if it cannot be renamed.
    """
    target, number = path.with_name(f"{path.name}.corrupt"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.corrupt-{number}")
    try:
        path.rename(target)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StorageError(f"{path}: cannot be renamed: {error.strerror}") from error


def see_that_there_is_room(config: Mapping[str, Any], workdir: Path, size: int) -> None:
    """See before the first step that the checkpoints which will be kept can be."""
    if not is_first():
        return
    there = len(checkpoint_steps(workdir))
    kept = max(config["train"]["keep"] + 1 - there, 1)  # one more while the next is written
    need, free = int(1.1 * kept * size), shutil.disk_usage(workdir).free
    if free < need:
        raise StorageError(
            f"{workdir}: out of space for {kept} more checkpoints of {size:,} bytes: need "
            f"{need:,}, free {free:,}; make room, or lower train.keep"
        )


def _check_data(meta: Mapping[str, Any], fingerprint: str) -> None:
    if meta.get("data") != fingerprint:
        raise DataError(
            f"the training data is not what the checkpoint was trained on: {fingerprint} instead "
            f"of {meta.get('data')}"
        )


def _check_stage1(meta: Mapping[str, Any], digest: str | None) -> None:
    if meta.get("stage1") != digest:
        raise CheckpointError(
            f"the first stage in the work directory is not the one that this run began with: "
            f"{digest} instead of {meta.get('stage1')}"
        )


def _check_skipped(meta: Mapping[str, Any], config: Mapping[str, Any], step: int) -> None:
    """See that a batch which is newly left out, or in, is not among those of the past."""
    from gen_jax.data import batch_of

    try:
        before = set(meta["config"]["data"]["skip_steps"])
    except (KeyError, TypeError):  # not written by this program
        before = set()
    past = [
        n for n in before ^ set(config["data"]["skip_steps"]) if n <= batch_of(step, sorted(before))
    ]
    if past:
        raise CheckpointError(
            f"data.skip_steps: {min(past)}; step {step} is behind it already, and only what comes "
            f"can still be changed; to go back, move checkpoints/{step} and other later ones away"
        )
