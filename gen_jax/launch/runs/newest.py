"""The newest step of a work directory that is what was saved."""

import contextlib
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from gen_jax.errors import CheckpointError, DamagedError, StorageError
from gen_jax.launch.runs.workdir import checkpoint_steps

__all__ = ["newest_good", "newest_good_beside", "set_aside"]

T = TypeVar("T")


# How often a running job may delete a step while it is being read.
_RETRIES = 20


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
