"""Waiting for batches, but not for ever."""

import contextlib
import errno
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from gen_jax.data.pipeline import read_some
from gen_jax.data.sources import Examples, Source
from gen_jax.errors import DataError, DataStalledError, GenJaxError, StorageError, one_line

__all__ = ["feed", "read_in_time"]

# How soon a signal is noticed by somebody who waits.
_POLL_S = 0.1
# How long to wait for workers to end; one that hangs is killed later.
_CLOSING_S = 3


def feed(
    batches: Iterator[Examples],
    *,
    name: str,
    timeout_s: float,
    interrupted: Callable[[], bool] = lambda: False,
) -> Iterator[Examples]:
    """Take batches from an iterator that may fail, or hang, in whatever way.

    It is asked in a thread, so that whoever waits here can still be interrupted.

    Args:
        batches: Grain's, say, which waits for ever for a worker that hangs.
        name: of the source, for errors.
        timeout_s: how long to wait for one batch.
        interrupted: asked while there is nothing to give; if so, the batches end.

    Raises:
        DataError: whatever the iterator raised.
        DataStalledError: if a batch did not come in time.
    """
    ready: queue.Queue[tuple[Examples | None, BaseException | None]] = queue.Queue(maxsize=1)
    left = threading.Event()

    def put(item: tuple[Examples | None, BaseException | None]) -> None:
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=1)
                return

    def fetch() -> None:
        try:
            for batch in batches:
                put((batch, None))
                if left.is_set():
                    break
            else:
                put((None, None))
        except BaseException as error:  # also what is no Exception must reach the other thread
            put((None, error))
        # Workers end now, with the memory that they share, and not when Python does.
        close = getattr(batches, "close", None)
        if close is not None:
            with contextlib.suppress(Exception):  # nobody waits for a batch any more
                close()

    thread = threading.Thread(target=fetch, name="gen_jax batches", daemon=True)
    thread.start()
    stalled = False
    try:
        while True:
            batch, error = _get(ready, name, timeout_s, interrupted)
            if error is not None:
                raise _as_data_error(name, error) from error
            if batch is None:
                return
            yield batch
    except DataStalledError:
        stalled = True
        raise
    finally:
        left.set()
        if not stalled:
            thread.join(_CLOSING_S)


def _get(
    ready: queue.Queue, name: str, timeout_s: float, interrupted: Callable[[], bool]
) -> tuple[Examples | None, BaseException | None]:
    end = time.monotonic() + timeout_s
    while True:
        try:
            return ready.get(timeout=_POLL_S)
        except queue.Empty:
            if interrupted():
                return None, None
            if time.monotonic() > end:
                raise DataStalledError(
                    f"{name}: no batch within {timeout_s:g} s (data.timeout_s)"
                ) from None


_SHARED = "/dev/shm"


def _left(place: str) -> str:
    try:
        usage = shutil.disk_usage(place)
    except OSError:
        return ""
    return f" or nearly so, {usage.free / 2**20:.1f} of {usage.total / 2**20:.1f} MiB are free now"


def _as_data_error(name: str, error: BaseException) -> GenJaxError:
    if isinstance(error, GenJaxError):
        return error
    # A worker that writes to shared memory that is not there ends by SIGBUS, 7.
    if getattr(error, "errno", None) == errno.ENOSPC or re.search(r"exit code -7\b", str(error)):
        return StorageError(
            f"{_SHARED}: full{_left(_SHARED)}; the batches of data.num_workers pass through it: "
            "make it larger (docker run --shm-size=8g), or lower data.num_workers or "
            "data.batch_size"
        )
    return DataError(f"{name}: {one_line(error, -1)}"[:500])


def read_in_time(source: Source, indices: np.ndarray, on_bad: str, timeout_s: float) -> Examples:
    """Read a few examples, as :func:`read_some`, but do not wait for ever.

    Raises:
        DataError: for an example that cannot be read.
        DataStalledError: if they did not come in time.
    """
    parts = (read_some(source, part, on_bad) for part in [indices])
    return next(feed(parts, name=source.name, timeout_s=timeout_s))
