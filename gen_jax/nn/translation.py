"""A network from images to images (Johnson et al. 2016, as CycleGAN takes it)."""

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.nn.gan import twice
from gen_jax.typing import Array, DTypeLike, Float

__all__ = ["Translator"]

_INIT = nn.initializers.normal(0.02)


class Translator(nn.Module):
    """Down, residual blocks, and up by interpolation, which leaves no checkerboard.

    Normalizations are of each example and channel alone (instance normalization): nothing looks
    across a batch. At the same resolution what goes down is added to what comes up, so that fine
    detail need not pass through the bottom.

    Attributes:
        num_outputs: channels of the result.
        channels: of the first convolution; each halving doubles them.
        halvings: how often the image is halved.
        num_blocks: residual blocks at the lowest resolution.
        skips: whether there are these additions; CycleGAN has none, pix2pix's U-Net lives by them.
        dtype: of the computation; parameters are float32, and so is the last layer.
    """

    num_outputs: int
    channels: int = 32
    halvings: int = 2
    num_blocks: int = 4
    skips: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width num_outputs"]:
        def conv(
            name: str, width: int, size: int = 3, stride: int = 1, bias: bool = False
        ) -> nn.Module:
            # A normalization would take a bias away again.
            return lowering.Conv(
                width,
                (size, size),
                (stride, stride),
                use_bias=bias,
                kernel_init=_INIT,
                dtype=self.dtype,
                name=name,
            )

        def normalized(name: str, h: Array) -> Array:
            return nn.relu(lowering.GroupNorm(h.shape[-1], dtype=self.dtype, name=name)(h))

        h = conv("conv_in", self.channels, 7, bias=self.skips)(x.astype(self.dtype))
        # What goes across knows colors and contrast, which a normalization takes away.
        h = nn.relu(h) if self.skips else normalized("norm_in", h)
        kept = [h]
        for number in range(self.halvings):
            width = self.channels * 2 ** (number + 1)
            h = normalized(f"down_norm_{number}", conv(f"down_{number}", width, 4, 2)(h))
            kept.append(h)
        for number in range(self.num_blocks):
            width = h.shape[-1]
            inner = normalized(f"block_{number}_norm", conv(f"block_{number}_0", width)(h))
            inner = conv(f"block_{number}_1", width)(inner)
            norm = lowering.GroupNorm(width, dtype=self.dtype, name=f"block_{number}_norm_out")
            h = h + norm(inner)
        for number in reversed(range(self.halvings)):
            h = conv(f"up_{number}", self.channels * 2**number)(twice(h))
            h = normalized(f"up_norm_{number}", h)
            h = h + kept[number] if self.skips else h
        out = lowering.Conv(
            self.num_outputs, (7, 7), kernel_init=_INIT, dtype=jnp.float32, name="conv_out"
        )
        return jnp.tanh(out(h.astype(jnp.float32)))
