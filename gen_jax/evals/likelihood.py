"""Log-likelihoods on held-out data."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from gen_jax.ops import keys as rng
from gen_jax.protocols import Batch, LogProb, Model, Params, Stats
from gen_jax.typing import PyTree

__all__ = ["bits_per_dim", "mean_log_prob"]


def bits_per_dim(nats: float, num_dims: int) -> float:
    """Turn -log p of an example in nats into bits for each of its dimensions."""
    return nats / (num_dims * math.log(2))


def mean_log_prob(
    model: Model,
    params: Params,
    stats: Stats,
    frozen: PyTree,
    batches: Iterable[Mapping[str, np.ndarray]],
    key: jax.Array,
    options: Mapping[str, Any],
    num_batches: int | None = None,
) -> tuple[float, float]:
    """Average log p(x), or the model's bound on it, over examples.

    Args:
        model: with a ``log_prob``.
        params: of the model; usually the averaged ones.
        stats: of the model.
        frozen: weights that are not trained.
        batches: of one shape, with ``weight`` [B] (0 for padding).
        key: names all noise; example i gets its own key.
        options: of ``Model.log_prob``.
        num_batches: to show a bar on a terminal; None for no bar.

    Returns:
        The mean in nats, and its standard error over examples.
    """
    evaluate = _evaluator(model.log_prob, tuple(sorted(options.items())))
    nats, first = [], 0
    bar = tqdm(total=num_batches, unit="batch", disable=None if num_batches else True)
    for batch in batches:
        estimate = evaluate(params, stats, batch, key, first, frozen)
        nats.append(np.asarray(estimate.nats, np.float64)[batch["weight"] > 0])
        first += len(batch["weight"])
        bar.update()
    bar.close()
    values = np.concatenate(nats)
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


@functools.lru_cache(maxsize=8)
def _evaluator(
    log_prob: Callable[..., LogProb], options: tuple[tuple[str, Any], ...]
) -> Callable[..., LogProb]:
    """Keep the jitted density: each split of the data would compile it anew."""

    @jax.jit
    def evaluate(
        params: Params, stats: Stats, batch: Batch, key: jax.Array, first: jax.Array, frozen: PyTree
    ) -> LogProb:
        keys = rng.per_example(key, first, len(batch["weight"]))
        return log_prob(params, stats, batch, keys, frozen, **dict(options))

    return evaluate
