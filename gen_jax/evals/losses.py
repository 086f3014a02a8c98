"""A model's own losses on held-out data."""

import functools
from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.ops import keys as rng
from gen_jax.protocols import LOCAL, Batch, Context, Loss, Model, Weights

__all__ = ["mean_losses"]


def mean_losses(
    model: Model,
    weights: Weights,
    batches: Iterable[Mapping[str, np.ndarray]],
    key: jax.Array,
    draws: int = 1,
) -> dict[str, float]:
    """Average every loss of a model over examples, and over draws of its noise.

    Args:
        model: whose losses.
        weights: of the model; usually the averaged ones.
        batches: of one shape, with ``weight`` [B] (0 for padding).
        key: names all noise; example i of draw d gets its own key.
        draws: how many times each example is seen, each time with other noise.

    Returns:
        ``{name of the loss: mean}``.
    """
    evaluate = _evaluator(tuple(model.losses.items()))
    sums = dict.fromkeys(model.losses, 0.0)
    total, first = 0.0, 0
    for batch in batches:
        weight = float(np.mean(batch["weight"]))
        for draw in range(draws):
            draw_key = jax.random.fold_in(key, draw)
            losses = evaluate(weights, batch, draw_key, first)
            for name, value in losses.items():
                sums[name] += float(value)
            total += weight
        first += len(batch["weight"])
    return {name: value / total for name, value in sums.items()}


@functools.lru_cache(maxsize=8)
def _evaluator(losses: tuple[tuple[str, Loss], ...]) -> Callable[..., Mapping[str, jax.Array]]:
    """Keep the jitted losses: each split of the data would compile them anew."""

    @jax.jit
    def evaluate(
        weights: Weights, batch: Batch, key: jax.Array, first: jax.Array
    ) -> Mapping[str, jax.Array]:
        context = Context(jnp.zeros((), jnp.int32), LOCAL, train=False)
        keys = rng.per_example(key, first, len(batch["weight"]))
        return {name: loss.fn(weights, batch, keys, context)[0] for name, loss in losses}

    return evaluate
