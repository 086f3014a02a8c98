"""Transformers over text tokens."""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.nn.encoder import encoder_layers
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Bool, DTypeLike, Float, Int

__all__ = ["Encoded", "ProjectedText", "TextTransformer", "up_to_end"]

_INIT = nn.initializers.normal(0.02)


class Encoded(NamedTuple):
    """A text as vectors."""

    vectors: Float[Array, "batch length width"]
    mask: Bool[Array, "batch length"]  # which of them are of the text, and not of the padding
    pooled: Float[Array, "batch width"]  # one vector for all of it


@checked
def up_to_end(tokens: Int[Array, "batch length"], end: int) -> Bool[Array, "batch length"]:
    """Mark tokens up to the first ``end``, itself included, whatever stands behind it."""
    ends = (tokens == end).astype(jnp.int32)
    return jnp.cumsum(ends, axis=-1) - ends == 0


class TextTransformer(nn.Module):
    """A transformer with normalization before each layer, over token ids.

    By default it looks both ways, leaves padding out, and pools by the mean. With ``causal``,
    ``quick_gelu``, ``pool="end"`` and ``masked=False`` it is CLIP's text tower (Radford et al.
    2021, section 2.4), which attends to padding as it was trained to. Layers are one ``lax.scan``.

    Attributes:
        num_tokens: ids are below it.
        length: of each row.
        width: of the vectors.
        depth: layers.
        num_heads: of each attention; divides the width.
        end: the id that ends a text.
        causal: whether a token looks at itself and those before it alone.
        activation: ``"gelu"`` or ``"quick_gelu"``.
        pool: ``"mean"`` over the text, or ``"end"``: the vector of the first ``end``, never that of
            the largest id.
        masked: whether what stands behind the end is left out.
        epsilon: of normalizations.
        dtype: compute type; vectors are float32.
    """

    num_tokens: int
    length: int
    width: int = 64
    depth: int = 2
    num_heads: int = 4
    end: int = 2
    causal: bool = False
    activation: str = "gelu"
    pool: str = "mean"
    masked: bool = True
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Int[Array, "batch length"]) -> Encoded:
        """Encode texts.

        Raises:
            ValueError: if they have another length.
        """
        if tokens.shape[1:] != (self.length,):
            raise ValueError(f"tokens: got {tokens.shape}; [batch, {self.length}] is required")
        mask = up_to_end(tokens, self.end)
        table = nn.Embed(
            self.num_tokens, self.width, embedding_init=_INIT, dtype=self.dtype, name="tokens"
        )
        places = self.param("positions", _INIT, (self.length, self.width))
        h = table(tokens) + places[None].astype(self.dtype)
        layers = encoder_layers(
            self.depth,
            num_heads=self.num_heads,
            causal=self.causal,
            activation=self.activation,
            epsilon=self.epsilon,
            dtype=self.dtype,
        )
        h = layers(h, mask if self.masked else None)
        h = nn.LayerNorm(self.epsilon, use_fast_variance=False, dtype=jnp.float32, name="norm_out")(
            h
        )
        if self.pool == "end":
            last = jnp.sum(mask, axis=-1) - 1
            pooled = jnp.take_along_axis(h, last[:, None, None], axis=1)[:, 0]
        else:
            shares = mask / jnp.sum(mask, axis=-1, keepdims=True)
            pooled = jnp.sum(h * shares[..., None], axis=1)
        seen = mask if self.masked else jnp.ones_like(mask)
        return Encoded(h, seen, pooled)


class ProjectedText(nn.Module):
    """A text's vectors, and its embedding in a space that it shares with images.

    Attributes:
        text: encodes tokens.
        dim: of the space.
    """

    text: TextTransformer
    dim: int

    @property
    def num_tokens(self) -> int:
        """Return the number of token ids."""
        return self.text.num_tokens

    @nn.compact
    def __call__(self, tokens: Int[Array, "batch length"]) -> Encoded:
        """Encode texts; the one vector is of the length sqrt(dim)."""
        encoded = self.text(tokens)
        width = encoded.pooled.shape[-1]
        projection = self.param("projection", _INIT, (width, self.dim))
        pooled = encoded.pooled @ projection
        unit = pooled / jnp.sqrt(jnp.sum(jnp.square(pooled), axis=-1, keepdims=True) + 1e-12)
        return encoded._replace(pooled=unit * self.dim**0.5)
