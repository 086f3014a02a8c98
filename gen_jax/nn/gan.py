"""A generator and a discriminator without normalization (Huang et al. 2024, R3GAN).

Residual blocks alone, as deep ones learn without any normalization when the last convolution of
each begins at zero and the others are scaled down with depth (fix-up: Zhang et al. 2019). Nothing
looks across a batch. Convolutions are dense: grouped ones are no faster on a CPU.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.nn.blocks import check_label
from gen_jax.nn.geometry import gan_faults
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, DTypeLike, Float, Int

__all__ = ["Discriminator", "Generator", "PatchDiscriminator", "halved", "twice"]

_SLOPE = 0.2


def _act(h: Array) -> Array:
    return nn.leaky_relu(h, _SLOPE)


def _he(depth: int = 1) -> nn.initializers.Initializer:
    """Keep variances behind a leaky ReLU, less in blocks of a deep network."""
    gain = 2 / (1 + _SLOPE**2) * depth**-0.5
    return nn.initializers.variance_scaling(gain, "fan_in", "normal")


@checked
def twice(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch double_height double_width channels"]:
    """Double height and width by bilinear interpolation, edges repeated."""
    for axis in (1, 2):
        first, last = (jnp.take(x, jnp.array([i]), axis) for i in (0, -1))
        side = x.shape[axis]
        before = jnp.concatenate([first, jnp.take(x, jnp.arange(side - 1), axis)], axis)
        after = jnp.concatenate([jnp.take(x, jnp.arange(1, side), axis), last], axis)
        pairs = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        shape = (*x.shape[:axis], 2 * side, *x.shape[axis + 1 :])
        x = jnp.reshape(pairs, shape)
    return x


@checked
def halved(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Halve height and width with the filter [1, 3, 3, 1] / 8 along each, edges repeated."""
    around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    height, width = x.shape[1:3]
    a, b, c, d = (around[:, i : i + height : 2] for i in range(4))
    down = 0.125 * (a + d) + 0.375 * (b + c)
    a, b, c, d = (down[:, :, i : i + width : 2] for i in range(4))
    return 0.125 * (a + d) + 0.375 * (b + c)


class _Block(nn.Module):
    """x + conv(act(conv(act(x)))), the identity at the start."""

    depth: int  # residual blocks of the whole network
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]

        def conv(name: str, init: nn.initializers.Initializer) -> nn.Module:
            return lowering.Conv(width, (3, 3), kernel_init=init, dtype=self.dtype, name=name)

        h = conv("conv_0", _he(self.depth))(_act(x))
        return x + conv("conv_1", nn.initializers.zeros)(_act(h))


class _Stage(nn.Module):
    """Blocks of one resolution."""

    width: int
    num_blocks: int
    depth: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if x.shape[-1] != self.width:
            gain = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
            x = lowering.Conv(
                self.width,
                (1, 1),
                kernel_init=gain,
                use_bias=False,
                dtype=self.dtype,
                name="project",
            )(x)
        for number in range(self.num_blocks):
            x = _Block(self.depth, self.dtype, name=f"block_{number}")(x)
        return x


class Generator(nn.Module):
    """From latents to images: a learned image of the coarsest size, scaled by z, then blocks.

    Attributes:
        shape: height, width and channels of an image.
        widths: channels of each resolution from the coarsest, each twice as large as the last.
        num_blocks: residual blocks of each resolution.
        num_classes: labels are appended to z as learned vectors; None for no labels.
        embedding_dim: of these.
        dtype: of the computation; parameters are float32, and so is the last layer.

    Raises:
        ValueError: at construction, if the image's sides are no multiples.
    """

    shape: tuple[int, int, int]
    widths: Sequence[int] = (96, 96, 64, 32)
    num_blocks: int = 1
    num_classes: int | None = None
    embedding_dim: int = 64
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        _check(self.shape, self.widths)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, z: Float[Array, "batch latent"], label: Int[Array, "batch"] | None = None
    ) -> Float[Array, "batch height width channels"]:
        check_label(label, self.num_classes)
        if label is not None and self.num_classes is not None:
            init = nn.initializers.normal(1.0)
            embed = nn.Embed(self.num_classes, self.embedding_dim, embedding_init=init)
            z = jnp.concatenate([z, embed(label)], axis=-1)
        factor = 2 ** (len(self.widths) - 1)
        height, width, channels = (self.shape[0] // factor, self.shape[1] // factor, self.shape[2])
        first = self.widths[0]
        basis = self.param("basis", nn.initializers.normal(1.0), (height, width, first))
        gain = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        scale = nn.Dense(first, use_bias=False, kernel_init=gain, dtype=self.dtype, name="dense_in")
        h = basis[None].astype(self.dtype) * scale(z.astype(self.dtype))[:, None, None]
        depth = len(self.widths) * self.num_blocks
        for number, width in enumerate(self.widths):
            h = twice(h) if number else h
            h = _Stage(width, self.num_blocks, depth, self.dtype, name=f"stage_{number}")(h)
        out = lowering.Conv(channels, (3, 3), kernel_init=_he(), dtype=jnp.float32, name="conv_out")
        return out(_act(h).astype(jnp.float32))


class Discriminator(nn.Module):
    """The generator's mirror image, from images to one logit.

    With labels the logit is the product of features and a learned vector of the class (projection:
    Miyato & Koyama 2018). Its attributes are the generator's.
    """

    shape: tuple[int, int, int]
    widths: Sequence[int] = (96, 96, 64, 32)
    num_blocks: int = 1
    num_classes: int | None = None
    embedding_dim: int = 64
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        _check(self.shape, self.widths)
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        label: Int[Array, "batch"] | None = None,
    ) -> Float[Array, "batch"]:
        check_label(label, self.num_classes)
        last = self.widths[-1]
        h = lowering.Conv(last, (3, 3), kernel_init=_he(), dtype=self.dtype, name="conv_in")(
            x.astype(self.dtype)
        )
        depth = len(self.widths) * self.num_blocks
        for number, width in reversed(list(enumerate(self.widths))):
            h = _Stage(width, self.num_blocks, depth, self.dtype, name=f"stage_{number}")(h)
            h = halved(h) if number else h
        # One weight for each place and channel, the generator's basis the other way around.
        init = nn.initializers.normal(1 / math.sqrt(math.prod(h.shape[1:3])))
        basis = self.param("basis", init, h.shape[1:])
        features = jnp.sum(h.astype(jnp.float32) * basis[None], axis=(1, 2))
        if label is None or self.num_classes is None:
            return nn.Dense(1, kernel_init=_he(), dtype=jnp.float32, name="logit")(features)[:, 0]
        project = nn.Dense(self.embedding_dim, kernel_init=_he(), dtype=jnp.float32, name="logits")
        embed = nn.Embed(
            self.num_classes, self.embedding_dim, embedding_init=nn.initializers.normal(1.0)
        )
        return jnp.sum(project(features) * embed(label), axis=-1) / self.embedding_dim**0.5


class PatchDiscriminator(nn.Module):
    """A logit for each patch of an image (Isola et al. 2017, PatchGAN), without batch statistics.

    Strided 4x4 convolutions, each but the first behind a group normalization, and a last 4x4
    convolution.

    Attributes:
        widths: of the strided convolutions; each halves the image.
        groups: of each group normalization; 0 for none.
        dtype: of the computation; parameters are float32, and so is the last layer.
    """

    widths: Sequence[int] = (64, 128, 256)
    groups: int = 32
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns"]:
        h = x.astype(self.dtype)
        for number, width in enumerate(self.widths):
            h = lowering.Conv(
                width, (4, 4), (2, 2), kernel_init=_he(), dtype=self.dtype, name=f"conv_{number}"
            )(h)
            if number and self.groups:
                h = lowering.GroupNorm(self.groups, dtype=self.dtype, name=f"norm_{number}")(h)
            h = _act(h)
        out = lowering.Conv(1, (4, 4), kernel_init=_he(), dtype=jnp.float32, name="conv_out")
        return out(h.astype(jnp.float32))[..., 0]


def _check(shape: Sequence[int], widths: Sequence[int]) -> None:
    if faults := gan_faults(resolution=shape[:2], widths=widths):
        raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
