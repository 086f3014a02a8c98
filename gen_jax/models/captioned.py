"""Text to image by tokens: LlamaGen (Sun et al. 2024) and DALL-E (Ramesh et al. 2021)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.errors import check_arguments
from gen_jax.models.rules import class_dropout_faults
from gen_jax.nn.llama import Block, Llama, layer_of
from gen_jax.nn.text import up_to_end
from gen_jax.nn.told import Told
from gen_jax.ops import keys as rng
from gen_jax.ops.decoding import decode, token_options
from gen_jax.protocols import (
    Aux,
    Batch,
    Cond,
    Context,
    Density,
    LogProb,
    Loss,
    Model,
    Params,
    Sampler,
    Stats,
    Weights,
    batch_mean,
)
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar

__all__ = ["captioned_model"]


def captioned_model(
    network: Llama,
    num_classes: int | None = None,
    class_dropout: float = 0.0,
    *,
    text: nn.Module | None = None,
    null_text: Sequence[int] = (),
    text_weight: float = 0.0,
    guidance: float | None = None,
) -> Model:
    """Make a model of code grids behind a prefix: p(x | y) = prod_i p(x_i | y, x_1, ..., x_{i-1}).

    Its only player is ``"net"`` and its only loss ``"likelihood"``, in nats: with a text that is
    predicted too, ``text_weight`` times -log p of a token of the text and the rest times -log p of
    a code (Ramesh et al. 2021, section 2.2: 1/8 and 7/8). The metrics ``bits_per_dim`` and
    ``text_bits`` are of either.

    Args:
        network: over as many codes as x has.
        num_classes: labels are in [0, num_classes); None for none.
        class_dropout: share of the training examples whose condition is left out.
        text: encodes ``batch["prompt"]`` and is trained with the network: a
            :class:`gen_jax.nn.text.TextTransformer`, whose vectors are the prefix, or a
            :class:`gen_jax.nn.llama.TextStream`; None for none.
        null_text: the tokens of no text.
        text_weight: from 0 to below 1; above 0 the network must have ``num_text``.
        guidance: scale of classifier-free guidance where a request says nothing; None for none.

    Returns:
        A model of ``batch["x"]``, int codes [B, *shape]; its sampler takes ``temperature``,
        ``top_k`` and ``top_p``, with ``class_dropout`` also ``guidance``. Its density is exact, of
        the codes given the condition.
    """
    conditional = num_classes is not None or text is not None
    check_arguments(class_dropout_faults(class_dropout=class_dropout, conditional=conditional))
    if guidance is not None and not class_dropout:
        raise ValueError(f"guidance: got {guidance}; a class_dropout above 0 is required with it")
    if not 0 <= text_weight < 1 or bool(text_weight) != (network.num_text is not None):
        raise ValueError(
            f"text_weight: got {text_weight}; a number above 0 to below 1 is required with a "
            "network that has num_text, and 0 without"
        )
    told = Told(
        network,
        num_classes,
        class_dropout=class_dropout,
        text=text,
        null_text=tuple(null_text),
    )
    made = _Captioned(network, told, text_weight, guidance)
    options = token_options(guided=bool(class_dropout), guidance=guidance)
    return Model(
        init=made.init,
        losses={"likelihood": Loss("net", made.loss)},
        inputs=told.inputs((), edits=False),
        sampler=Sampler(made.draw, options),
        density=Density(made.log_prob, "exact"),
    )


class _Captioned(NamedTuple):
    network: Llama
    told: Told
    text_weight: float
    guidance: float | None

    def flat(self, x: Int[Array, "batch *dims"]) -> Int[Array, "batch length"]:
        return jnp.reshape(x, (len(x), self.network.length)).astype(jnp.int32)

    def net(self, params: Params) -> PyTree:
        return params["net"]["network"] if self.told.text is not None else params["net"]

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        cond = self.told.read(batch, batch["x"])
        text_params = {}
        if self.told.text is not None:
            own = self.told.text.init(jax.random.fold_in(key, 1), cond["prompt"])
            text_params = {"text": own["params"]}
        cond = self.told.encode(Weights({"net": text_params}, {}, frozen), cond)
        given = cond.get("label"), None, cond.get("context"), cond.get("context_mask")
        params = self.network.init(key, self.flat(batch["x"]), *given)["params"]
        return {"net": {"network": params, **text_params} if text_params else params}, {}

    def token_nats(
        self, weights: Weights, batch: Batch, keys: Keys | None
    ) -> tuple[Float[Array, "batch length"], Float[Array, "batch"] | None]:
        """Return -log p of each code, and the mean of the text's tokens, if they are predicted."""
        dropped = None if keys is None else rng.fold_in(keys, _CLASS)
        told = self.told.read(batch, batch["x"], dropped)
        cond = self.told.encode(weights, told)
        codes = self.flat(batch["x"])
        made: Any = self.network.apply(
            {"params": self.net(weights.params)},
            codes,
            cond.get("label"),
            keys,
            cond.get("context"),
            cond.get("context_mask"),
        )
        logits, text_logits = made
        nats = _nats(logits, codes)
        if text_logits is None:
            return nats, None
        prompt = told["prompt"]
        behind = up_to_end(prompt, self.told.text.end)[:, 1:].astype(jnp.float32)
        text_nats = _nats(text_logits[:, -prompt.shape[1] : -1], prompt[:, 1:])
        return nats, jnp.sum(text_nats * behind, axis=1) / jnp.sum(behind, axis=1)

    def loss(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        nats, text_nats = self.token_nats(weights, batch, keys if context.train else None)
        mean = batch_mean(batch, jnp.mean(nats, axis=1))
        metrics = {"bits_per_dim": mean / math.log(2)}
        if text_nats is None:
            return mean, Aux(observed={}, metrics=metrics)
        of_text = batch_mean(batch, text_nats)
        metrics["text_bits"] = of_text / math.log(2)
        total = self.text_weight * of_text + (1 - self.text_weight) * mean
        return total, Aux(observed={}, metrics=metrics)

    def log_prob(self, weights: Weights, batch: Batch, keys: Keys) -> LogProb:
        del keys
        nats = -jnp.sum(self.token_nats(weights, batch, None)[0], axis=1)
        return LogProb(nats, jnp.zeros_like(nats))

    def draw(
        self,
        weights: Weights,
        keys: Keys,
        cond: Cond,
        *,
        temperature: Scalar | float = 1.0,
        top_k: Int[Array, ""] | int = 0,
        top_p: Scalar | float = 1.0,
        guidance: Scalar | float | None = None,
    ) -> Int[Array, "batch *shape"]:
        """Draw codes; see the sampler's options for what they mean."""
        guidance = self.guidance if guidance is None else guidance
        if guidance is not None and not self.told.class_dropout:
            raise ValueError("guidance: a model trained with class_dropout is required")
        seen = self.told.read(cond)
        if guidance is not None:
            seen = self.told.with_and_without(seen)
        seen = self.told.encode(weights, {n: x for n, x in seen.items() if n[:3] != "no_"})
        rows = len(keys) if guidance is None else 2 * len(keys)
        step, state = self.stepper(weights, seen, rows, guidance)
        codes = decode(
            step,
            state,
            self.network.length,
            keys,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
        )
        return jnp.reshape(codes, (len(keys), *self.network.shape))

    def stepper(
        self, weights: Weights, cond: Cond, rows: int, guidance: Scalar | float | None
    ) -> tuple[Callable[..., tuple[Array, PyTree]], PyTree]:
        """Make a step of :func:`gen_jax.ops.decoding.decode`, the prefix in its state already."""
        params, net = self.net(weights.params), self.network
        variables = {"params": params}
        block = Block(net.num_heads, net.dropout, net.depth, net.dtype)
        given = cond.get("label"), cond.get("context"), cond.get("context_mask")
        made: Any = net.apply(variables, rows, *given, method="prefix")
        prefix, mask = made
        before, length = prefix.shape[1], net.length
        angles: Any = net.apply(variables, before, method="angles")
        shape = (rows, before + length, net.num_heads, net.width // net.num_heads)
        empty = jnp.zeros(shape, net.dtype)
        there = jnp.concatenate([mask, jnp.ones((rows, length), bool)], axis=1)
        caches: list[tuple[Array, Array]] = []
        h = prefix
        causal = jnp.tril(jnp.ones((before, before + length), bool))[None] & there[:, None]
        for layer in range(net.depth):
            if not before:
                caches.append((empty, empty))
                continue
            own: Any = block.apply(
                layer_of(params, layer), h, layer, angles[:before], causal, None, (empty, empty), 0
            )
            h, cache = own
            caches.append(cache)

        def step(state: PyTree, code: Array, index: Array) -> tuple[Array, PyTree]:
            code = code if guidance is None else jnp.concatenate([code, code])
            h: Any = net.apply(variables, code, index, method="embed")
            place = before + index
            angle = jax.lax.dynamic_slice_in_dim(angles, place, 1)
            seen = there & (jnp.arange(before + length) <= place)[None]
            kept: list[tuple[Array, Array]] = []
            for layer in range(net.depth):
                own: Any = block.apply(
                    layer_of(params, layer),
                    h,
                    layer,
                    angle,
                    seen[:, None],
                    None,
                    state[layer],
                    place,
                )
                h, cache = own
                kept.append(cache)
            logits: Any = net.apply(variables, h, method="head")
            logits = logits[:, 0]
            if guidance is not None:
                with_it, without = jnp.split(logits, 2)
                logits = without + guidance * (with_it - without)
            return logits, tuple(kept)

        return step, tuple(caches)


_CLASS = 0xC1A55


def _nats(logits: Array, tokens: Array) -> Array:
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
