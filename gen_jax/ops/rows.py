"""Applying a compiled function to any number of rows, in batches of one shape."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from gen_jax.typing import PyTree

__all__ = ["each_batch", "map_rows"]


def map_rows(
    fn: Callable[[PyTree, np.int32], PyTree],
    rows: PyTree,
    batch_size: int,
    sharding: NamedSharding | None = None,
) -> PyTree:
    """Apply a function to rows, a batch at a time, and put its results together.

    Args:
        fn: ``(batch, index of its first row) -> arrays [batch, ...]``. It is called with one shape
            only: the last batch is filled up with its last row.
        rows: arrays [N, ...] on the host, N >= 1.
        batch_size: rows at once. Of fewer rows there is one batch, filled up to one of few sizes,
            at most a quarter above N, so that few programs serve all N.
        sharding: spreads the batches over devices, whose number ``batch_size`` is rounded up to;
            None for the default device.

    Returns:
        Host arrays [N, ...]; of several processes, all of them on each.

    Example:
        >>> map_rows(lambda x, first: x + first, np.zeros(5, np.int32), batch_size=2)
        array([0, 0, 2, 2, 4], dtype=int32)
    """
    parts = list(each_batch(fn, rows, batch_size, sharding))
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def each_batch(
    fn: Callable[[PyTree, np.int32], PyTree],
    rows: PyTree,
    batch_size: int,
    sharding: NamedSharding | None = None,
    begin: int = 0,
    end: int | None = None,
) -> Iterator[PyTree]:
    """Do what :func:`map_rows` does for rows from ``begin`` to before ``end``, batch by batch."""
    end = len(jax.tree.leaves(rows)[0]) if end is None else end
    size = min(batch_size, _rounded_up(end - begin))
    if sharding is not None:
        parts = _num_parts(sharding)
        size = -(-size // parts) * parts
    for first in range(begin, end, size):
        indices = np.minimum(np.arange(first, first + size), end - 1)
        batch = jax.tree.map(lambda x, indices=indices: _place(x[indices], sharding), rows)
        made = fn(batch, np.int32(first))
        kept = min(size, end - first)
        yield jax.tree.map(lambda x, kept=kept: _fetch(x)[:kept], made)


def _rounded_up(num: int) -> int:
    """Round up to 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ...: four sizes an octave."""
    unit = max(1, 2 ** (num - 1).bit_length() // 8)
    return -(-num // unit) * unit


def _place(part: np.ndarray, sharding: NamedSharding | None) -> Any:
    if sharding is None:
        return part
    return jax.make_array_from_callback(part.shape, sharding, part.__getitem__)


def _fetch(x: Any) -> np.ndarray:
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))


def _num_parts(sharding: NamedSharding) -> int:
    axes = sharding.spec[0]
    names = axes if isinstance(axes, tuple) else (axes,)
    return int(np.prod([sharding.mesh.shape[name] for name in names if name is not None]))
