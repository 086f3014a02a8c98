"""Frozen maps between uint8 images and what a model models.

Models see ``batch["x"]`` and nothing of pixels; :func:`with_codec` puts a codec around one.
"""

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gen_jax.ops import keys as rng
from gen_jax.ops.checks import check_pixels
from gen_jax.protocols import (
    Aux,
    Batch,
    Codec,
    Cond,
    Context,
    Density,
    Input,
    Latents,
    LogProb,
    Loss,
    Matching,
    Model,
    Params,
    Predicted,
    Sampler,
    Stats,
    Weights,
)
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar, UInt8

__all__ = ["binary", "dequantize", "pretrained", "rgb", "tokens", "unit", "with_codec"]

# Folded into an example's key for the codec's own randomness, apart from the model's draws.
_CODEC = 0x0C0DEC

BINARIZATIONS = ("stochastic", "threshold", "none")


def rgb() -> Codec:
    """Make the map between uint8 [0, 255] and float32 [-1, 1]: x = image / 127.5 - 1.

    Decoding clips and rounds to the nearest gray level.
    """

    def encode(frozen: PyTree, image: UInt8[Array, "batch *dims"], keys: Keys) -> Array:
        del frozen, keys
        check_pixels(image)
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
        raise ValueError(f"margin: got {margin}; a number from 0 to below 0.5 is required")
    span = (1 - 2 * margin) / 255

    def encode(frozen: PyTree, image: UInt8[Array, "batch *dims"], keys: Keys) -> Array:
        del frozen, keys
        check_pixels(image)
        return image.astype(jnp.float32) * span + margin

    def decode(frozen: PyTree, x: Float[Array, "batch *dims"]) -> Array:
        del frozen
        return jnp.round(jnp.clip((x - margin) / span, 0.0, 255.0)).astype(jnp.uint8)

    return Codec(encode, decode, num_categories=None, log_scale=None)


def tokens(levels: int = 256) -> Codec:
    """Make the map between uint8 pixels and int32 tokens in [0, levels).

    token = round(image (levels - 1) / 255). With 256 levels a token is a gray level, and
    probabilities of tokens are probabilities of pixels. Fewer lose nothing where the data has no
    other levels, but a probability of tokens is then not one of 8-bit pixels.

    Args:
        levels: from 2 to 256.

    Raises:
        ValueError: for other numbers.
    """
    if not 2 <= levels <= 256:
        raise ValueError(f"levels: got {levels}; a whole number from 2 to 256 is required")
    scale = (levels - 1) / 255

    def encode(frozen: PyTree, image: UInt8[Array, "batch *dims"], keys: Keys) -> Array:
        del frozen, keys
        check_pixels(image)
        return jnp.round(image.astype(jnp.float32) * scale).astype(jnp.int32)

    def decode(frozen: PyTree, x: Int[Array, "batch *dims"]) -> Array:
        del frozen
        return jnp.round(x.astype(jnp.float32) / scale).astype(jnp.uint8)

    return Codec(encode, decode, num_categories=levels, log_scale=0.0 if levels == 256 else None)


def dequantize(*, fill: bool = True) -> Codec:
    """Make the map from 8-bit pixels to [-1, 1] that fills each gray level's bin with noise.

    x = (image + u) / 128 - 1 with u uniform in [0, 1). The mean log-density of x is then a lower
    bound on the log-probability of the pixels (Theis et al. 2016, section 3.1), which one of x
    without noise is not: it can grow without limit.

    Args:
        fill: False for u = 0, the lower edge of the bin, where the model fills it.
    """

    def encode(frozen: PyTree, image: UInt8[Array, "batch *dims"], keys: Keys) -> Array:
        del frozen
        check_pixels(image)
        if not fill:
            return image.astype(jnp.float32) / 128.0 - 1.0
        noise = jax.vmap(lambda key: jax.random.uniform(key, image.shape[1:]))(keys)
        noise = jnp.minimum(noise, 1.0 - 2.0**-15)  # 255 + noise must not round up
        return (image.astype(jnp.float32) + noise) / 128.0 - 1.0

    def decode(frozen: PyTree, x: Float[Array, "batch *dims"]) -> Array:
        del frozen
        return jnp.clip(jnp.floor((x + 1.0) * 128.0), 0.0, 255.0).astype(jnp.uint8)

    return Codec(encode, decode, num_categories=None, log_scale=-math.log(128.0))


def binary(how: str = "stochastic") -> Codec:
    """Make the map from gray levels to {0, 1}, or to [0, 1].

    Args:
        how: ``"stochastic"`` draws 1 with probability image / 255, anew each time an image is seen
            (Burda et al. 2016, section 5.1); ``"threshold"`` gives 1 above half; ``"none"`` gives
            image / 255 itself.

    Returns:
        A codec whose decoder takes probabilities. No density over pixels passes it.

    Raises:
        ValueError: for anything else.
    """
    if how not in BINARIZATIONS:
        raise ValueError(f"how: got {how!r}; one of {', '.join(BINARIZATIONS)} is required")

    def encode(frozen: PyTree, image: UInt8[Array, "batch *dims"], keys: Keys) -> Array:
        del frozen
        check_pixels(image)
        gray = image.astype(jnp.float32) / 255.0
        if how == "none":
            return gray
        if how == "threshold":
            return (gray > 0.5).astype(jnp.float32)
        return jax.vmap(jax.random.bernoulli)(keys, gray).astype(jnp.float32)

    def decode(frozen: PyTree, x: Float[Array, "batch *dims"]) -> Array:
        del frozen
        return jnp.round(jnp.clip(x, 0.0, 1.0) * 255.0).astype(jnp.uint8)

    return Codec(encode, decode, num_categories=None, log_scale=None)


def pretrained(model: Model) -> Codec:
    """Make the map between images and the codes of a trained first stage.

    Codes are drawn from the first stage's posterior, where it has one. The codec's weights are the
    :class:`Weights` of that model.

    Args:
        model: of images (see :func:`with_codec`), with latents that can be encoded.

    Raises:
        ValueError: if it has none.
    """
    latents = model.latents
    if latents is None or latents.encode is None:
        raise ValueError("model: latents with encode and decode are required, this family has none")
    encode_image, decode_code = latents.encode, latents.decode

    def encode(frozen: PyTree, image: UInt8[Array, "batch *dims"], keys: Keys) -> PyTree:
        check_pixels(image)
        return encode_image(frozen, image, {}, keys)

    def decode(frozen: PyTree, x: PyTree) -> Array:
        return decode_code(frozen, x, {})

    return Codec(
        encode,
        decode,
        num_categories=latents.num_codes,
        log_scale=None,
        scales=latents.scales,
        partial=latents.partial,
    )


def with_codec(model: Model, codec: Codec) -> Model:
    """Let a model of x be trained on images and give images.

    Every array of the kind ``image`` passes the codec, in a batch and in a request alike, as does a
    mask of one; arrays that are not uint8 are in the range of x already. Batches that hold ``x``,
    or ``codes`` in its place, skip the encoder. ``weights.frozen["codec"]`` holds the codec's
    weights, if it has any.

    Args:
        model: models ``batch["x"]``.
        codec: between images and x.

    Returns:
        A model whose batches may hold ``image``, whose samples are uint8 images, whose latents are
        encoded from and decoded to such images, and whose log-density is over pixels, in units of
        one gray level, where the codec passes one on, and over x elsewhere.
    """
    images = tuple(name for name, given in model.inputs.items() if given.kind == "image")
    return model._replace(
        init=_encoded_init(model, codec, images),
        losses={name: _encoded_loss(loss, codec, images) for name, loss in model.losses.items()},
        inputs={name: _encoded_input(given, codec) for name, given in model.inputs.items()},
        sampler=None if model.sampler is None else _decoded_sampler(model.sampler, codec, images),
        latents=None if model.latents is None else _decoded_latents(model.latents, codec, images),
        density=None if model.density is None else _encoded_density(model.density, codec, images),
        predict=None if model.predict is None else _encoded_predict(model.predict, codec, images),
        matching=None if model.matching is None else _encoded_matching(model.matching, codec),
    )


def _weights_of(frozen: PyTree) -> PyTree:
    return frozen.get("codec", {})


def _fixed_keys(num: int) -> Keys:
    """Make keys for a codec's noise where none are given: the same wherever an image stands."""
    return jnp.repeat(rng.per_example(jax.random.key(0), 0, 1), num)


def _encode(codec: Codec, frozen: PyTree, name: str, array: Array, keys: Keys | None) -> PyTree:
    if array.dtype != jnp.uint8:
        return array
    keys = _fixed_keys(len(array)) if keys is None else keys
    keys = rng.fold_in(keys, _CODEC)
    if name != "x":  # what stands beside x has noise of its own
        keys = rng.fold_in(keys, zlib.crc32(name.encode()) >> 1)
    return codec.encode(_weights_of(frozen), array, keys)


def _encoded_batch(
    codec: Codec, images: tuple[str, ...], frozen: PyTree, batch: Batch, keys: Keys | None
) -> Batch:
    """Put x in place of images, or of codes, and bring what stands beside them to its range."""
    made = {name: value for name, value in batch.items() if name not in ("image", "codes")}
    if "x" not in batch:
        x = batch.get("codes")
        made["x"] = _encode(codec, frozen, "x", batch["image"], keys) if x is None else x
    return made | _encoded_images(codec, images, frozen, made, keys)


def _encoded_cond(
    codec: Codec, images: tuple[str, ...], frozen: PyTree, cond: Cond, keys: Keys | None
) -> Cond:
    """Bring the images of a request to the range of x, and a mask of their pixels to its grid."""
    return {**cond, **_encoded_images(codec, images, frozen, cond, keys)}


# Images of which a mask says what is known.
_MASKED = ("image", "masked")


def _encoded_images(
    codec: Codec,
    images: tuple[str, ...],
    frozen: PyTree,
    told: Mapping[str, Any],
    keys: Keys | None,
) -> dict[str, PyTree]:
    mask, made = told.get("mask"), {}
    for name in images:
        if name not in told:
            continue
        array = told[name]
        # What is under it must not show in codes nearby.
        if name in _MASKED and mask is not None and array.dtype == jnp.uint8:
            array = jnp.where(mask > 0, array, jnp.uint8(128))
        made[name] = _encode(codec, frozen, name, array, keys)
    whole = [made[name] for name in _MASKED if name in made]
    if mask is not None and whole:
        made["mask"] = _pooled_mask(mask, whole[0])
    return made


def _pooled_mask(mask: Array, x: Array) -> Array:
    """Call a code known where all of its pixels are."""
    mask = mask.astype(jnp.float32)
    factor = mask.shape[1] // x.shape[1]
    if factor > 1:
        pooled = jnp.reshape(mask, (len(mask), x.shape[1], factor, x.shape[2], factor, -1))
        mask = jnp.min(pooled, axis=(2, 4))
    return jnp.broadcast_to(mask, x.shape)


def _encoded_init(model: Model, codec: Codec, images: tuple[str, ...]) -> Callable[..., Any]:
    def init(key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        keys = rng.per_example(key, 0, len(jax.tree.leaves(batch)[0]))
        return model.init(key, _encoded_batch(codec, images, frozen, batch, keys), frozen)

    return init


def _encoded_loss(loss: Loss, codec: Codec, images: tuple[str, ...]) -> Loss:
    def fn(weights: Weights, batch: Batch, keys: Keys, context: Context) -> tuple[Scalar, Aux]:
        batch = _encoded_batch(codec, images, weights.frozen, batch, keys)
        return loss.fn(weights, batch, keys, context)

    return Loss(loss.player, fn)


def _encoded_input(given: Input, codec: Codec) -> Input:
    derive = given.derive
    if given.kind != "image" or derive is None:
        return given

    def derive_from_image(image: Array) -> Array:
        return derive(_encode(codec, {}, "x", image, None))

    return given._replace(derive=derive_from_image)


def _decoded_sampler(sampler: Sampler, codec: Codec, images: tuple[str, ...]) -> Sampler:
    def draw(weights: Weights, keys: Keys, cond: Cond, **options: Any) -> Array:
        told = _encoded_cond(codec, images, weights.frozen, cond, keys)
        x = sampler.draw(weights, keys, told, **options)
        return _decoded(codec, weights.frozen, x, cond, traced=bool(options.get("trace")))

    return sampler._replace(draw=draw)


def _decoded(codec: Codec, frozen: PyTree, x: PyTree, cond: Cond, *, traced: bool) -> Array:
    def decode(x: PyTree) -> Array:
        return codec.decode(_weights_of(frozen), x)

    if traced:  # [batch, times, ...], one time after another: decoders are large
        return jnp.swapaxes(jax.lax.map(decode, jnp.swapaxes(x, 0, 1)), 0, 1)
    made = decode(x)
    for name in _MASKED:
        if "mask" in cond and name in cond:  # also where a code covers known and unknown pixels
            made = jnp.where(cond["mask"] > 0, cond[name], made)
    return made


def _decoded_latents(latents: Latents, codec: Codec, images: tuple[str, ...]) -> Latents:
    encode_x = latents.encode

    def encode(
        weights: Weights, image: Array, cond: Cond, keys: Keys | None = None, **options: Any
    ) -> PyTree:
        assert encode_x is not None
        x = _encode(codec, weights.frozen, "x", image, keys)
        told = _encoded_cond(codec, images, weights.frozen, cond, keys)
        return encode_x(weights, x, told, keys, **options)

    def decode(weights: Weights, z: PyTree, cond: Cond, **options: Any) -> Array:
        told = _encoded_cond(codec, images, weights.frozen, cond, None)
        x = latents.decode(weights, z, told, **options)
        return _decoded(codec, weights.frozen, x, cond, traced=bool(options.get("trace")))

    return latents._replace(decode=decode, encode=None if encode_x is None else encode)


def _encoded_density(density: Density, codec: Codec, images: tuple[str, ...]) -> Density:
    def log_prob(weights: Weights, batch: Batch, keys: Keys, **options: Any) -> LogProb:
        batch = _encoded_batch(codec, images, weights.frozen, batch, keys)
        estimate = density.log_prob(weights, batch, keys, **options)
        if codec.log_scale is None:
            return estimate
        num_dims = math.prod(batch["x"].shape[1:])
        return estimate._replace(nats=estimate.nats + num_dims * codec.log_scale)

    return density._replace(log_prob=log_prob, over_pixels=codec.log_scale is not None)


def _encoded_predict(
    predict: Callable[[Weights, PyTree, Cond], Predicted], codec: Codec, images: tuple[str, ...]
) -> Callable[[Weights, PyTree, Cond], Predicted]:
    def predict_image(weights: Weights, x: PyTree, cond: Cond) -> Predicted:
        x = _encode(codec, weights.frozen, "x", x, None)
        return predict(weights, x, _encoded_cond(codec, images, weights.frozen, cond, None))

    return predict_image


def _encoded_matching(matching: Matching, codec: Codec) -> Matching:
    def image(weights: Weights, x: PyTree) -> Array:
        return matching.image(weights, _encode(codec, weights.frozen, "x", x, None))

    return matching._replace(image=image)
