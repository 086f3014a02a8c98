"""The work directory: its names, its steps and its lock. Loads no JAX."""

import contextlib
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gen_jax.errors import StorageError, WorkdirInUseError

__all__ = [
    "CLASSES",
    "LIVES",
    "STAGE1",
    "STAGES",
    "TOKENIZER",
    "checkpoint_steps",
    "lock",
    "make_workdir",
    "stage_places",
]

CLASSES = "classes.json"
"""The names of classes, in the order of their numbers, where the data had some."""
LIVES = "lives.jsonl"
"""Of each process that trained here: versions, command, machine, time."""
TOKENIZER = "tokenizer.json"
"""What makes tokens of texts, with its digest."""
STAGE1 = "stage1"
"""A second stage's own copy of its first, laid out like a work directory."""
STAGES = ("text", "clip", "prior", "base", "image")
"""Copies of other runs that a run is built over or sampled with, likewise."""


def stage_places(config: Mapping[str, Any]) -> dict[str, str]:
    """Return where the stages are that a config names, by the names of their copies."""
    named = config.get("stages", {})
    places = {STAGE1: config.get("stage1", ""), **{name: named.get(name, "") for name in STAGES}}
    return {name: place for name, place in places.items() if place}


def make_workdir(workdir: Path) -> None:
    """Make the directory, and see that it can be written to.

    Raises:
        StorageError: naming the directory and the reason.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StorageError(f"{workdir}: cannot be written to: {error.strerror}") from error


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Hold a work directory for one training job; the lock ends with the process, however it does.

    Raises:
        WorkdirInUseError: at once, naming the holder.
    """
    path = workdir / ".lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = {"host": socket.gethostname(), "pid": os.getpid()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            os.fsync(descriptor)  # other hosts of the job look at it
        except BlockingIOError as error:
            raise WorkdirInUseError(f"{workdir}: in use by {_holder(descriptor)}") from error
        except OSError as error:
            raise StorageError(f"{path}: cannot be locked: {error.strerror}") from error
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another job"


def checkpoint_steps(workdir: Path) -> list[int]:
    """List the steps that have a directory, whole or damaged."""
    folder = workdir / "checkpoints"
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9]\d*", name, re.ASCII))
