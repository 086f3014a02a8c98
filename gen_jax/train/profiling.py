"""A window of steps under the profiler."""

from pathlib import Path

import jax
from tqdm import tqdm

from gen_jax.typing import PyTree

__all__ = ["Window"]


class Window:
    """Record the steps ``first`` to ``first + steps - 1``, counted from 1; with ``first`` 0, none.

    What is written opens in TensorBoard (with its profile plugin) and, as
    ``perfetto_trace.json.gz``, in Perfetto.
    """

    def __init__(self, directory: Path, first: int, steps: int) -> None:
        self._directory, self._first, self._last = directory, first, first + steps - 1
        self._recording = False

    def open(self, step: int) -> None:
        """Begin before the first of the steps."""
        if step == self._first:
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
            self._recording = True

    def close(self, step: int | None, results: PyTree) -> None:
        """End after the last of the steps, or with None before it, when its results are there."""
        if self._recording and (step is None or step == self._last):
            jax.block_until_ready(results)
            jax.profiler.stop_trace()
            self._recording = False
            tqdm.write(f"profile written to {self._directory}")
