"""The networks of VQ-VAE and VQ-VAE-2: strided convolutions, and grids of vectors at several sizes.

Grids are listed from the finest, the bottom, to the coarsest, the top.
"""

import math
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.nn.geometry import hierarchy_faults
from gen_jax.typing import Array, DTypeLike, Float

__all__ = ["TENSOR_DIMS", "Double", "Hierarchy", "Residuals"]

# See gen_jax.nn.blocks.TENSOR_DIMS.
TENSOR_DIMS: Mapping[str, int] = {
    r"/blocks/conv_\d+_in/(kernel|bias)$": -1,
    r"/blocks/conv_\d+_out/kernel$": -2,
}

INIT = nn.initializers.he_normal()


class Residuals(nn.Module):
    """Residual blocks of a 3x3 and a 1x1 convolution, each behind a ReLU (van den Oord 2017)."""

    num_blocks: int
    hidden: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        for number in range(self.num_blocks):
            x = lowering.Conv(
                self.hidden, (3, 3), kernel_init=INIT, dtype=self.dtype, name=f"conv_{number}_in"
            )(nn.relu(h))
            x = lowering.Conv(
                h.shape[-1], (1, 1), kernel_init=INIT, dtype=self.dtype, name=f"conv_{number}_out"
            )(nn.relu(x))
            h = h + x
        return nn.relu(h)


class _Phases(nn.Module):
    """The parameters of :class:`Double`, as of a dense layer over neighborhoods of four."""

    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", INIT, (4 * x.shape[-1], 4 * self.channels))
        bias = self.param("bias", nn.initializers.zeros, (4 * self.channels,))
        kernel = jnp.reshape(kernel, (2, 2, x.shape[-1], 2, 2, self.channels))
        made = lowering.doubled(x.astype(self.dtype), kernel)
        # A bias for each phase.
        height, width = x.shape[1:3]
        tiled = jnp.tile(jnp.reshape(bias, (2, 2, self.channels)), (height, width, 1))
        return made + tiled[None].astype(self.dtype)


class Double(nn.Module):
    """Double height and width: a transposed 4x4 convolution with stride 2, and a bias a phase.

    See :func:`gen_jax.nn.lowering.doubled`.
    """

    channels: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width in_channels"]
    ) -> Float[Array, "batch double_height double_width channels"]:
        return _Phases(self.channels, self.dtype, name="phases")(x)


class _Down(nn.Module):
    """Strided 4x4 convolutions, each halving the grid, a 3x3 convolution and residual blocks."""

    factor: int
    channels: int
    hidden: int
    num_blocks: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width in_channels"]
    ) -> Float[Array, "batch small_height small_width channels"]:
        h = x.astype(self.dtype)
        halvings = int(math.log2(self.factor))
        for number in range(halvings):
            width = self.channels // 2 if number == 0 else self.channels
            h = nn.relu(
                lowering.Conv(
                    width,
                    (4, 4),
                    (2, 2),
                    kernel_init=INIT,
                    dtype=self.dtype,
                    name=f"halve_{number}",
                )(h)
            )
        h = lowering.Conv(self.channels, (3, 3), kernel_init=INIT, dtype=self.dtype, name="conv")(h)
        return Residuals(self.num_blocks, self.hidden, self.dtype, name="blocks")(h)


class _Up(nn.Module):
    """The mirror image of :class:`_Down`, with transposed convolutions (:class:`Double`)."""

    factor: int
    channels: int
    hidden: int
    num_blocks: int
    num_outputs: int
    dtype: DTypeLike
    out_dtype: DTypeLike

    @nn.compact
    def __call__(
        self, z: Float[Array, "batch height width dim"]
    ) -> Float[Array, "batch big_height big_width num_outputs"]:
        h = lowering.Conv(self.channels, (3, 3), kernel_init=INIT, dtype=self.dtype, name="conv")(
            z.astype(self.dtype)
        )
        h = Residuals(self.num_blocks, self.hidden, self.dtype, name="blocks")(h)
        halvings = int(math.log2(self.factor))
        for number in range(halvings):
            last = number == halvings - 1
            width = self.num_outputs if last else self.channels // 2
            dtype = self.out_dtype if last else self.dtype
            h = Double(width, dtype, name=f"double_{number}")(h)
            h = h if last else nn.relu(h)
        return h


class Hierarchy(nn.Module):
    """Encoders to grids of vectors of several sizes, and one decoder of all of them.

    With one factor this is the network of VQ-VAE (van den Oord et al. 2017, section 4.1; 4 for
    images of 32x32, with the 3x3 convolution of the authors' code). With several it is VQ-VAE-2's
    (Razavi et al. 2019, figure 2): each grid is encoded from the features of the one below, and
    what it became, decoded, conditions the vectors of the one below.

    Attributes:
        num_outputs: channels of the decoder's output.
        factors: by how much each grid is smaller than the one below it, the bottom's than the
            image; powers of two from 2. (4,) for VQ-VAE, (4, 2) or (4, 2, 2) for VQ-VAE-2.
        dims: of each grid's vectors.
        channels: of the convolutions.
        hidden: channels inside residual blocks.
        num_blocks: residual blocks of each encoder and decoder.
        dtype: of the computation; parameters are float32, and so is the last layer.

    Raises:
        ValueError: at construction, if factors are no powers of two or not as many as dims.
    """

    num_outputs: int
    factors: Sequence[int] = (4,)
    dims: Sequence[int] = (64,)
    channels: int = 128
    hidden: int = 32
    num_blocks: int = 2
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        faults = dict(hierarchy_faults(factors=self.factors, channels=self.channels))
        if len(self.dims) != len(self.factors):
            faults["dims"] = f"as many as factors, {len(self.factors)}, are required"
        if faults:
            raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
        super().__post_init__()

    def setup(self) -> None:
        shared = (self.channels, self.hidden, self.num_blocks)
        levels = range(len(self.factors))
        self.down = [_Down(factor, *shared, self.dtype) for factor in self.factors]
        # Vectors are compared with codes: in float32.
        self.project = [lowering.Conv(dim, (1, 1), dtype=jnp.float32) for dim in self.dims]
        # The condition of level i is what level i + 1 became, with its own condition beside it.
        self.condition = [
            _Up(self.factors[i + 1], *shared, self.channels, self.dtype, self.dtype)
            for i in levels[:-1]
        ]
        # Coarser grids are brought to the bottom's size by transposed convolutions alone.
        self.bring = [
            [
                Double(self.dims[i], self.dtype)
                for _ in range(int(math.log2(math.prod(self.factors[1 : i + 1]))))
            ]
            for i in levels[1:]
        ]
        self.up = _Up(self.factors[0], *shared, self.num_outputs, self.dtype, jnp.float32)

    def __call__(self, x: Float[Array, "batch height width channels"]) -> Array:
        """Decode what was encoded, without any codes, so that ``init`` makes all parameters."""
        features = self.features(x)
        grids: tuple[Array, ...] = ()
        for level in reversed(range(len(self.factors))):
            grids = (self.latent(level, features[level], grids), *grids)
        return self.decode(grids)

    def features(self, x: Float[Array, "batch height width channels"]) -> tuple[Array, ...]:
        """Return the features from which each grid's vectors are made."""
        features: list[Array] = []
        for down in self.down:
            features.append(down(features[-1] if features else x))
        return tuple(features)

    def latent(
        self, level: int, features: Array, above: tuple[Array, ...]
    ) -> Float[Array, "batch height width dim"]:
        """Return the vectors of one grid, 0 for the bottom, to be quantized.

        Args:
            level: which.
            features: of that level.
            above: the quantized vectors of all coarser grids, the finest of them first.
        """
        h = features
        if above:
            h = jnp.concatenate([h, self._condition(level, above)], axis=-1)
        return self.project[level](h)

    def _condition(self, level: int, above: tuple[Array, ...]) -> Array:
        h = above[0].astype(self.dtype)
        if len(above) > 1:
            h = jnp.concatenate([h, self._condition(level + 1, above[1:])], axis=-1)
        return self.condition[level](h)

    def decode(self, grids: tuple[Array, ...]) -> Float[Array, "batch height width num_outputs"]:
        """Decode the quantized vectors of all grids together."""
        brought = [grids[0].astype(self.dtype)]
        for grid, doublings in zip(grids[1:], self.bring, strict=True):
            h = grid.astype(self.dtype)
            for double in doublings:
                h = double(h)
            brought.append(h)
        return self.up(jnp.concatenate(brought, axis=-1))
