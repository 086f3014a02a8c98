"""The U-Net of denoising diffusion (Ho et al. 2020, Appendix B)."""

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.nn.blocks import (
    DEFAULT_INIT,
    ZERO_INIT,
    AttentionBlock,
    Downsample,
    ResBlock,
    Upsample,
    check_label,
    rematerialised,
)
from gen_jax.nn.embeddings import sinusoidal
from gen_jax.nn.geometry import unet_faults
from gen_jax.typing import Array, DTypeLike, Float, Int, Keys

__all__ = ["UNet"]


class UNet(nn.Module):
    """Residual blocks down and up through resolutions that halve, joined by skip connections.

    With the defaults, ``resolution=32`` and ``out_channels=3`` it is the paper's CIFAR-10 network
    of 35.7 million parameters. The output starts at zero.

    Attributes:
        resolution: height and width of the input.
        out_channels: channels of the output.
        channels: channels of the first level.
        multipliers: channels of each level, as multiples; each further level halves the image.
        num_res_blocks: residual blocks a level on the way down; one more on the way up.
        attention_resolutions: resolutions at which every residual block is followed by attention;
            between the way down and the way up there is always one.
        num_heads: heads of each attention layer.
        groups: groups of each group normalisation.
        dropout: rate, in [0, 1).
        num_classes: how many labels the network is conditioned on; None for none.
        dtype: compute type; parameters are float32 and so is the output.
        remat: what residual and attention blocks compute again in the backward pass to save memory;
            see :func:`gen_jax.nn.blocks.rematerialised`.

    Raises:
        ValueError: at construction, if a resolution is never visited or something does not divide.
    """

    resolution: int
    out_channels: int
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    num_heads: int = 1
    groups: int = 32
    dropout: float = 0.1
    num_classes: int | None = None
    dtype: DTypeLike = jnp.float32
    remat: str = "none"

    def __post_init__(self) -> None:
        faults = unet_faults(
            resolution=self.resolution,
            channels=self.channels,
            multipliers=self.multipliers,
            attention_resolutions=self.attention_resolutions,
            num_heads=self.num_heads,
            groups=self.groups,
        )
        if faults:
            raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width in_channels"],
        t: Float[Array, "batch"],
        label: Int[Array, "batch"] | None = None,
        keys: Keys | None = None,
    ) -> Float[Array, "batch height width out_channels"]:
        """Predict the target of the parameterisation that the network is trained with.

        Args:
            x: noisy images at the network's resolution.
            t: times in [0, 1].
            label: classes in [0, num_classes); needed if and only if num_classes is set.
            keys: one for each example, for dropout; None turns dropout off.

        Raises:
            ValueError: if the image has another size, or a label is missing or not expected.
        """
        if x.shape[1:3] != (self.resolution, self.resolution):
            raise ValueError(
                f"x: images of {self.resolution} x {self.resolution} are needed, got {x.shape}"
            )
        check_label(label, self.num_classes)
        embedding = self._embed(t, label)
        x = x.astype(self.dtype)

        h = self._conv("conv_in", self.channels, DEFAULT_INIT)(x)
        skips = [h]
        last_level = len(self.multipliers) - 1
        for level, multiplier in enumerate(self.multipliers):
            for block in range(self.num_res_blocks):
                width = self.channels * multiplier
                h = self._block(f"down_{level}_{block}", h, width, embedding, keys)
                skips.append(h)
            if level != last_level:
                h = Downsample(self.dtype, name=f"down_{level}_sample")(h)
                skips.append(h)

        width = h.shape[-1]
        h = self._res_block("middle_0", width)(h, embedding, keys)
        h = self._attention("middle_attention")(h)
        h = self._res_block("middle_1", width)(h, embedding, keys)

        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for block in range(self.num_res_blocks + 1):
                width = self.channels * multiplier
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = self._block(f"up_{level}_{block}", h, width, embedding, keys)
            if level != 0:
                h = Upsample(self.dtype, name=f"up_{level}_sample")(h)

        h = nn.silu(nn.GroupNorm(self.groups, dtype=self.dtype, name="norm_out")(h))
        return self._conv("conv_out", self.out_channels, ZERO_INIT)(h).astype(jnp.float32)

    def _embed(self, t: Array, label: Array | None) -> Float[Array, "batch dim"]:
        dim = 4 * self.channels
        embedding = sinusoidal(t, self.channels).astype(self.dtype)
        embedding = self._dense("time_0", dim)(embedding)
        embedding = self._dense("time_1", dim)(nn.silu(embedding))
        if label is not None and self.num_classes is not None:
            table = nn.Embed(self.num_classes, dim, dtype=self.dtype, name="label")
            embedding = embedding + table(label)
        return embedding

    def _block(
        self, name: str, h: Array, width: int, embedding: Array, keys: Keys | None
    ) -> Float[Array, "batch height width out_channels"]:
        h = self._res_block(name, width)(h, embedding, keys)
        if h.shape[1] in self.attention_resolutions:
            h = self._attention(f"{name}_attention")(h)
        return h

    def _res_block(self, name: str, width: int) -> nn.Module:
        block = rematerialised(ResBlock, self.remat)
        return block(width, self.groups, self.dropout, self.dtype, name=name)

    def _attention(self, name: str) -> nn.Module:
        block = rematerialised(AttentionBlock, self.remat)
        return block(self.num_heads, self.groups, self.dtype, name=name)

    def _dense(self, name: str, width: int) -> nn.Dense:
        return nn.Dense(width, kernel_init=DEFAULT_INIT, dtype=self.dtype, name=name)

    def _conv(self, name: str, width: int, kernel_init: nn.initializers.Initializer) -> nn.Conv:
        return nn.Conv(width, (3, 3), kernel_init=kernel_init, dtype=self.dtype, name=name)
