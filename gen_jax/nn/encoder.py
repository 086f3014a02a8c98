"""Layers of transformers that read: a text, or the patches of an image."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.typing import Array, DTypeLike, Float

__all__ = ["encoder_layers"]

_INIT = nn.initializers.normal(0.02)


def _quick_gelu(x: Array) -> Array:
    return x * nn.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "quick_gelu": _quick_gelu,
}


def encoder_layers(
    depth: int,
    *,
    num_heads: int,
    causal: bool = False,
    activation: str = "gelu",
    epsilon: float = 1e-5,
    dtype: DTypeLike = jnp.float32,
) -> Callable[[Array, Array | None], Array]:
    """Make layers with normalization before attention and MLP, as one ``lax.scan`` named "layers".

    For use inside of a Linen module.

    Args:
        depth: layers.
        num_heads: of each attention; divides the width.
        causal: whether a position looks at itself and those before it alone.
        activation: ``"gelu"`` or ``"quick_gelu"``.
        epsilon: of normalizations.
        dtype: compute type.

    Returns:
        ``(h [batch, length, width], mask [batch, length] or None) -> h``; the mask says which
        positions are looked at.
    """
    scanned = nn.scan(
        _Layer,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(nn.broadcast,),
        length=depth,
    )(num_heads, causal, activation, epsilon, dtype, name="layers")
    return lambda h, mask: scanned(h, mask)[0]


class _Layer(nn.Module):
    num_heads: int
    causal: bool
    activation: str
    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch length width"], mask: Array | None
    ) -> tuple[Array, None]:
        width = h.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        x = self._norm("norm_attention")(h)
        query, key, value = (
            nn.DenseGeneral(heads, kernel_init=_INIT, dtype=self.dtype, name=name)(x)
            for name in ("query", "key", "value")
        )
        x = lowering.attention(query, key, value, is_causal=self.causal, mask=mask)
        h = h + nn.DenseGeneral(
            width, axis=(-2, -1), kernel_init=_INIT, dtype=self.dtype, name="attention_out"
        )(x)
        x = self._norm("norm_mlp")(h)
        x = nn.Dense(4 * width, kernel_init=_INIT, dtype=self.dtype, name="mlp_in")(x)
        x = _ACTIVATIONS[self.activation](x)
        x = nn.Dense(width, kernel_init=_INIT, dtype=self.dtype, name="mlp_out")(x)
        return h + x, None

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(self.epsilon, use_fast_variance=False, dtype=self.dtype, name=name)
