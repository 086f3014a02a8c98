"""Log-likelihoods on held-out data."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from gen_jax.ops import keys as rng
from gen_jax.protocols import Batch, Density, LogProb, Weights

__all__ = ["MeanLogProb", "bits_per_dim", "mean_log_prob"]


class MeanLogProb(NamedTuple):
    """A mean over examples, in nats."""

    nats: float
    stderr: float  # over examples
    estimator_stderr: float  # of that, what the estimator's own noise makes; nan where unknown
    terms: Mapping[str, np.ndarray]  # of a bound, each a mean over examples


def bits_per_dim(nats: float, num_dims: int) -> float:
    """Turn -log p of an example in nats into bits for each of its dimensions."""
    return nats / (num_dims * math.log(2))


def mean_log_prob(
    density: Density,
    weights: Weights,
    batches: Iterable[Mapping[str, np.ndarray]],
    key: jax.Array,
    options: Mapping[str, Any],
    num_batches: int | None = None,
) -> MeanLogProb:
    """Average log p(x), or the model's bound on it, over examples.

    Args:
        density: of a model.
        weights: of the model; usually the averaged ones.
        batches: of one shape, with ``weight`` [B] (0 for padding).
        key: names all noise; example i gets its own key.
        options: of the density.
        num_batches: to show a bar on a terminal; None for no bar.

    """
    chosen = tuple(sorted(options.items()))
    evaluate = _evaluator(density.log_prob, chosen)
    # What is the same for all examples has an error that averaging does not make smaller.
    shared, more = 0.0, {}
    if density.normalizer is not None:
        more["log_z"] = _normalizer(density.normalizer, chosen)(weights)
        shared = float(more["log_z"][1])
    nats, errors, first = [], [], 0
    terms: dict[str, list[np.ndarray]] = {}
    bar = tqdm(total=num_batches, unit="batch", disable=None if num_batches else True)
    for batch in batches:
        estimate = evaluate(weights, batch, key, first, more)
        real = batch["weight"] > 0
        nats.append(np.asarray(estimate.nats, np.float64)[real])
        errors.append(np.asarray(estimate.stderr, np.float64)[real])
        for name, term in estimate.terms.items():
            terms.setdefault(name, []).append(np.asarray(term, np.float64)[real])
        first += len(batch["weight"])
        bar.update()
    bar.close()
    values, noise = np.concatenate(nats), np.concatenate(errors)
    own = math.sqrt(np.mean(noise**2) / len(values))
    return MeanLogProb(
        nats=float(values.mean()),
        stderr=float(values.std(ddof=1) / math.sqrt(len(values))),
        estimator_stderr=own if density.normalizer is None else shared,
        terms={name: np.concatenate(parts).mean(axis=0) for name, parts in terms.items()},
    )


@functools.lru_cache(maxsize=8)
def _evaluator(
    log_prob: Callable[..., LogProb], options: tuple[tuple[str, Any], ...]
) -> Callable[..., LogProb]:
    """Keep the jitted density: each split of the data would compile it anew."""

    @jax.jit
    def evaluate(
        weights: Weights, batch: Batch, key: jax.Array, first: jax.Array, more: Mapping[str, Any]
    ) -> LogProb:
        keys = rng.per_example(key, first, len(batch["weight"]))
        return log_prob(weights, batch, keys, **dict(options), **more)

    return evaluate


@functools.lru_cache(maxsize=8)
def _normalizer(
    normalizer: Callable[..., tuple[jax.Array, jax.Array]], options: tuple[tuple[str, Any], ...]
) -> Callable[[Weights], tuple[jax.Array, jax.Array]]:
    defaults = dict(options)
    return jax.jit(lambda weights: normalizer(weights, **defaults))
