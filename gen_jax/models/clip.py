"""CLIP: images and texts in one space (Radford et al. 2021; Zhai et al. 2023)."""

import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.ops.contrastive import contrastive_losses, sigmoid_losses
from gen_jax.protocols import (
    Aux,
    Batch,
    Context,
    Input,
    Loss,
    Matching,
    Model,
    Params,
    Stats,
    Weights,
    batch_mean,
    take,
)
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar

__all__ = ["clip_model"]

_LARGEST = math.log(100.0)  # of the scale's logarithm, as the paper clips it


def clip_model(
    image: nn.Module,
    text: nn.Module,
    dim: int,
    length: int,
    loss: Literal["softmax", "sigmoid"] = "softmax",
    *,
    symmetric: bool = True,
) -> Model:
    """Make a model of how well images and texts match.

    Its only player is ``"net"``, with ``image``, ``text``, their projections and the scale; its
    only loss is ``"clip"``, over all pairs of the global batch: it must not be split into
    microbatches, which would train another loss. Equal texts belong to each other's images.

    Args:
        image: Linen module ``x -> features``, as :class:`gen_jax.nn.vit.ViT`.
        text: Linen module ``tokens -> Encoded``, as :class:`gen_jax.nn.text.TextTransformer`.
        dim: of the space.
        length: tokens of a text.
        loss: over all of a row (CLIP), or each pair by itself (SigLIP).
        symmetric: of the softmax, the mean of both directions; else from images to texts alone.

    Returns:
        A model of ``batch["x"]`` and ``batch["prompt"]`` with ``matching``; it cannot sample.
    """
    sigmoid = loss == "sigmoid"

    def init(key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        keys = jax.random.split(key, 4)
        x, tokens = batch["x"], take(batch, "prompt")
        params: dict[str, Any] = {
            "image": image.init(keys[0], x)["params"],
            "text": text.init(keys[1], tokens)["params"],
            # Of SigLIP 10 and -10 (section 3.2), of CLIP 1 / 0.07 (section 2.5).
            "scale": jnp.asarray(math.log(10.0 if sigmoid else 1 / 0.07), jnp.float32),
        }
        widths = {
            "image": jax.eval_shape(_features, params, x).shape[-1],
            "text": jax.eval_shape(_pooled, params, tokens).shape[-1],
        }
        for number, (name, width) in enumerate(widths.items()):
            noise = jax.random.normal(keys[2 + number], (width, dim))
            params[f"{name}_projection"] = noise / math.sqrt(width)
        if sigmoid:
            params["bias"] = jnp.asarray(-10.0, jnp.float32)
        return {"net": params}, {}

    def _features(params: PyTree, x: Array) -> Array:
        made = image.apply({"params": params["image"]}, x)
        assert isinstance(made, jax.Array)
        return made

    def _pooled(params: PyTree, tokens: Array) -> Array:
        encoded: Any = text.apply({"params": params["text"]}, tokens)
        return encoded.pooled

    def embed_image(weights: Weights, x: Array) -> Float[Array, "batch dim"]:
        net = weights.params["net"]
        return _unit(_features(net, x) @ net["image_projection"])

    def embed_text(
        weights: Weights, tokens: Int[Array, "batch length"]
    ) -> Float[Array, "batch dim"]:
        net = weights.params["net"]
        return _unit(_pooled(net, tokens) @ net["text_projection"])

    def scale_of(weights: Weights) -> Scalar:
        return jnp.exp(jnp.minimum(weights.params["net"]["scale"], _LARGEST))

    def match(weights: Weights, batch: Batch, keys: Keys, context: Context) -> tuple[Scalar, Aux]:
        del keys
        tokens, across = take(batch, "prompt"), context.across
        u, v, scale = (
            embed_image(weights, batch["x"]),
            embed_text(weights, tokens),
            scale_of(weights),
        )
        present = batch["weight"] > 0 if "weight" in batch else jnp.ones(len(u), bool)
        every_u, every_v, every_token, there = across.gather((u, v, tokens, present))
        same = jnp.all(tokens[:, None] == every_token[None], axis=-1)
        if sigmoid:
            bias = weights.params["net"]["bias"]
            nats = sigmoid_losses(u, every_v, same, scale, bias, there)
        else:
            nats = contrastive_losses(u, every_v, same, scale, there)
            if symmetric:
                nats = (nats + contrastive_losses(v, every_u, same, scale, there)) / 2
        best = jnp.argmax(jnp.where(there[None], u @ every_v.T, -jnp.inf), axis=1)
        right = jnp.take_along_axis(same, best[:, None], axis=1)[:, 0]
        metrics = {"accuracy": batch_mean(batch, right.astype(jnp.float32)), "scale": scale}
        return batch_mean(batch, nats), Aux(observed={}, metrics=metrics)

    return Model(
        init=init,
        losses={"clip": Loss("net", match)},
        inputs={
            "prompt": Input("tokens", (length,), getattr(text, "num_tokens", None), help="text")
        },
        matching=Matching(embed_image, embed_text, scale_of),
    )


def _unit(x: Array) -> Array:
    return x / jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-12)
