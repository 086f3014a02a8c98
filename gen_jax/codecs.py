"""Frozen maps between uint8 images and what a model models.

Models see ``batch["x"]`` and nothing of pixels; :func:`with_codec` puts a codec around one.
"""

import math

import jax.numpy as jnp

from gen_jax.ops import keys as rng
from gen_jax.protocols import Aux, Batch, Codec, Context, LogProb, Loss, Model, Params, Stats
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar, UInt8

__all__ = ["rgb", "tokens", "with_codec"]

# Folded into an example's key for the codec's own randomness, apart from the model's draws.
_CODEC = 0x0C0DEC


def rgb() -> Codec:
    """Make the map between uint8 [0, 255] and float32 [-1, 1]: x = image / 127.5 - 1.

    Decoding clips and rounds to the nearest grey level.
    """

    def encode(frozen: PyTree, image: UInt8[Array, "batch *dims"], keys: Keys) -> Array:
        del frozen, keys
        return image.astype(jnp.float32) / 127.5 - 1.0

    def decode(frozen: PyTree, x: Float[Array, "batch *dims"]) -> Array:
        del frozen
        return jnp.round(jnp.clip((x + 1.0) * 127.5, 0.0, 255.0)).astype(jnp.uint8)

    return Codec(encode, decode, num_categories=None, log_scale=-math.log(127.5))


def tokens(levels: int = 256) -> Codec:
    """Make the map between uint8 pixels and int32 tokens in [0, levels).

    token = round(image (levels - 1) / 255). With 256 levels a token is a grey level, and
    probabilities of tokens are probabilities of pixels. Fewer lose nothing where the data has no
    other levels, but a probability of tokens is then not one of 8-bit pixels.

    Args:
        levels: from 2 to 256.

    Raises:
        ValueError: for other numbers.
    """
    if not 2 <= levels <= 256:
        raise ValueError(f"levels: a whole number from 2 to 256 is needed, got {levels}")
    scale = (levels - 1) / 255

    def encode(frozen: PyTree, image: UInt8[Array, "batch *dims"], keys: Keys) -> Array:
        del frozen, keys
        return jnp.round(image.astype(jnp.float32) * scale).astype(jnp.int32)

    def decode(frozen: PyTree, x: Int[Array, "batch *dims"]) -> Array:
        del frozen
        return jnp.round(x.astype(jnp.float32) / scale).astype(jnp.uint8)

    return Codec(encode, decode, num_categories=levels, log_scale=0.0 if levels == 256 else None)


def with_codec(model: Model, codec: Codec) -> Model:
    """Let a model of x be trained on images and give images.

    Batches that already hold ``x`` skip the encoder. ``frozen["codec"]`` holds the codec's weights;
    ``init``, which is given no frozen weights, needs a batch with ``x`` if the codec has any.

    Args:
        model: models ``batch["x"]``.
        codec: between images and x.

    Returns:
        A model whose batches may hold ``image``, whose samples are uint8 images, and whose
        log-density, where the codec passes one, is over pixels in units of one grey level.
    """

    def encoded(frozen: PyTree, batch: Batch, keys: Keys) -> Batch:
        if "x" in batch:
            return batch
        x = codec.encode(frozen, batch["image"], rng.fold_in(keys, _CODEC))
        return {**{name: value for name, value in batch.items() if name != "image"}, "x": x}

    def init(key: Array, batch: Batch) -> tuple[Params, Stats]:
        if "x" not in batch:
            batch = encoded({}, batch, rng.per_example(key, 0, len(batch["image"])))
        return model.init(key, batch)

    def wrap(loss: Loss) -> Loss:
        def fn(
            params: Params, stats: Stats, batch: Batch, keys: Keys, context: Context
        ) -> tuple[Scalar, Aux]:
            batch = encoded(context.frozen["codec"], batch, keys)
            return loss.fn(params, stats, batch, keys, context)

        return Loss(loss.player, fn)

    def sample(
        params: Params,
        stats: Stats,
        keys: Keys,
        frozen: PyTree,
        cond: PyTree = None,
        **options: object,
    ) -> Array:
        x = model.sample(params, stats, keys, frozen, cond, **options)
        return codec.decode(frozen["codec"], x)

    def log_prob(params: Params, stats: Stats, batch: Batch, keys: Keys, frozen: PyTree) -> LogProb:
        batch = encoded(frozen["codec"], batch, keys)
        estimate = model.log_prob(params, stats, batch, keys, frozen)
        num_dims = math.prod(batch["x"].shape[1:])
        return estimate._replace(nats=estimate.nats + num_dims * codec.log_scale)

    return model._replace(
        init=init,
        losses={name: wrap(loss) for name, loss in model.losses.items()},
        sample=sample,
        log_prob=None if model.log_prob is None or codec.log_scale is None else log_prob,
    )
