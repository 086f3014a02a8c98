"""Transformer layers within a U-Net, which look at a sequence beside the image."""

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.nn.blocks import DEFAULT_INIT, ZERO_INIT
from gen_jax.typing import Array, Bool, DTypeLike, Float

__all__ = ["SpatialTransformer"]


class SpatialTransformer(nn.Module):
    """Self-attention over an image's positions, attention to a sequence, and an MLP, as residuals.

    Rombach et al. 2022, section 3.3 and appendix E.2.1: group normalization, a linear map,
    ``depth`` layers, a linear map that starts at zero.

    Attributes:
        num_heads: of both attentions.
        depth: layers.
        groups: of the group normalization.
        dtype: compute type.
    """

    num_heads: int
    depth: int
    groups: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        context: Float[Array, "batch length context_dim"],
        mask: Bool[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Look at a sequence; ``mask`` says at which of its vectors, None at all."""
        batch, height, width, channels = x.shape
        h = lowering.GroupNorm(self.groups, epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        h = jnp.reshape(h, (batch, height * width, channels))
        h = nn.Dense(channels, kernel_init=DEFAULT_INIT, dtype=self.dtype, name="proj_in")(h)
        for layer in range(self.depth):
            h = _Layer(self.num_heads, self.dtype, name=f"layer_{layer}")(h, context, mask)
        h = nn.Dense(channels, kernel_init=ZERO_INIT, dtype=self.dtype, name="proj_out")(h)
        return x + jnp.reshape(h, (batch, height, width, channels))


class _Layer(nn.Module):
    num_heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch positions channels"],
        context: Float[Array, "batch length context_dim"],
        mask: Array | None,
    ) -> Float[Array, "batch positions channels"]:
        channels = h.shape[-1]
        x = self._norm("norm_self")(h)
        h = h + self._attend("self", x, x)
        h = h + self._attend("cross", self._norm("norm_cross")(h), context, mask)
        x = self._norm("norm_mlp")(h)
        # GEGLU (Shazeer 2020): one half of the hidden units gates the other.
        x = nn.Dense(8 * channels, kernel_init=DEFAULT_INIT, dtype=self.dtype, name="mlp_in")(x)
        value, gate = jnp.split(x, 2, axis=-1)
        x = value * nn.gelu(gate, approximate=False)
        return h + nn.Dense(channels, kernel_init=DEFAULT_INIT, dtype=self.dtype, name="mlp_out")(x)

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name=name)

    def _attend(self, name: str, h: Array, source: Array, mask: Array | None = None) -> Array:
        channels = h.shape[-1]
        heads = (self.num_heads, channels // self.num_heads)

        def project(part: str, x: Array) -> Array:
            return nn.DenseGeneral(
                heads,
                use_bias=False,
                kernel_init=DEFAULT_INIT,
                dtype=self.dtype,
                name=f"{name}_{part}",
            )(x)

        query, key, value = project("query", h), project("key", source), project("value", source)
        h = lowering.attention(query, key, value, mask=mask)
        return nn.DenseGeneral(
            channels,
            axis=(-2, -1),
            kernel_init=DEFAULT_INIT,
            dtype=self.dtype,
            name=f"{name}_attention_out",
        )(h)
