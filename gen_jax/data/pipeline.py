"""Batches in a stateless order, through Grain.

Position p of training (step times batch size plus row) always holds the same example: entry
p mod N of the permutation that (seed, p div N) names. There is no iterator state to save; a run
starts anywhere by counting, and any number of hosts reads the same global batches. Batches run
across epoch boundaries, so that none is ever short.
"""

import contextlib
import faulthandler
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from gen_jax.data.sources import Examples, Source
from gen_jax.data.transforms import augment
from gen_jax.errors import DataError

__all__ = [
    "batch_of",
    "examples_of",
    "ordered_batches",
    "read_some",
    "shuffled_indices",
    "spread_indices",
    "train_batches",
]

_ENDLESS = 2**48
# Among so many neighbors of a bad example a good one is looked for.
_NEIGHBORS = 100


def shuffled_indices(positions: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Return which example stands at each position of an endless, reshuffled order.

    Args:
        positions: int64 [n], from 0.
        size: number of examples N; every N positions from a multiple of N on hold each once.
        seed: in [0, 2**32).

    Returns:
        int64 [n] in [0, N).
    """
    epochs, offsets = np.divmod(positions, size)
    indices = np.empty(len(positions), np.int64)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        indices[here] = _permutation(seed, epoch, size)[offsets[here]]
    return indices


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """Sort raw random bits, whose streams NumPy promises never to change.

    Grain's index_shuffle stores nothing, but walks through a domain of fixed size: measured, 1,500
    examples cost it three times as much an index as 60,000 do. A million are sorted here in a
    quarter of a second, once an epoch.
    """
    # Beyond the seeds, so that augmentation, keyed by (seed, step), draws other bits.
    key = np.array([seed + 2**32, epoch], np.uint64)
    return np.argsort(np.random.Philox(key=key).random_raw(size), kind="stable")


def _another(seed: int) -> int:
    """Name another order, and other luck, of a second source of images."""
    return (seed + 0x9E3779B9) % 2**32


def batch_of(step: int, skip: Sequence[int] = ()) -> int:
    """Return which batch of the order a step is made of, both counted from 0.

    Args:
        step: steps taken before it.
        skip: batches that are left out, counted from 1: the first steps of a run, while nothing
            is skipped, have the same numbers.
    """
    batch = step
    for number in sorted(set(skip)):
        batch += number - 1 <= batch
    return batch


def examples_of(batch: int, *, size: int, seed: int, batch_size: int) -> np.ndarray:
    """Return which examples a batch of the order is made of: int64 [batch_size] in [0, size)."""
    return shuffled_indices(batch * batch_size + np.arange(batch_size), size, seed)


def train_batches(
    source: Source,
    *,
    seed: int,
    batch_size: int,
    first_step: int = 0,
    flip: bool = False,
    crop: int = 0,
    rows: np.ndarray | None = None,
    num_workers: int = 0,
    skip: Sequence[int] = (),
    max_bad_fraction: float | None = None,
) -> Iterator[Examples]:
    """Iterate over this host's part of the training batches, for ever.

    Args:
        source: an open source.
        seed: in [0, 2**32); names the order and the augmentation.
        batch_size: of the global batch.
        first_step: the step whose batch comes first.
        flip: random mirroring, left to right.
        crop: largest random shift in pixels.
        rows: int [n], which rows of each global batch this host is to have; None for all.
        num_workers: processes that read and decode; 0 reads in threads of this process.
        skip: batches of the order that are left out, counted from 1.
        max_bad_fraction: of the source's examples; so many may turn out unreadable, and are
            replaced, each by the next one that is not. None: the first one ends the iteration.

    Yields:
        ``image`` uint8 [n, H, W, C], or ``codes``, and, where there are classes, ``label``.

    Raises:
        DataError: if the batch is larger than the source, or it has no such rows; and later for
            an example that cannot be read, or too many of them.
    """
    if batch_size > source.size:
        raise DataError(
            f"{source.name}: data.batch_size: {batch_size} is more than its {source.size} examples"
        )
    mine = np.arange(batch_size) if rows is None else np.asarray(rows)
    if not len(mine) or min(mine) < 0 or max(mine) >= batch_size:
        raise DataError(f"rows: got {mine}; some from 0 to {batch_size - 1} are required")

    def read_batch(index: int) -> Examples:
        positions = batch_of(first_step + index, skip) * batch_size + mine
        return with_other(source.read(shuffled_indices(positions, source.size, seed)), positions)

    def with_other(examples: Examples, positions: np.ndarray) -> Examples:
        """Put images of the other kind in, which have an order and epochs of their own."""
        if source.other is None:
            return examples
        indices = shuffled_indices(positions, source.other.size, _another(seed))
        return {**examples, "other": source.other.read(indices)["image"]}

    def read_example(index: int) -> Examples:
        step, row = divmod(index, len(mine))
        place = batch_of(first_step + step, skip) * batch_size + mine[row : row + 1]
        wanted = shuffled_indices(place, source.size, seed)
        if max_bad_fraction is None:
            examples = source.read(wanted)
        else:
            examples = _read_or_replace(source, wanted)
        examples = with_other(examples, place)
        return {name: value[0] for name, value in examples.items()}

    def transform(index: int, batch: Examples) -> Examples:
        if "image" not in batch:  # codes
            return batch
        shape, made = batch["image"].shape[:3], dict(batch)
        for name, array in batch.items():
            if np.ndim(array) == 4 and array.shape[:3] == shape:
                made[name] = augment(  # what lies on an image moves with it
                    array,
                    seed=_another(seed) if name == "other" else seed,
                    step=batch_of(first_step + index, skip),
                    rows=mine,
                    flip=flip,
                    crop=crop,
                )
        return made

    # In memory a whole batch costs one indexing operation. Otherwise examples are read one by one,
    # each batch by one of several threads; the buffer is of batches and must stay small.
    if source.in_memory:
        dataset, threads = grain.MapDataset.range(_ENDLESS).map(read_batch), 1
    else:
        dataset, threads = grain.MapDataset.range(_ENDLESS).map(read_example).batch(len(mine)), 8
    dataset = dataset.map_with_index(transform)
    batches = dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(4, threads))
    )
    if num_workers:
        _let_grain_read_flags()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=2),
            worker_init_fn=_end_with_parent,
        )
        # Grain unmaps a worker's batch when its array is deleted, whoever looks at the bytes: JAX
        # on CPU takes arrays over without a copy, and views of them are taken along the way.
        batches = batches.map(_copied)
    if max_bad_fraction is None or source.in_memory:
        return iter(batches)
    share = max_bad_fraction * len(mine) / batch_size  # of several processes each counts its own
    return _counting_replaced(iter(batches), source, share, max_bad_fraction)


def read_some(source: Source, indices: np.ndarray, on_bad: str) -> Examples:
    """Read examples, as training would.

    Args:
        source: an open source.
        indices: int64 [n].
        on_bad: ``"skip"``: what cannot be read is replaced by the next that can.

    Raises:
        DataError: for an example that cannot be read.
    """
    if on_bad != "skip" or source.in_memory:
        return source.read(indices)
    parts = [_read_or_replace(source, indices[i : i + 1]) for i in range(len(indices))]
    return {
        name: np.concatenate([part[name] for part in parts])
        for name in parts[0]
        if name != "replaced"
    }


def _read_or_replace(source: Source, index: np.ndarray) -> Examples:
    """Read one example, or the next good one; ``replaced`` is the bad one's index, or -1."""
    try:
        return {**source.read(index), "replaced": np.full(1, -1)}
    except DataError:
        time.sleep(0.1)  # a file system may only have stumbled: once more
    for offset in range(min(_NEIGHBORS, source.size)):
        try:
            examples = source.read((index + offset) % source.size)
        except DataError:
            continue
        return {**examples, "replaced": index if offset else np.full(1, -1)}
    return source.read(index)  # and raise


def _counting_replaced(
    batches: Iterator[Examples], source: Source, share: float, max_fraction: float
) -> Iterator[Examples]:
    """Tell of each bad example once, and give up when there are too many."""
    try:
        yield from _without_replaced(batches, source, share, max_fraction)
    finally:
        with contextlib.suppress(AttributeError):  # of iterators that hold nothing
            batches.close()


def _without_replaced(
    batches: Iterator[Examples], source: Source, share: float, max_fraction: float
) -> Iterator[Examples]:
    bad: set[int] = set()
    for batch in batches:
        replaced = batch.pop("replaced")
        for index in sorted(set(replaced[replaced >= 0].tolist()) - bad):
            bad.add(index)
            try:
                source.read(np.array([index]))
                reason = f"{source.name}[{index}]: could not be read a moment ago"
            except DataError as error:
                reason = str(error)
            if len(bad) > share * source.size:
                raise DataError(
                    f"{reason}; {len(bad)} bad examples of {source.size:,} are more than "
                    f"data.max_bad_fraction {max_fraction:g}"
                )
            print(f"gen_jax: data: {reason}; replaced by the next", file=sys.stderr, flush=True)
        yield batch


def spread_indices(source: Source, limit: int | None = None) -> np.ndarray:
    """Choose ``limit`` examples evenly from a source, so that all classes are among them.

    Sources often lie class by class. None chooses all; so does a limit beyond the size.
    """
    num = source.size if limit is None else min(limit, source.size)
    return np.linspace(0, source.size - 1, num).round().astype(np.int64)


def ordered_batches(
    source: Source, batch_size: int, limit: int | None = None
) -> Iterator[Examples]:
    """Iterate once over a source in its own order, in batches of one shape.

    Args:
        source: an open source.
        batch_size: of every batch; the last is padded by repeating its last example.
        limit: use only this many examples, spread evenly; None for all.

    Yields:
        ``image`` or ``codes``, where there are classes ``label``, and ``weight`` float32
        [batch_size]: 1 for an example and 0 for padding.
    """
    indices = spread_indices(source, limit)
    size = len(indices)

    def read(index: int) -> Examples:
        positions = index * batch_size + np.arange(batch_size)
        batch = source.read(indices[np.minimum(positions, size - 1)])
        return {**batch, "weight": (positions < size).astype(np.float32)}

    dataset = grain.MapDataset.range(-(-size // batch_size)).map(read)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


def _let_grain_read_flags() -> None:
    """Parse no flags, where nobody has: Grain's workers ask absl for theirs."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _copied(batch: Examples) -> Examples:
    return {name: np.array(value) for name, value in batch.items()}


def _end_with_parent(worker: int, num_workers: int) -> None:
    """End this worker when its parent does, and only then.

    Grain leaves orphans behind a killed trainer; and a terminal's Ctrl-C or a scheduler's SIGTERM,
    sent to every process of a job, must not take the workers from a trainer that is saving.
    """
    del worker, num_workers
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR2", "SIGXCPU"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR1, all_threads=True)  # a trainer that waits asks why
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
