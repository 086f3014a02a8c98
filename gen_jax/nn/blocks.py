"""Residual, attention and resampling blocks; channels last.

``dtype`` is the compute type; parameters are float32, and normalisation statistics are reduced in
float32.
"""

import zlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp

from gen_jax.ops import keys as rng
from gen_jax.typing import Array, DTypeLike, Float, Keys

__all__ = [
    "REMAT",
    "TENSOR_DIMS",
    "AttentionBlock",
    "Downsample",
    "Dropout",
    "ResBlock",
    "Upsample",
    "check_label",
    "drop",
    "rematerialised",
]

# Uniform over the mean of fan-in and fan-out, and (nearly) nothing where a residual branch ends,
# so that every block starts as the identity: the initialisation of Ho et al. 2020.
DEFAULT_INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
ZERO_INIT = nn.initializers.zeros

# Which dimension of a parameter runs along heads or channels that devices may share out: the first
# of two layers makes a part of the channels, the second consumes it. Keyed by patterns of paths.
TENSOR_DIMS: Mapping[str, int] = {
    r"/(query|key|value)/(kernel|bias)$": -2,
    r"_attention/out/kernel$|/attention_out/kernel$": -3,
    r"/mlp_in/(kernel|bias)$": -1,
    r"/mlp_out/kernel$": -2,
    r"/[^/]+/[^/]+/(conv_in|embedding)/kernel$": -1,
    r"/[^/]+/[^/]+/conv_out/kernel$": -2,
    r"/dense_\d*[02468]/(kernel|bias)$": -1,
    r"/dense_\d*[13579]/kernel$": -2,
    r"/blocks/conv_\d+_in/(kernel|bias)$": -1,
    r"/blocks/conv_\d+_out/kernel$": -2,
    r"/group_\d+_\d+/conv_[02]/(kernel|bias)$": -1,
    r"/group_\d+_\d+/conv_[13]/kernel$": -2,
    r"/head_in/(kernel|bias)$": -1,
    r"/head_out$": -2,
}

REMAT = ("none", "matmuls", "full")


def rematerialised(module: type[nn.Module], policy: str) -> type[nn.Module]:
    """Let a module compute again in the backward pass what it would otherwise keep in memory.

    Args:
        module: a Linen module; instances must be named, so that parameters keep their places.
        policy: ``"none"`` keeps everything, ``"matmuls"`` keeps the results of matrix products and
            convolutions and computes normalisations and nonlinearities again, ``"full"`` keeps the
            module's inputs alone.

    Raises:
        ValueError: for another policy.
    """
    if policy not in REMAT:
        raise ValueError(f"remat: one of {', '.join(REMAT)} is needed, got {policy!r}")
    if policy == "none":
        return module
    return nn.remat(module, policy=_is_matmul if policy == "matmuls" else None)


def _is_matmul(primitive: jax.extend.core.Primitive, *_: object, **__: object) -> bool:
    return primitive.name in ("dot_general", "conv_general_dilated")


def check_label(label: Array | None, num_classes: int | None) -> None:
    """See that there is a label if and only if a network has classes.

    Raises:
        ValueError: if not.
    """
    if (label is None) != (num_classes is None):
        raise ValueError(
            f"label: {'missing' if label is None else 'not expected'} with "
            f"num_classes={num_classes}"
        )


def drop(x: Float[Array, "batch *dims"], keys: Keys, rate: float) -> Float[Array, "batch *dims"]:
    """Drop elements of each example by its own key, and scale the others up."""
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


class Dropout(nn.Module):
    """Drop elements of each example by its own key, so that no example's mask depends on its batch.

    Linen's own dropout draws one mask for the batch from one key, which a different number of
    devices or microbatches would change. Without keys this is the identity.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "batch *dims"], keys: Keys | None) -> Array:
        if keys is None or self.rate == 0.0:
            return x
        # The layer's place in the network tells its mask from those of its neighbours.
        keys = rng.fold_in(keys, zlib.crc32("/".join(self.path).encode()) & 0x7FFFFFFF)
        return drop(x, keys, self.rate)


class ResBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice, around an additive embedding, if any.

    As in Ho et al. 2020, appendix B.
    """

    channels: int
    groups: int
    dropout: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width in_channels"],
        embedding: Float[Array, "batch dim"] | None,
        keys: Keys | None,
    ) -> Float[Array, "batch height width channels"]:
        h = nn.silu(nn.GroupNorm(self.groups, dtype=self.dtype, name="norm_in")(x))
        h = nn.Conv(
            self.channels, (3, 3), kernel_init=DEFAULT_INIT, dtype=self.dtype, name="conv_in"
        )(h)
        if embedding is not None:
            shift = nn.Dense(
                self.channels, kernel_init=DEFAULT_INIT, dtype=self.dtype, name="embedding"
            )(nn.silu(embedding))
            h = h + shift[:, None, None, :]
        h = nn.silu(nn.GroupNorm(self.groups, dtype=self.dtype, name="norm_out")(h))
        h = Dropout(self.dropout)(h, keys)
        h = nn.Conv(
            self.channels, (3, 3), kernel_init=ZERO_INIT, dtype=self.dtype, name="conv_out"
        )(h)
        if x.shape[-1] != self.channels:
            x = nn.Conv(
                self.channels, (1, 1), kernel_init=DEFAULT_INIT, dtype=self.dtype, name="shortcut"
            )(x)
        return x + h


class AttentionBlock(nn.Module):
    """Self-attention over all positions of an image, as a residual block."""

    num_heads: int
    groups: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        batch, height, width, channels = x.shape
        h = nn.GroupNorm(self.groups, dtype=self.dtype, name="norm")(x)
        h = jnp.reshape(h, (batch, height * width, channels))
        heads = (self.num_heads, channels // self.num_heads)
        query, key, value = (
            nn.DenseGeneral(heads, kernel_init=DEFAULT_INIT, dtype=self.dtype, name=name)(h)
            for name in ("query", "key", "value")
        )
        h = jax.nn.dot_product_attention(query, key, value)
        h = nn.DenseGeneral(
            channels, axis=(-2, -1), kernel_init=ZERO_INIT, dtype=self.dtype, name="out"
        )(h)
        return x + jnp.reshape(h, (batch, height, width, channels))


class Downsample(nn.Module):
    """Halve height and width with a strided 3x3 convolution."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch half_height half_width channels"]:
        return nn.Conv(
            x.shape[-1],
            (3, 3),
            strides=(2, 2),
            kernel_init=DEFAULT_INIT,
            dtype=self.dtype,
            name="conv",
        )(x)


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a 3x3 convolution."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch double_height double_width channels"]:
        x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
        return nn.Conv(
            x.shape[-1], (3, 3), kernel_init=DEFAULT_INIT, dtype=self.dtype, name="conv"
        )(x)
