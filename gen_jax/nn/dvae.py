"""The networks of DALL-E's discrete VAE (Ramesh et al. 2021, appendix A.2)."""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.errors import check_arguments
from gen_jax.nn import lowering
from gen_jax.nn.geometry import dvae_faults
from gen_jax.typing import Array, DTypeLike, Float, Int

__all__ = ["TENSOR_DIMS", "DVAEDecoder", "DVAEEncoder"]

# See gen_jax.nn.blocks.TENSOR_DIMS.
TENSOR_DIMS: Mapping[str, int] = {
    r"/group_\d+_\d+/conv_[02]/(kernel|bias)$": -1,
    r"/group_\d+_\d+/conv_[13]/kernel$": -2,
}


def _conv(width: int, kernel: int, dtype: DTypeLike, name: str) -> nn.Module:
    # Normal with 1 / sqrt(fan-in), as in the released code.
    init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    return lowering.Conv(width, (kernel, kernel), kernel_init=init, dtype=dtype, name=name)


class _Bottleneck(nn.Module):
    """A residual block of four convolutions at a quarter of the width, with a small gain.

    ``kernels`` are their sizes; the gain is 1 over the square of the number of layers.
    """

    width: int
    kernels: tuple[int, ...]
    gain: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width in_channels"]
    ) -> Float[Array, "batch height width channels"]:
        h = x
        for number, kernel in enumerate(self.kernels):
            last = number == len(self.kernels) - 1
            width = self.width if last else self.width // 4
            h = _conv(width, kernel, self.dtype, f"conv_{number}")(nn.relu(h))
        if x.shape[-1] != self.width:
            x = _conv(self.width, 1, self.dtype, "shortcut")(x)
        return x + self.gain * h


class DVAEEncoder(nn.Module):
    """Groups of residual blocks between 2x2 max-poolings, each twice as wide as the one before.

    Attributes:
        num_codes: logits a position.
        hidden: width of the first group, a multiple of 4.
        num_groups: one more than there are halvings: 4 for codes 8 times smaller than the image.
        num_blocks: of each group.
        dtype: of the computation; parameters are float32, and so are the logits.
    """

    num_codes: int
    hidden: int = 256
    num_groups: int = 4
    num_blocks: int = 2
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        check_arguments(dvae_faults(num_groups=self.num_groups, hidden=self.hidden))
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch small_height small_width codes"]:
        gain = 1.0 / (self.num_groups * self.num_blocks) ** 2
        h = _conv(self.hidden, 7, self.dtype, "stem")(x.astype(self.dtype))
        for group in range(self.num_groups):
            width = self.hidden * 2**group
            for block in range(self.num_blocks):
                h = _Bottleneck(
                    width, (3, 3, 3, 1), gain, self.dtype, name=f"group_{group}_{block}"
                )(h)
            if group != self.num_groups - 1:
                h = nn.max_pool(h, (2, 2), (2, 2))
        return _conv(self.num_codes, 1, jnp.float32, "logits")(nn.relu(h))


class DVAEDecoder(nn.Module):
    """The encoder's mirror image, with nearest-neighbor upsampling.

    Its first layer, a 1x1 convolution of one-hot or relaxed vectors, is a table of codes.

    Attributes:
        num_codes: rows of that table.
        num_outputs: channels of the output.
        initial: width of a code's vector.
        hidden: width of the last group; the first is 2^(num_groups - 1) times as wide.
        num_groups: as the encoder's.
        num_blocks: as the encoder's.
        dtype: of the computation; parameters and the last layer are float32.
    """

    num_codes: int
    num_outputs: int
    initial: int = 128
    hidden: int = 256
    num_groups: int = 4
    num_blocks: int = 2
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        check_arguments(dvae_faults(num_groups=self.num_groups, hidden=self.hidden))
        super().__post_init__()

    @nn.compact
    def __call__(
        self, z: Float[Array, "batch height width codes"] | Int[Array, "batch height width"]
    ) -> Float[Array, "batch big_height big_width num_outputs"]:
        """Decode relaxed vectors, or codes themselves."""
        gain = 1.0 / (self.num_groups * self.num_blocks) ** 2
        init = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        table = self.param("codebook", init, (self.num_codes, self.initial)).astype(self.dtype)
        bias = self.param("codebook_bias", nn.initializers.zeros, (self.initial,))
        h = table[z] if jnp.issubdtype(z.dtype, jnp.integer) else z.astype(self.dtype) @ table
        h = h + bias.astype(self.dtype)[None, None, None]
        for group in reversed(range(self.num_groups)):
            width = self.hidden * 2**group
            for block in range(self.num_blocks):
                h = _Bottleneck(
                    width, (1, 3, 3, 3), gain, self.dtype, name=f"group_{group}_{block}"
                )(h)
            if group != 0:
                h = jnp.repeat(jnp.repeat(h, 2, axis=1), 2, axis=2)
        return _conv(self.num_outputs, 1, jnp.float32, "head")(nn.relu(h))
