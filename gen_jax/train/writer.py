"""Metrics and pictures of a run, on disk."""

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from gen_jax.errors import StorageError
from gen_jax.files import png_bytes, write_file

__all__ = ["Writer", "close", "open_writer", "write_images", "write_metrics"]


class Writer(NamedTuple):
    """Open files of a work directory."""

    workdir: Path
    metrics: TextIO
    # Not SummaryWriter: its thread dies on a full disk, and whoever fills its queue then waits.
    events: EventsWriter


def open_writer(workdir: Path, first_step: int) -> Writer:
    """Open ``metrics.jsonl`` and the event files of a run that goes on after ``first_step``.

    Lines of later steps, left by a run that was cut off after its last checkpoint, are dropped:
    they will be written again.

    Raises:
        StorageError: if the files cannot be written.
    """
    path = workdir / "metrics.jsonl"
    with _storage(path):
        if path.exists():
            lines = path.read_text(errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= first_step]
            if kept != lines:
                write_file(path, "".join(f"{line}\n" for line in kept).encode())
        metrics = open(path, "a", buffering=1)  # noqa: SIM115 closed by close()
    with _storage(workdir / "tensorboard"):
        (workdir / "tensorboard").mkdir(exist_ok=True)
        events = EventsWriter(str(workdir / "tensorboard" / "events"))
        # TensorBoard drops what an earlier file says of later steps.
        start = SessionLog(status=SessionLog.START)
        _write_event(events, first_step + 1, session_log=start)
    return Writer(workdir, metrics, events)


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}") from error


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # a torn line


def write_metrics(writer: Writer, step: int, metrics: Mapping[str, float]) -> None:
    """Append one line of JSON, and the same scalars to the event files.

    Numbers that are not finite become null, which JSON can say.

    Raises:
        StorageError: if the line cannot be written.
    """
    line = {"step": step} | {
        name: value if math.isfinite(value) else None for name, value in metrics.items()
    }
    with _storage(writer.workdir / "metrics.jsonl"):
        writer.metrics.write(json.dumps(line) + "\n")
    with _storage(writer.workdir / "tensorboard"):
        for name, value in metrics.items():
            _write_event(writer.events, step, summary=summary.scalar(name, value))
        writer.events.flush()


def write_images(writer: Writer, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Write uint8 [H, W, C] pictures as ``images/<step>_<name>.png`` and to the event files."""
    for name, image in images.items():
        write_file(writer.workdir / "images" / f"{step:07d}_{name}.png", png_bytes(image))
        color = np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image
        with _storage(writer.workdir / "tensorboard"):
            _write_event(writer.events, step, summary=summary.image(name, color, dataformats="HWC"))
            writer.events.flush()


def _write_event(events: EventsWriter, step: int, **content: Any) -> None:
    events.write_event(Event(wall_time=time.time(), step=step, **content))


def close(writer: Writer) -> None:
    """Flush and close the files.

    Raises:
        StorageError: if what was still to be written cannot be.
    """
    try:
        with _storage(writer.workdir / "metrics.jsonl"):
            writer.metrics.close()
    finally:
        with _storage(writer.workdir / "tensorboard"):
            writer.events.close()
