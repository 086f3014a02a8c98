"""Autoregressive models over any grid of tokens, 8-bit pixels included."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from gen_jax.nn.transformer import CausalTransformer
from gen_jax.ops import keys as rng
from gen_jax.ops.decoding import decode
from gen_jax.protocols import (
    Aux,
    Batch,
    Context,
    LogProb,
    Loss,
    Model,
    Params,
    SampleOption,
    Stats,
    batch_mean,
    no_statistics,
)
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar

__all__ = ["autoregressive"]


def autoregressive(
    network: CausalTransformer, shape: Sequence[int], num_classes: int | None = None
) -> Model:
    """Make a model of token grids, in raster order: p(x) = prod_i p(x_i | x_1, ..., x_{i-1}).

    Its only player is ``"net"`` and its only loss ``"likelihood"``, -log p(x) in nats a token; the
    metric ``bits_per_dim`` is the same in bits.

    Args:
        network: over as many tokens as the grid has.
        shape: of one x, channels last.
        num_classes: labels are in [0, num_classes); None for an unconditional model, which ignores
            labels.

    Returns:
        A model of ``batch["x"]``, int tokens; its ``sample`` takes ``temperature``, ``top_k`` and
        ``top_p``, and ``cond``, int labels, where there are classes. ``log_prob`` is exact.

    Raises:
        ValueError: if the network is made for another number of tokens.
    """
    shape = tuple(shape)
    length = math.prod(shape)
    if network.length != length:
        raise ValueError(f"network: length {length} is needed for {shape}, got {network.length}")

    def label_of(batch: Batch) -> Int[Array, "batch"] | None:
        return batch["label"] if num_classes is not None else None

    def flat(x: Int[Array, "batch *dims"]) -> Int[Array, "batch length"]:
        return jnp.reshape(x, (len(x), length)).astype(jnp.int32)

    def init(key: Array, batch: Batch) -> tuple[Params, Stats]:
        variables = network.init(key, flat(batch["x"])[:1], _first(label_of(batch)))
        return {"net": variables["params"]}, {}

    def token_nats(params: Params, batch: Batch, keys: Keys | None) -> Float[Array, "batch length"]:
        tokens = flat(batch["x"])
        logits = network.apply({"params": params["net"]}, tokens, label_of(batch), keys)
        assert isinstance(logits, Array)
        log_p = jax.nn.log_softmax(logits, axis=-1)
        return -jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]

    def loss(
        params: Params, stats: Stats, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del stats
        dropout_keys = keys if context.train else None
        nats = jnp.mean(token_nats(params, batch, dropout_keys), axis=1)
        mean = batch_mean(batch, nats)
        return mean, Aux(observed={}, metrics={"bits_per_dim": mean / math.log(2)})

    def log_prob(params: Params, stats: Stats, batch: Batch, keys: Keys, frozen: PyTree) -> LogProb:
        del stats, keys, frozen
        nats = -jnp.sum(token_nats(params, batch, None), axis=1)
        return LogProb(nats, jnp.zeros_like(nats))

    def sample(
        params: Params,
        stats: Stats,
        keys: Keys,
        frozen: PyTree,
        cond: Int[Array, "batch"] | None = None,
        *,
        temperature: Scalar | float = 1.0,
        top_k: Int[Array, ""] | int = 0,
        top_p: Scalar | float = 1.0,
    ) -> Int[Array, "batch *dims"]:
        """Draw samples; see ``sample_options`` for what the options mean."""
        del stats, frozen

        def step(cache: PyTree, token: Array, index: Array) -> tuple[Array, PyTree]:
            return network.apply(
                {"params": params["net"]}, cache, token, index, cond, method="decode"
            )

        tokens = decode(
            step,
            network.empty_cache(len(keys)),
            length,
            rng.fold_in(keys, 0),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        return jnp.reshape(tokens, (len(keys), *shape))

    sample_options = {
        "temperature": SampleOption(
            float, 1.0, "a number above 0", lambda x: 0 < x < math.inf, False,
            "below 1 for likelier samples, above for more different ones",
        ),
        "top_k": SampleOption(
            int, 0, "a whole number from 0", lambda k: k >= 0, False,
            "draw each token from the k likeliest; 0 for all",
        ),
        "top_p": SampleOption(
            float, 1.0, "a number above 0, to 1", lambda p: 0 < p <= 1, False,
            "draw each token from the fewest that have this probability together",
        ),
    }  # fmt: skip

    return Model(
        init=init,
        losses={"likelihood": Loss("net", loss)},
        update_stats=no_statistics,
        sample=sample,
        sample_options=sample_options,
        log_prob=log_prob,
        log_prob_kind="exact",
    )


def _first(label: Array | None) -> Array | None:
    return None if label is None else label[:1]
