"""Residual, attention and resampling blocks; channels last.

``dtype`` is the compute type; parameters are float32, and normalization statistics are reduced in
float32.
"""

import functools
import zlib
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.extend
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.ops import keys as rng
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, DTypeLike, Float, Keys

__all__ = [
    "ACTIVATIONS",
    "REMAT",
    "TENSOR_DIMS",
    "AttentionBlock",
    "ConvNeXtBlock",
    "Downsample",
    "Dropout",
    "ResBlock",
    "Upsample",
    "check_label",
    "drop",
    "rematerialized",
    "resampled",
]

# Uniform over the mean of fan-in and fan-out, and (nearly) nothing where a residual branch ends,
# so that every block starts as the identity: the initialization of Ho et al. 2020.
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
}

REMAT = ("none", "matmuls", "full")

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": nn.relu,
    "silu": nn.silu,
    "gelu": functools.partial(nn.gelu, approximate=False),
}


def rematerialized(module: type[nn.Module], policy: str) -> type[nn.Module]:
    """Let a module compute again in the backward pass what it would otherwise keep in memory.

    Args:
        module: a Linen module; instances must be named, so that parameters keep their places.
        policy: ``"none"`` keeps everything, ``"matmuls"`` keeps the results of matrix products and
            convolutions and computes normalizations and nonlinearities again, ``"full"`` keeps the
            module's inputs alone.

    Raises:
        ValueError: for another policy.
    """
    if policy not in REMAT:
        raise ValueError(f"remat: got {policy!r}; one of {', '.join(REMAT)} is required")
    if policy == "none":
        return module
    return nn.remat(module, policy=_is_matmul if policy == "matmuls" else None)


def _is_matmul(primitive: jax.extend.core.Primitive, *_: object, **__: object) -> bool:
    return primitive.name in ("dot_general", "conv_general_dilated", *lowering.PRODUCTS)


def check_label(label: Array | None, num_classes: int | None) -> None:
    """Check that there is a label if and only if a network has classes.

    Raises:
        ValueError: if not.
    """
    if (label is None) != (num_classes is None):
        raise ValueError(
            f"label: {'missing' if label is None else 'not expected'} with "
            f"num_classes={num_classes}"
        )


@checked
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
        # The layer's place in the network tells its mask from those of its neighbors.
        keys = rng.fold_in(keys, zlib.crc32("/".join(self.path).encode()) & 0x7FFFFFFF)
        return drop(x, keys, self.rate)


class ResBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice, around an embedding, if any.

    As in Ho et al. 2020, appendix B; the options are those of Dhariwal & Nichol 2021, section 3.

    Attributes:
        channels: of the output.
        groups: of each group normalization.
        dropout: rate, in [0, 1).
        dtype: compute type.
        adaptive: the embedding scales and shifts the second normalization, in place of being added
            before it.
        resample: ``"down"`` or ``"up"`` halves or doubles height and width within the block, as
            BigGAN does; ``""`` for neither.
        residual_scale: the sum of the two branches is multiplied by it; 1 / sqrt(2) keeps the
            variance (Song et al. 2021b, appendix H.2).
        activation: of :data:`ACTIVATIONS`.
        epsilon: of the normalizations.
    """

    channels: int
    groups: int
    dropout: float
    dtype: DTypeLike = jnp.float32
    adaptive: bool = False
    resample: str = ""
    residual_scale: float = 1.0
    activation: str = "silu"
    epsilon: float = 1e-6

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width in_channels"],
        embedding: Float[Array, "batch dim"] | None,
        keys: Keys | None,
    ) -> Float[Array, "batch new_height new_width channels"]:
        act = ACTIVATIONS[self.activation]
        h = act(self._norm("norm_in")(x))
        h, x = resampled(h, self.resample), resampled(x, self.resample)
        h = lowering.Conv(
            self.channels, (3, 3), kernel_init=DEFAULT_INIT, dtype=self.dtype, name="conv_in"
        )(h)
        scale = None
        if embedding is not None:
            shift = nn.Dense(
                (1 + self.adaptive) * self.channels,
                kernel_init=DEFAULT_INIT,
                dtype=self.dtype,
                name="embedding",
            )(act(embedding))[:, None, None, :]
            if self.adaptive:
                scale, shift = jnp.split(shift, 2, axis=-1)
            else:
                h = h + shift
        h = self._norm("norm_out")(h)
        if scale is not None:
            h = h * (1 + scale) + shift
        h = Dropout(self.dropout)(act(h), keys)
        h = lowering.Conv(
            self.channels, (3, 3), kernel_init=ZERO_INIT, dtype=self.dtype, name="conv_out"
        )(h)
        if x.shape[-1] != self.channels:
            x = lowering.Conv(
                self.channels, (1, 1), kernel_init=DEFAULT_INIT, dtype=self.dtype, name="shortcut"
            )(x)
        return (x + h) * self.residual_scale if self.residual_scale != 1 else x + h

    def _norm(self, name: str) -> nn.Module:
        return lowering.GroupNorm(self.groups, epsilon=self.epsilon, dtype=self.dtype, name=name)


@checked
def resampled(x: Float[Array, "batch height width channels"], how: str) -> Array:
    """Halve height and width by averages (``"down"``), double them by copies (``"up"``), or not."""
    if how == "down":
        return nn.avg_pool(x, (2, 2), (2, 2))
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2) if how == "up" else x


class ConvNeXtBlock(ResBlock):
    """7x7 depthwise convolution, normalization, and two 1x1 convolutions around a GELU.

    Liu et al. 2022, Figure 4, with the embedding in the normalization as in :class:`ResBlock`,
    whose attributes it has.
    """

    activation: str = "gelu"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width in_channels"],
        embedding: Float[Array, "batch dim"] | None,
        keys: Keys | None,
    ) -> Float[Array, "batch new_height new_width channels"]:
        x = resampled(x, self.resample)
        width = x.shape[-1]
        h = lowering.Conv(
            width,
            (7, 7),
            feature_group_count=width,
            kernel_init=DEFAULT_INIT,
            dtype=self.dtype,
            name="depthwise",
        )(x)
        h = nn.LayerNorm(
            epsilon=self.epsilon, use_fast_variance=False, dtype=self.dtype, name="norm"
        )(h)
        if embedding is not None:
            shift = nn.Dense(
                (1 + self.adaptive) * width,
                kernel_init=DEFAULT_INIT,
                dtype=self.dtype,
                name="embedding",
            )(nn.silu(embedding))[:, None, None, :]
            if self.adaptive:
                scale, shift = jnp.split(shift, 2, axis=-1)
                h = h * (1 + scale)
            h = h + shift
        h = nn.Dense(4 * self.channels, kernel_init=DEFAULT_INIT, dtype=self.dtype, name="mlp_in")(
            h
        )
        h = Dropout(self.dropout)(ACTIVATIONS[self.activation](h), keys)
        h = nn.Dense(self.channels, kernel_init=ZERO_INIT, dtype=self.dtype, name="mlp_out")(h)
        if width != self.channels:
            x = nn.Dense(
                self.channels, kernel_init=DEFAULT_INIT, dtype=self.dtype, name="shortcut"
            )(x)
        return (x + h) * self.residual_scale if self.residual_scale != 1 else x + h


class AttentionBlock(nn.Module):
    """Self-attention over all positions of an image, as a residual block."""

    num_heads: int
    groups: int
    dtype: DTypeLike = jnp.float32
    residual_scale: float = 1.0
    epsilon: float = 1e-6
    normed: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        batch, height, width, channels = x.shape
        h = x
        if self.normed:
            h = lowering.GroupNorm(
                self.groups,
                epsilon=self.epsilon,
                dtype=self.dtype,
                name="norm",
            )(h)
        h = jnp.reshape(h, (batch, height * width, channels))
        heads = (self.num_heads, channels // self.num_heads)
        query, key, value = (
            nn.DenseGeneral(heads, kernel_init=DEFAULT_INIT, dtype=self.dtype, name=name)(h)
            for name in ("query", "key", "value")
        )
        h = lowering.attention(query, key, value)
        h = nn.DenseGeneral(
            channels, axis=(-2, -1), kernel_init=ZERO_INIT, dtype=self.dtype, name="out"
        )(h)
        x = x + jnp.reshape(h, (batch, height, width, channels))
        return x * self.residual_scale if self.residual_scale != 1 else x


class Downsample(nn.Module):
    """Halve height and width with a strided 3x3 convolution.

    Attributes:
        dtype: compute type.
        centered: pad by one pixel on all sides, as PyTorch networks do; else on the right and below
            alone, as TensorFlow's and so the original DDPM's.
    """

    dtype: DTypeLike = jnp.float32
    centered: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch half_height half_width channels"]:
        return lowering.Conv(
            x.shape[-1],
            (3, 3),
            strides=(2, 2),
            padding=((1, 1), (1, 1)) if self.centered else "SAME",
            kernel_init=DEFAULT_INIT,
            dtype=self.dtype,
            name="conv",
        )(x)


class Upsample(nn.Module):
    """Double height and width: nearest neighbor, then a 3x3 convolution."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch double_height double_width channels"]:
        x = resampled(x, "up")
        return lowering.Conv(
            x.shape[-1], (3, 3), kernel_init=DEFAULT_INIT, dtype=self.dtype, name="conv"
        )(x)
