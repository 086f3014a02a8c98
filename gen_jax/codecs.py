"""Frozen maps between uint8 images and what a model models.

Models see ``batch["x"]`` and nothing of pixels; :func:`with_codec` puts a codec around one.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gen_jax.ops import keys as rng
from gen_jax.protocols import (
    Aux,
    Batch,
    Codec,
    Context,
    LogProb,
    Loss,
    Model,
    Params,
    Predicted,
    Stats,
)
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar, UInt8

__all__ = ["binary", "dequantize", "pretrained", "rgb", "tokens", "unit", "with_codec"]

# Folded into an example's key for the codec's own randomness, apart from the model's draws.
_CODEC = 0x0C0DEC

BINARISATIONS = ("stochastic", "threshold", "none")


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


def unit(margin: float = 0.1) -> Codec:
    """Make the map between uint8 and [margin, 1 - margin], for densities over (0, 1).

    x = (1 - 2 margin) image / 255 + margin (Ramesh et al. 2021, appendix A.3, Eq. 3).

    Args:
        margin: from 0 to below 1/2.

    Raises:
        ValueError: for others.
    """
    if not 0 <= margin < 0.5:
        raise ValueError(f"margin: a number from 0 to below 0.5 is needed, got {margin}")
    span = (1 - 2 * margin) / 255

    def encode(frozen: PyTree, image: UInt8[Array, "batch *dims"], keys: Keys) -> Array:
        del frozen, keys
        return image.astype(jnp.float32) * span + margin

    def decode(frozen: PyTree, x: Float[Array, "batch *dims"]) -> Array:
        del frozen
        return jnp.round(jnp.clip((x - margin) / span, 0.0, 255.0)).astype(jnp.uint8)

    return Codec(encode, decode, num_categories=None, log_scale=None)


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


def dequantize() -> Codec:
    """Make the map from 8-bit pixels to [-1, 1] that fills each grey level's bin with noise.

    x = (image + u) / 128 - 1 with u uniform in [0, 1). The mean log-density of x is then a lower
    bound on the log-probability of the pixels (Theis et al. 2016, section 3.1), which one of x
    without noise is not: it can grow without limit.
    """

    def encode(frozen: PyTree, image: UInt8[Array, "batch *dims"], keys: Keys) -> Array:
        del frozen
        noise = jax.vmap(lambda key: jax.random.uniform(key, image.shape[1:]))(keys)
        noise = jnp.minimum(noise, 1.0 - 2.0**-15)  # 255 + noise must not round up
        return (image.astype(jnp.float32) + noise) / 128.0 - 1.0

    def decode(frozen: PyTree, x: Float[Array, "batch *dims"]) -> Array:
        del frozen
        return jnp.clip(jnp.floor((x + 1.0) * 128.0), 0.0, 255.0).astype(jnp.uint8)

    return Codec(encode, decode, num_categories=None, log_scale=-math.log(128.0))


def binary(how: str = "stochastic") -> Codec:
    """Make the map from grey levels to {0, 1}, or to [0, 1].

    Args:
        how: ``"stochastic"`` draws 1 with probability image / 255, anew each time an image is seen
            (Burda et al. 2016, section 5.1); ``"threshold"`` gives 1 above half; ``"none"`` gives
            image / 255 itself.

    Returns:
        A codec whose decoder takes probabilities. No density over pixels passes it.

    Raises:
        ValueError: for anything else.
    """
    if how not in BINARISATIONS:
        raise ValueError(f"how: one of {', '.join(BINARISATIONS)} is needed, got {how!r}")

    def encode(frozen: PyTree, image: UInt8[Array, "batch *dims"], keys: Keys) -> Array:
        del frozen
        grey = image.astype(jnp.float32) / 255.0
        if how == "none":
            return grey
        if how == "threshold":
            return (grey > 0.5).astype(jnp.float32)
        return jax.vmap(jax.random.bernoulli)(keys, grey).astype(jnp.float32)

    def decode(frozen: PyTree, x: Float[Array, "batch *dims"]) -> Array:
        del frozen
        return jnp.round(jnp.clip(x, 0.0, 1.0) * 255.0).astype(jnp.uint8)

    return Codec(encode, decode, num_categories=None, log_scale=None)


def pretrained(model: Model) -> Codec:
    """Make the map between images and the codes of a trained first stage.

    Codes are drawn from the first stage's posterior, where it has one. The codec's weights are
    ``{"params": ..., "stats": ...}`` of that model.

    Args:
        model: of images (see :func:`with_codec`), with ``encode`` and ``decode``.

    Raises:
        ValueError: if it has none.
    """
    encode_image, decode_code = model.encode, model.decode
    if encode_image is None or decode_code is None:
        raise ValueError("model: encode and decode are needed, this family has none")

    def encode(frozen: PyTree, image: UInt8[Array, "batch *dims"], keys: Keys) -> PyTree:
        return encode_image(frozen["params"], frozen["stats"], image, keys)

    def decode(frozen: PyTree, x: PyTree) -> Array:
        return decode_code(frozen["params"], frozen["stats"], x)

    return Codec(encode, decode, num_categories=model.num_codes, log_scale=None)


def with_codec(model: Model, codec: Codec, weights: PyTree = None) -> Model:
    """Let a model of x be trained on images and give images.

    Batches that already hold ``x``, or ``codes`` in its place, skip the encoder.
    ``frozen["codec"]`` holds the codec's weights.
    ``init`` is given no frozen weights: if the codec has any, the model's own ``init`` sees zeros
    of x's shape in place of encoded images.

    Args:
        model: models ``batch["x"]``.
        codec: between images and x.
        weights: of the codec, or their shapes; None if it has none.

    Returns:
        A model whose batches may hold ``image``, whose samples are uint8 images, whose ``encode``
        takes and whose ``decode`` gives such images (of codecs without weights), and whose
        log-density is over pixels, in units of one grey level, where the codec passes one on, and
        over x elsewhere.
    """

    def encoded(frozen: PyTree, batch: Batch, keys: Keys) -> Batch:
        if "x" in batch:
            return batch
        if "codes" in batch:
            x = batch["codes"]
        else:
            x = codec.encode(frozen, batch["image"], rng.fold_in(keys, _CODEC))
        batch = _without_images(batch)
        if "low_res" in batch and batch["low_res"].dtype == jnp.uint8:
            low_res = codec.encode(frozen, batch["low_res"], rng.fold_in(keys, _CODEC))
            batch = {**batch, "low_res": low_res}
        return {**batch, "x": x}

    def init(key: Array, batch: Batch) -> tuple[Params, Stats]:
        keys = rng.per_example(key, 0, len(jax.tree.leaves(batch)[0]))
        if weights is None or "image" not in batch:
            batch = encoded({}, batch, keys)
        else:
            x = jax.eval_shape(codec.encode, weights, batch["image"], keys)
            x = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), x)
            batch = {**_without_images(batch), "x": x}
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
        **options: Any,
    ) -> Array:
        if given := options.get("given"):
            options["given"] = _encoded_givens(codec, frozen["codec"], given, keys)
        assert model.sample is not None
        x = model.sample(params, stats, keys, frozen, cond, **options)
        if not options.get("trace"):
            images = codec.decode(frozen["codec"], x)
            if given and "mask" in given:  # also where a code covers known and unknown pixels
                images = jnp.where(given["mask"] > 0, given["image"], images)
            return images
        # [batch, times, ...], one time after another: decoders are large.
        images = jax.lax.map(lambda x: codec.decode(frozen["codec"], x), jnp.swapaxes(x, 0, 1))
        return jnp.swapaxes(images, 0, 1)

    def noise_of(
        params: Params,
        stats: Stats,
        keys: Keys,
        frozen: PyTree,
        image: Array,
        cond: PyTree = None,
        **options: Any,
    ) -> PyTree:
        assert model.noise_of is not None
        x = codec.encode(frozen["codec"], image, rng.fold_in(keys, _CODEC))
        return model.noise_of(params, stats, keys, frozen, x, cond, **options)

    def log_prob(
        params: Params, stats: Stats, batch: Batch, keys: Keys, frozen: PyTree, **options: object
    ) -> LogProb:
        batch = encoded(frozen["codec"], batch, keys)
        estimate = model.log_prob(params, stats, batch, keys, frozen, **options)
        if codec.log_scale is None:
            return estimate
        num_dims = math.prod(batch["x"].shape[1:])
        return estimate._replace(nats=estimate.nats + num_dims * codec.log_scale)

    def predict(params: Params, stats: Stats, x: Array, t: Array | None = None) -> Predicted:
        assert model.predict is not None
        if x.dtype == jnp.uint8:  # what a classifier guides is noisy x already
            x = codec.encode({}, x, jnp.repeat(rng.per_example(jax.random.key(0), 0, 1), len(x)))
        return model.predict(params, stats, x, t)

    def encode(
        params: Params, stats: Stats, image: Array, keys: Keys | None = None, label: PyTree = None
    ) -> PyTree:
        # A codec's noise without keys is always the same, wherever in a batch an image stands.
        own = jnp.repeat(rng.per_example(jax.random.key(0), 0, 1), len(image))
        own = own if keys is None else keys
        x = codec.encode({}, image, rng.fold_in(own, _CODEC))
        return model.encode(params, stats, x, keys, label)

    def decode(params: Params, stats: Stats, z: PyTree, label: PyTree = None) -> Array:
        return codec.decode({}, model.decode(params, stats, z, label))

    chained = weights is None
    return model._replace(
        init=init,
        losses={name: wrap(loss) for name, loss in model.losses.items()},
        sample=None if model.sample is None else sample,
        predict=None if model.predict is None else predict,
        noise_of=None if model.noise_of is None else noise_of,
        log_prob=None if model.log_prob is None else log_prob,
        over_pixels=codec.log_scale is not None,
        encode=encode if model.encode and chained else None,
        decode=decode if model.decode and chained else None,
    )


def _encoded_givens(
    codec: Codec, weights: PyTree, given: Mapping[str, Array], keys: Keys
) -> dict[str, Array]:
    """Bring given images, and a mask of their pixels, to where a model's x is."""
    given = dict(given)
    if "image" not in given:
        return given
    image = given["image"]
    if "mask" in given:  # what is under it must not be seen in codes nearby
        image = jnp.where(given["mask"] > 0, image, jnp.uint8(128))
    x = codec.encode(weights, image, rng.fold_in(keys, _CODEC))
    if "mask" in given:
        # A code is known where all of its pixels are: there the average is 1.
        mask = given["mask"].astype(jnp.float32)
        factor = mask.shape[1] // x.shape[1]
        if factor > 1:
            pooled = jnp.reshape(mask, (len(mask), x.shape[1], factor, x.shape[2], factor, -1))
            mask = jnp.min(pooled, axis=(2, 4))
        given["mask"] = jnp.broadcast_to(mask, x.shape)
    return {**given, "image": x}


def _without_images(batch: Batch) -> dict[str, PyTree]:
    return {name: value for name, value in batch.items() if name not in ("image", "codes")}
