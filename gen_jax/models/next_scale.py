"""Visual autoregressive modeling: from scale to scale, each at once (VAR, Tian et al. 2024)."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.errors import check_arguments
from gen_jax.models.rules import class_dropout_faults
from gen_jax.nn.next_scale import NextScale
from gen_jax.nn.told import Told
from gen_jax.ops import keys as rng
from gen_jax.ops.decoding import token_options, warp_logits
from gen_jax.ops.multi_scale import num_codes_of, shrink
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

__all__ = ["next_scale_model"]

Partial = Callable[[PyTree, Array, int], Array]
"""``(weights of a first stage, codes, num) -> what the first num scales say``, in full size."""


def next_scale_model(
    network: NextScale,
    partial: Partial,
    num_classes: int | None = None,
    class_dropout: float = 0.0,
    *,
    text: nn.Module | None = None,
    null_text: Sequence[int] = (),
    guidance: float | None = None,
) -> Model:
    """Make a prior over codes from coarse to fine: p(x) = prod_k p(x_k | x_1, ..., x_{k-1}).

    Its only player is ``"net"`` and its only loss ``"likelihood"``, -log p(x) in nats a code; the
    metrics are ``bits_per_dim``, the same in bits, and that of each scale.

    Args:
        network: over the codes of all scales.
        partial: what the first scales say, of a first stage whose weights are
            ``frozen["codec"]``; see :class:`gen_jax.protocols.Codec`.
        num_classes: labels are in [0, num_classes); None for an unconditional model.
        class_dropout: share of the training examples whose condition is left out.
        text: encodes ``batch["prompt"]``, and is trained with the network; None for none.
        null_text: the tokens of no text.
        guidance: scale of classifier-free guidance where a request says nothing; None for none.

    Returns:
        A model of ``batch["x"]``, codes [B, L]; its sampler runs the network once a scale and takes
        ``temperature``, ``top_k`` and ``top_p``, with ``class_dropout`` also ``guidance``, which
        grows from 1 at the first scale to its value at the last. Its density is exact.
    """
    conditional = num_classes is not None or text is not None
    check_arguments(class_dropout_faults(class_dropout=class_dropout, conditional=conditional))
    if guidance is not None and not class_dropout:
        raise ValueError(f"guidance: got {guidance}; a class_dropout above 0 is required with it")
    told = Told(network, num_classes, class_dropout=class_dropout, text=text,
                null_text=tuple(null_text))  # fmt: skip
    made = _NextScale(network, partial, told, guidance)
    options = token_options(guided=bool(class_dropout), guidance=guidance)
    return Model(
        init=made.init,
        losses={"likelihood": Loss("net", made.loss)},
        inputs=told.inputs((), edits=False),
        sampler=Sampler(made.draw, options),
        density=Density(made.log_prob, "exact"),
    )


class _NextScale(NamedTuple):
    network: NextScale
    partial: Partial
    told: Told
    guidance: float | None

    @property
    def scales(self) -> tuple[int, ...]:
        return tuple(self.network.scales)

    def said(self, frozen: PyTree, codes: Array, scale: int) -> Float[Array, "batch places dim"]:
        """Return what the scales before one say at its places."""
        whole = self.partial(frozen["codec"], codes, scale)
        small = shrink(whole, self.scales[scale])
        return jnp.reshape(small, (len(codes), -1, small.shape[-1]))

    def all_said(self, frozen: PyTree, codes: Array) -> Float[Array, "batch places dim"]:
        if len(self.scales) == 1:
            return jnp.zeros((len(codes), 0, self.network.dim))
        parts = [self.said(frozen, codes, scale) for scale in range(1, len(self.scales))]
        return jax.lax.stop_gradient(jnp.concatenate(parts, axis=1))

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        cond = self.told.read(batch, batch["x"])
        text_params = {}
        if self.told.text is not None:
            tokens = cond["prompt"]
            text_params = {
                "text": self.told.text.init(jax.random.fold_in(key, 1), tokens)["params"]
            }
        cond = self.told.encode(Weights({"net": text_params}, {}, frozen), cond)
        said = self.all_said(frozen, batch["x"].astype(jnp.int32))
        params = self.network.init(key, said, cond.get("label"), None, *_text_of(cond))["params"]
        return {"net": {"network": params, **text_params} if text_params else params}, {}

    def net(self, params: Params) -> dict[str, PyTree]:
        return {"params": params["net"]["network"] if self.told.text is not None else params["net"]}

    def code_nats(
        self, weights: Weights, batch: Batch, keys: Keys | None
    ) -> Float[Array, "batch codes"]:
        codes = batch["x"].astype(jnp.int32)
        dropped = None if keys is None else rng.fold_in(keys, _CLASS)
        cond = self.told.encode(weights, self.told.read(batch, batch["x"], dropped))
        said = self.all_said(weights.frozen, codes)
        logits: Any = self.network.apply(
            self.net(weights.params), said, cond.get("label"), keys, *_text_of(cond)
        )
        chosen = jnp.take_along_axis(logits, codes[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - chosen

    def loss(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        nats = self.code_nats(weights, batch, keys if context.train else None)
        mean = batch_mean(batch, jnp.mean(nats, axis=1))
        metrics, first = {"bits_per_dim": mean / math.log(2)}, 0
        for side in self.scales:
            own = jnp.mean(nats[:, first : first + side * side], axis=1)
            metrics[f"bits_{side}x{side}"] = batch_mean(batch, own) / math.log(2)
            first += side * side
        return mean, Aux(observed={}, metrics=metrics)

    def log_prob(self, weights: Weights, batch: Batch, keys: Keys) -> LogProb:
        del keys
        nats = -jnp.sum(self.code_nats(weights, batch, None), axis=1)
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
    ) -> Int[Array, "batch codes"]:
        """Draw codes, a scale at a time; see the sampler's options for what they mean."""
        guidance = self.guidance if guidance is None else guidance
        if guidance is not None and not self.told.class_dropout:
            raise ValueError("guidance: a model trained with class_dropout is required")
        num, net = len(keys), self.net(weights.params)
        seen = self.told.read(cond)
        if guidance is not None:
            seen = self.told.with_and_without(seen)
        seen = self.told.encode(weights, {n: x for n, x in seen.items() if n[:3] != "no_"})
        context, mask, pooled = _text_of(seen)
        rows = num if guidance is None else 2 * num

        def run(method: str, *arguments: Any) -> Any:
            return self.network.apply(net, *arguments, method=method)

        condition = run("condition", rows, seen.get("label"), pooled)
        text = None if context is None else run("read", context, mask, condition)
        past = run("no_past", rows) if text is None else text
        codes, said = jnp.zeros((num, 0), jnp.int32), None
        for scale in range(len(self.scales)):
            logits, past = run("step", scale, said, condition, past, mask)
            if guidance is not None:
                share = scale / max(1, len(self.scales) - 1)
                strength = 1 + (guidance - 1) * share
                logits = strength * logits[:num] + (1 - strength) * logits[num:]
            flat = jnp.reshape(logits, (-1, logits.shape[-1]))
            warped = jnp.reshape(warp_logits(flat, temperature, top_k, top_p), logits.shape)
            drawn = jax.vmap(jax.random.categorical)(rng.fold_in(keys, scale), warped)
            codes = jnp.concatenate([codes, drawn.astype(jnp.int32)], axis=1)
            if scale + 1 < len(self.scales):
                whole = num_codes_of(self.scales)
                filled = jnp.pad(codes, ((0, 0), (0, whole - codes.shape[1])))
                said = self.said(weights.frozen, filled, scale + 1)
                said = said if guidance is None else jnp.concatenate([said, said])
        return codes


_CLASS = 0xC1A55


def _text_of(cond: Cond) -> tuple[Array | None, Array | None, Array | None]:
    return cond.get("context"), cond.get("context_mask"), cond.get("pooled")
