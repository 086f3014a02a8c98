"""Encoders and decoders, shared by every first stage.

Encoders are ``(x, label) -> [batch, ..., num_outputs]``, decoders ``(z, label) -> [batch, H, W,
num_outputs]``. ``label`` is None without classes. What the outputs mean is the model's affair; the
last layer is computed in float32, because half a gray level is less than bfloat16 resolves.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.nn.blocks import (
    ACTIVATIONS,
    DEFAULT_INIT,
    AttentionBlock,
    Downsample,
    ResBlock,
    Upsample,
    check_label,
)
from gen_jax.nn.geometry import autoencoder_faults, level_widths
from gen_jax.typing import Array, DTypeLike, Float, Int

__all__ = [
    "TENSOR_DIMS",
    "Autoencoder",
    "CodeDiscriminator",
    "ConvDecoder",
    "ConvEncoder",
    "ConvGrid",
    "MLPDecoder",
    "MLPEncoder",
]

# See gen_jax.nn.blocks.TENSOR_DIMS.
TENSOR_DIMS: Mapping[str, int] = {
    r"/dense_\d*[02468]/(kernel|bias)$": -1,
    r"/dense_\d*[13579]/kernel$": -2,
}


def _with_label(x: Array, label: Array | None, num_classes: int | None) -> Array:
    """Append a one-hot label to vectors."""
    check_label(label, num_classes)
    if label is None or num_classes is None:
        return x
    return jnp.concatenate([x, jax.nn.one_hot(label, num_classes, dtype=x.dtype)], axis=-1)


class MLPEncoder(nn.Module):
    """Fully connected layers over all pixels.

    Attributes:
        widths: of the hidden layers.
        num_outputs: of the last layer, which is linear.
        activation: ``"tanh"``, ``"relu"`` or ``"silu"``.
        num_classes: labels are appended to x as one-hot vectors; None for no labels.
        dtype: of the computation.
    """

    widths: Sequence[int]
    num_outputs: int
    activation: str = "tanh"
    num_classes: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        label: Int[Array, "batch"] | None = None,
    ) -> Float[Array, "batch num_outputs"]:
        h = jnp.reshape(x, (len(x), -1)).astype(self.dtype)
        h = _with_label(h, label, self.num_classes)
        for number, width in enumerate(self.widths):
            h = nn.Dense(width, dtype=self.dtype, name=f"dense_{number}")(h)
            h = ACTIVATIONS[self.activation](h)
        return nn.Dense(self.num_outputs, dtype=jnp.float32, name=f"dense_{len(self.widths)}")(h)


class MLPDecoder(nn.Module):
    """Fully connected layers from a vector to all pixels.

    Attributes:
        widths: of the hidden layers.
        shape: height and width of the output.
        num_outputs: for each pixel.
        activation: as the encoder's.
        num_classes: labels are appended to z as one-hot vectors; None for no labels.
        dtype: of the computation.
    """

    widths: Sequence[int]
    shape: tuple[int, int]
    num_outputs: int
    activation: str = "tanh"
    num_classes: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, z: Float[Array, "batch latent"], label: Int[Array, "batch"] | None = None
    ) -> Float[Array, "batch height width num_outputs"]:
        h = _with_label(z.astype(self.dtype), label, self.num_classes)
        for number, width in enumerate(self.widths):
            h = nn.Dense(width, dtype=self.dtype, name=f"dense_{number}")(h)
            h = ACTIVATIONS[self.activation](h)
        height, width = self.shape
        total = height * width * self.num_outputs
        h = nn.Dense(total, dtype=jnp.float32, name=f"dense_{len(self.widths)}")(h)
        return jnp.reshape(h, (len(z), height, width, self.num_outputs))


class _Convolutional(nn.Module):
    """What the two halves share: their levels, blocks and label."""

    resolution: int
    num_outputs: int
    channels: int = 64
    multipliers: Sequence[float] = (1, 2, 4)
    num_res_blocks: int = 2
    groups: int = 32
    attention: bool = False
    num_classes: int | None = None
    dtype: DTypeLike = jnp.float32
    projected: int = 0

    def __post_init__(self) -> None:
        faults = autoencoder_faults(
            resolution=self.resolution,
            channels=self.channels,
            multipliers=self.multipliers,
            groups=self.groups,
        )
        if faults:
            raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
        super().__post_init__()

    def _embed(self, label: Array | None) -> Array | None:
        check_label(label, self.num_classes)
        if label is None or self.num_classes is None:
            return None
        width = 4 * self.channels
        return nn.Embed(self.num_classes, width, dtype=self.dtype, name="label")(label)

    def _block(self, name: str, width: int) -> ResBlock:
        return ResBlock(width, self.groups, 0.0, self.dtype, name=name)

    def _middle(self, h: Array, embedding: Array | None) -> Array:
        width = h.shape[-1]
        h = self._block("middle_0", width)(h, embedding, None)
        if self.attention:
            h = AttentionBlock(1, self.groups, self.dtype, name="middle_attention")(h)
        return self._block("middle_1", width)(h, embedding, None)

    def _conv(self, name: str, width: int, dtype: DTypeLike | None = None) -> nn.Module:
        dtype = self.dtype if dtype is None else dtype
        return lowering.Conv(width, (3, 3), kernel_init=DEFAULT_INIT, dtype=dtype, name=name)

    def _project(self, h: Array, width: int) -> Array:
        return nn.Dense(width, kernel_init=DEFAULT_INIT, dtype=jnp.float32, name="project")(h)

    def _finish(self, h: Array, width: int) -> Array:
        h = nn.silu(lowering.GroupNorm(self.groups, dtype=self.dtype, name="norm")(h))
        return self._conv("head", width, jnp.float32)(h)


class ConvEncoder(_Convolutional):
    """Residual blocks and strided convolutions (Rombach et al. 2022, as in VQ-GAN).

    Attributes:
        resolution: height and width of x.
        num_outputs: channels of the output at each position, or its length if ``flat``.
        channels: of the first level.
        multipliers: channels of each level as multiples; each level but the last halves the image.
        num_res_blocks: residual blocks a level.
        groups: of each group normalization.
        attention: whether there is self-attention at the lowest resolution.
        num_classes: labels enter every residual block; None for no labels.
        dtype: of the computation; parameters are float32.
        projected: outputs of the last 3x3 convolution, which a 1x1 convolution then turns into
            num_outputs; 0 for no such.
        flat: give a vector and not a grid.
    """

    flat: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        label: Int[Array, "batch"] | None = None,
    ) -> Float[Array, "batch *grid num_outputs"]:
        embedding = self._embed(label)
        h = self._conv("stem", self.channels)(x.astype(self.dtype))
        for level, width in enumerate(level_widths(self.channels, self.multipliers)):
            for block in range(self.num_res_blocks):
                h = self._block(f"down_{level}_{block}", width)(h, embedding, None)
            if level != len(self.multipliers) - 1:
                h = Downsample(self.dtype, name=f"down_{level}_sample")(h)
        h = self._middle(h, embedding)
        if not self.flat:
            h = self._finish(h, self.projected or self.num_outputs)
            return self._project(h, self.num_outputs) if self.projected else h
        h = nn.silu(lowering.GroupNorm(self.groups, dtype=self.dtype, name="norm")(h))
        h = jnp.reshape(h, (len(h), -1))
        return nn.Dense(self.num_outputs, dtype=jnp.float32, name="head")(h)


class ConvDecoder(_Convolutional):
    """The encoder's mirror image: one residual block more a level, nearest-neighbor upsampling.

    Takes a grid [batch, h, w, latent], or a vector [batch, latent], which a dense layer turns into
    one. Its attributes are those of :class:`ConvEncoder`, but that ``projected`` are what a 1x1
    convolution first turns z into.
    """

    @nn.compact
    def __call__(
        self, z: Float[Array, "batch *grid latent"], label: Int[Array, "batch"] | None = None
    ) -> Float[Array, "batch height width num_outputs"]:
        embedding = self._embed(label)
        widths = level_widths(self.channels, self.multipliers)
        width = widths[-1]
        h = z.astype(self.dtype)
        if self.projected:
            h = self._project(h, self.projected)
        if z.ndim == 2:
            side = self.resolution // 2 ** (len(self.multipliers) - 1)
            h = nn.Dense(side * side * width, dtype=self.dtype, name="unflatten")(h)
            h = jnp.reshape(h, (len(z), side, side, width))
        h = self._conv("stem", width)(h)
        h = self._middle(h, embedding)
        for level, width in reversed(list(enumerate(widths))):
            for block in range(self.num_res_blocks + 1):
                h = self._block(f"up_{level}_{block}", width)(h, embedding, None)
            if level != 0:
                h = Upsample(self.dtype, name=f"up_{level}_sample")(h)
        return self._finish(h, self.num_outputs)


class Autoencoder(nn.Module):
    """An encoder and a decoder as one network, with the subtrees ``encoder`` and ``decoder``."""

    encoder: nn.Module
    decoder: nn.Module

    def __call__(self, x: Array, z: Array, label: Array | None = None) -> tuple[Array, Array]:
        """Run both halves, each on its own input, so that ``init`` makes all parameters."""
        return self.encode(x, label), self.decode(z, label)

    def encode(self, x: Array, label: Array | None = None) -> Array:
        """Return the encoder's outputs."""
        return self.encoder(x, label)

    def decode(self, z: Array, label: Array | None = None) -> Array:
        """Return the decoder's outputs."""
        return self.decoder(z, label)


class ConvGrid(nn.Module):
    """One grid of vectors between a :class:`ConvEncoder` and a :class:`ConvDecoder`.

    The network of VQ-GAN (Esser et al. 2021, appendix A), behind the same methods as
    :class:`gen_jax.nn.hierarchy.Hierarchy`.

    Attributes:
        encoder: gives vectors of ``dim`` at each position.
        decoder: takes them.
        dim: of a vector.
    """

    encoder: ConvEncoder
    decoder: ConvDecoder
    dim: int

    @property
    def dims(self) -> tuple[int, ...]:
        """Return the dimension of the one grid's vectors."""
        return (self.dim,)

    @property
    def factors(self) -> tuple[int, ...]:
        """Return by how much the one grid is smaller than the image."""
        return (2 ** (len(self.encoder.multipliers) - 1),)

    def __call__(self, x: Float[Array, "batch height width channels"]) -> Array:
        """Decode what was encoded, without any codes, so that ``init`` makes all parameters."""
        return self.decode(self.features(x))

    def features(self, x: Float[Array, "batch height width channels"]) -> tuple[Array, ...]:
        """Return the vectors of the one grid."""
        return (self.encoder(x),)

    def latent(self, level: int, features: Array, above: tuple[Array, ...]) -> Array:
        """Return the vectors to be quantized: the features themselves, in float32."""
        del level, above
        return features.astype(jnp.float32)

    def decode(self, grids: tuple[Array, ...]) -> Float[Array, "batch height width num_outputs"]:
        """Decode the quantized vectors."""
        return self.decoder(grids[0])


class CodeDiscriminator(nn.Module):
    """Fully connected layers from codes to one logit."""

    widths: Sequence[int]
    activation: str = "relu"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, z: Float[Array, "batch latent"]) -> Float[Array, "batch"]:
        h = z.astype(self.dtype)
        for number, width in enumerate(self.widths):
            h = nn.Dense(width, dtype=self.dtype, name=f"dense_{number}")(h)
            h = ACTIVATIONS[self.activation](h)
        h = nn.Dense(1, dtype=jnp.float32, name="logit")(h)
        return h[:, 0]
