"""A classifier of images at any noise level: the way down of a U-Net."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.nn.blocks import (
    DEFAULT_INIT,
    AttentionBlock,
    ResBlock,
    rematerialized,
)
from gen_jax.nn.embeddings import sinusoidal
from gen_jax.nn.geometry import level_widths, unet_faults
from gen_jax.typing import Array, DTypeLike, Float, Keys

__all__ = ["Classifier"]


class Classifier(nn.Module):
    """Residual blocks down through resolutions that halve, an average, and one layer.

    The guides of Dhariwal & Nichol 2021 (section 4 and appendix C) are such networks, with
    attention in place of the average.

    Attributes:
        resolution: height and width of the input.
        num_classes: how many there are.
        channels: of the first level.
        multipliers: channels of each level, as multiples; each further level halves the image.
        num_res_blocks: residual blocks a level.
        attention_resolutions: resolutions at which there is attention.
        num_heads: heads of each attention layer.
        groups: groups of each group normalization.
        dropout: rate, in [0, 1).
        dtype: compute type; parameters are float32 and so are the outputs.
        remat: see :func:`gen_jax.nn.blocks.rematerialized`.
        time: options of :func:`gen_jax.nn.embeddings.sinusoidal`, as pairs.

    Raises:
        ValueError: at construction, if a resolution is never visited or something does not divide.
    """

    resolution: int
    num_classes: int
    channels: int = 32
    multipliers: tuple[float, ...] = (1, 2, 2)
    num_res_blocks: int = 1
    attention_resolutions: tuple[int, ...] = ()
    num_heads: int = 1
    groups: int = 8
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    time: tuple[tuple[str, Any], ...] = ()

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
        x: Float[Array, "batch height width channels"],
        t: Float[Array, "batch"],
        keys: Keys | None = None,
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch features"]]:
        """Return the logits of all classes, and the features that they are a linear map of.

        Args:
            x: images, noisy ones at times t.
            t: in [0, 1]; 0 for clean ones.
            keys: one for each example, for dropout; None turns dropout off.
        """
        embedding = sinusoidal(t, self.channels, **dict(self.time)).astype(self.dtype)
        embedding = nn.Dense(4 * self.channels, dtype=self.dtype, name="time_0")(embedding)
        embedding = nn.Dense(4 * self.channels, dtype=self.dtype, name="time_1")(nn.silu(embedding))
        # In float32, as the U-Net's: rounded pixels are another image.
        h = lowering.Conv(
            self.channels, (3, 3), kernel_init=DEFAULT_INIT, dtype=jnp.float32, name="conv_in"
        )(x.astype(jnp.float32)).astype(self.dtype)
        last = len(self.multipliers) - 1
        for level, width in enumerate(level_widths(self.channels, self.multipliers)):
            for number in range(self.num_res_blocks):
                h = self._block(f"down_{level}_{number}", width)(h, embedding, keys)
                if h.shape[1] in self.attention_resolutions:
                    name = f"down_{level}_{number}_attention"
                    h = AttentionBlock(self.num_heads, self.groups, self.dtype, name=name)(h)
            if level != last:
                h = self._block(f"down_{level}_sample", width, "down")(h, embedding, keys)
        h = nn.silu(lowering.GroupNorm(self.groups, dtype=self.dtype, name="norm_out")(h))
        features = jnp.mean(h.astype(jnp.float32), axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=jnp.float32, name="logits")(features), features

    def _block(self, name: str, width: int, resample: str = "") -> nn.Module:
        block = rematerialized(ResBlock, self.remat)
        return block(
            width,
            self.groups,
            self.dropout,
            self.dtype,
            adaptive=True,
            resample=resample,
            name=name,
        )
