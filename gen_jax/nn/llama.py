"""A causal transformer of today's parts over codes, behind a prefix (LlamaGen, Sun et al. 2024)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.nn import lowering
from gen_jax.nn.blocks import Dropout, check_label
from gen_jax.nn.text import Encoded, up_to_end
from gen_jax.nn.transformer import rotary_angles
from gen_jax.ops import keys as rng
from gen_jax.typing import Array, Bool, DTypeLike, Float, Int, Keys

__all__ = ["Llama", "TextStream", "layer_of"]

_INIT = nn.initializers.normal(0.02)


class TextStream(nn.Module):
    """Embed the tokens of a text and nothing more: they are the first part of one stream.

    As DALL-E's (Ramesh et al. 2021, section 2.2), where the text is predicted too. What stands
    behind a text's end is left out by a mask, in place of a padding token for each position.

    Attributes:
        num_tokens: ids are below it.
        length: of each row.
        width: of the vectors.
        end: the id that ends a text.
        dtype: compute type.
    """

    num_tokens: int
    length: int
    width: int
    end: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, tokens: Int[Array, "batch length"]) -> Encoded:
        """Embed texts."""
        mask = up_to_end(tokens, self.end)
        table = nn.Embed(
            self.num_tokens, self.width, embedding_init=_INIT, dtype=self.dtype, name="tokens"
        )
        places = self.param("positions", _INIT, (self.length, self.width))
        h = table(tokens) + places[None].astype(self.dtype)
        return Encoded(h, mask, jnp.mean(h, axis=1))


class Block(nn.Module):
    """Causal attention, then a gated MLP (SwiGLU), each behind a root mean square normalization."""

    num_heads: int
    dropout: float
    depth: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch places width"],
        layer: Int[Array, ""] | int,
        angles: Float[Array, "places half"],
        seen: Bool[Array, "any some keys"],
        keys: Keys | None = None,
        past: tuple[Array, Array] | None = None,
        index: Int[Array, ""] | int = 0,
    ) -> tuple[Array, tuple[Array, Array]]:
        """Apply the layer; gives keys and values too.

        With ``past``, keys and values [batch, all, heads, dim], those of ``h`` are written there
        from ``index`` on, and all of it is looked at where ``seen`` says so.
        """
        keys = None if keys is None else rng.fold_in(keys, layer)
        width = h.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        ending = nn.initializers.normal(0.02 / (2 * self.depth) ** 0.5)
        x = self._norm("norm_attention")(h)
        query, key, value = (
            nn.DenseGeneral(heads, use_bias=False, kernel_init=_INIT, dtype=self.dtype, name=name)(
                x
            )
            for name in ("query", "key", "value")
        )
        query, key = _turned(query, angles), _turned(key, angles)
        if past is not None:
            key, value = (
                jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), index, axis=1)
                for old, new in zip(past, (key, value), strict=True)
            )
        x = lowering.attention(query, key, value, mask=seen)
        x = nn.DenseGeneral(
            width, axis=(-2, -1), use_bias=False, kernel_init=ending, dtype=self.dtype,
            name="attention_out",
        )(x)  # fmt: skip
        h = h + Dropout(self.dropout, name="dropout_attention")(x, keys)
        x = self._norm("norm_mlp")(h)
        # Two thirds of four widths, so that three matrices have the parameters of two.
        hidden = 8 * -(-8 * width // 24)
        gate, value_of = (self._dense(hidden, _INIT, name)(x) for name in ("mlp_gate", "mlp_in"))
        x = self._dense(width, ending, "mlp_out")(nn.silu(gate) * value_of)
        h = h + Dropout(self.dropout, name="dropout_mlp")(x, keys)
        return h, (key, value)

    def _dense(self, width: int, init: nn.initializers.Initializer, name: str) -> nn.Dense:
        return nn.Dense(width, use_bias=False, kernel_init=init, dtype=self.dtype, name=name)

    def _norm(self, name: str) -> nn.RMSNorm:
        return nn.RMSNorm(epsilon=1e-5, dtype=self.dtype, name=name)


def _turned(x: Float[Array, "batch places heads dim"], angles: Array) -> Array:
    cos, sin = (f(angles)[None, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class Llama(nn.Module):
    """Predict each code of a grid, in raster order, from a prefix and the codes before it.

    The prefix is a class, or the vectors of a text; a learned vector stands between it and the
    first code. Rotary positions turn queries and keys by row and column, and leave the prefix as it
    is. With ``num_text`` the tokens of the text are predicted too, as DALL-E's.

    Attributes:
        num_categories: how many different codes there are.
        shape: of the grid of codes, at most three sizes.
        width: of the residual stream.
        depth: layers, one ``lax.scan``.
        num_heads: heads of each attention; divides the width.
        dropout: rate of what attention and MLPs add, and of embedded codes, in [0, 1).
        num_classes: labels of the prefix; None for none.
        context_dim: width of the text's vectors; None for no text.
        num_text: ids of the text, where it is predicted too; None for not.
        dtype: compute type; parameters and logits are float32.

    Raises:
        ValueError: at construction, if the heads do not divide the width into even parts.
    """

    num_categories: int
    shape: Sequence[int]
    width: int = 256
    depth: int = 8
    num_heads: int = 8
    dropout: float = 0.0
    num_classes: int | None = None
    context_dim: int | None = None
    num_text: int | None = None
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        if self.width % (2 * self.num_heads):
            raise ValueError(
                f"num_heads: got {self.num_heads}; heads of an even width are required, of "
                f"{self.width}"
            )
        super().__post_init__()

    @property
    def length(self) -> int:
        """How many codes a grid has."""
        return math.prod(self.shape)

    def setup(self) -> None:
        self.tokens = nn.Embed(
            self.num_categories, self.width, embedding_init=_INIT, dtype=self.dtype
        )
        self.start = self.param("start", _INIT, (self.width,))
        if self.num_classes is not None:
            self.label = nn.Embed(
                self.num_classes, self.width, embedding_init=_INIT, dtype=self.dtype
            )
        if self.context_dim is not None:
            self.context = nn.Dense(self.width, kernel_init=_INIT, dtype=self.dtype)
        scanned = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=self.depth,
        )
        self.blocks = scanned(self.num_heads, self.dropout, self.depth, self.dtype)
        self.dropout_tokens = Dropout(self.dropout)
        self.norm_out = nn.RMSNorm(epsilon=1e-5)
        self.logits = nn.Dense(self.num_categories, use_bias=False, kernel_init=_INIT)
        if self.num_text is not None:
            self.text_logits = nn.Dense(self.num_text, use_bias=False, kernel_init=_INIT)

    def __call__(
        self,
        codes: Int[Array, "batch length"],
        label: Int[Array, "batch"] | None = None,
        keys: Keys | None = None,
        context: Float[Array, "batch places context_dim"] | None = None,
        context_mask: Bool[Array, "batch places"] | None = None,
    ) -> tuple[Float[Array, "batch length categories"], Float[Array, "batch places text"] | None]:
        """Return the logits of all codes, and of the text's tokens where they are predicted.

        Text logits at place i are of the token at i + 1.

        Args:
            codes: the grid's, flat.
            label: classes in [0, num_classes); needed if and only if num_classes is set.
            keys: one for each example, for dropout; None turns dropout off.
            context: vectors of a text; needed if and only if context_dim is set.
            context_mask: which of them are looked at.
        """
        prefix, mask = self.prefix(len(codes), label, context, context_mask)
        embedded = self.tokens(codes[:, :-1])
        embedded = self.dropout_tokens(embedded, None if keys is None else rng.fold_in(keys, 997))
        h = jnp.concatenate([prefix, self._start(len(codes)), embedded], axis=1)
        places, before = h.shape[1], prefix.shape[1]
        causal = jnp.tril(jnp.ones((places, places), bool))[None]
        there = jnp.concatenate([mask, jnp.ones((len(h), places - before), bool)], axis=1)
        h, _ = self.blocks(
            h, jnp.arange(self.depth), self.angles(before), causal & there[:, None], keys
        )
        text = None
        if self.num_text is not None:
            text = self.text_logits(self.norm_out(h[:, :before].astype(jnp.float32)))
        return self.head(h[:, before:]), text

    def prefix(
        self, batch: int, label: Array | None, context: Array | None, context_mask: Array | None
    ) -> tuple[Float[Array, "batch places width"], Bool[Array, "batch places"]]:
        """Make what stands before the codes, and which of it is looked at."""
        check_label(label, self.num_classes)
        if (context is None) != (self.context_dim is None):
            state = "missing" if context is None else "not expected"
            raise ValueError(f"context: {state} with context_dim={self.context_dim}")
        parts, masks = [jnp.zeros((batch, 0, self.width), self.dtype)], [jnp.ones((batch, 0), bool)]
        if label is not None:
            parts.append(self.label(label)[:, None])
            masks.append(jnp.ones((batch, 1), bool))
        if context is not None:
            parts.append(self.context(context.astype(self.dtype)))
            every = jnp.ones(context.shape[:2], bool)
            masks.append(every if context_mask is None else context_mask)
        return jnp.concatenate(parts, axis=1), jnp.concatenate(masks, axis=1)

    def angles(self, before: int) -> Float[Array, "places half"]:
        """Return the turns of all places: none of what stands before the codes."""
        own = rotary_angles(self.shape, self.width // self.num_heads)[: self.length - 1]
        return jnp.asarray(np.pad(own, ((before + 1, 0), (0, 0))))

    def embed(
        self, code: Int[Array, "batch"], index: Int[Array, ""]
    ) -> Float[Array, "batch 1 width"]:
        """Embed the code before one, or what stands before the first."""
        return jnp.where(index == 0, self._start(len(code)), self.tokens(code)[:, None])

    def head(
        self, h: Float[Array, "batch places width"]
    ) -> Float[Array, "batch places categories"]:
        """Return logits of the places of codes."""
        return self.logits(self.norm_out(h.astype(jnp.float32)))

    def _start(self, batch: int) -> Array:
        return jnp.broadcast_to(self.start.astype(self.dtype), (batch, 1, self.width))


def layer_of(params: Mapping[str, Any], layer: int) -> Mapping[str, Any]:
    """Take the parameters of one layer, for :class:`Block` by itself."""
    return {"params": jax.tree.map(lambda x: x[layer], params["blocks"])}
