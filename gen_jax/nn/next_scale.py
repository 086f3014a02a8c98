"""VAR's transformer: all codes of a scale at once, after those of the scales before."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from gen_jax.nn import lowering
from gen_jax.nn.blocks import Dropout, check_label
from gen_jax.ops import keys as rng
from gen_jax.ops.multi_scale import num_codes_of
from gen_jax.typing import Array, Bool, DTypeLike, Float, Int, Keys

__all__ = ["NextScale"]

_INIT = nn.initializers.normal(0.02)
_ZERO = nn.initializers.zeros
_LARGEST = np.log(100.0)  # of the logarithm of attention's scale


class NextScale(nn.Module):
    """A transformer over the codes of grids from coarse to fine (Tian et al. 2024, section 3.2).

    What stands at a place of scale k is not its code but what all coarser scales say there; the
    first place holds the condition. A scale sees itself and those before it (block-causal), so that
    sampling runs the network once a scale. Queries and keys have length 1 and a scale that is
    learned for each head; the condition scales, shifts and gates each layer (adaLN-zero). Vectors
    of a text, if there are any, stand before all scales.

    Attributes:
        num_codes: of the codebook.
        scales: sides of the grids.
        dim: of the vectors that coarser scales say.
        width: of the residual stream.
        depth: layers, one ``lax.scan``.
        num_heads: of each attention; divides the width.
        mlp_ratio: hidden width of the MLPs, as a multiple of the width.
        num_classes: how many labels the network is conditioned on; None for none.
        context_dim: width of the vectors of a text; None for none.
        dropout: rate, in [0, 1).
        dtype: compute type; logits are float32.
    """

    num_codes: int
    scales: Sequence[int]
    dim: int
    width: int = 128
    depth: int = 6
    num_heads: int = 4
    mlp_ratio: int = 4
    num_classes: int | None = None
    context_dim: int | None = None
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        self.inputs = nn.Dense(self.width, dtype=self.dtype)
        self.positions = self.param("positions", _INIT, (num_codes_of(self.scales), self.width))
        self.levels = self.param("levels", _INIT, (len(self.scales), self.width))
        self.start = self.param("start", _INIT, (self.width,))
        if self.num_classes is not None:
            self.label = nn.Embed(self.num_classes, self.width, embedding_init=_INIT)
        if self.context_dim is not None:
            self.context = nn.Dense(self.width, dtype=self.dtype)
            self.pooled = nn.Dense(self.width, kernel_init=_INIT)
        scanned = nn.scan(
            _Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=self.depth,
        )
        self.blocks = scanned(self.num_heads, self.mlp_ratio, self.dropout, self.dtype)
        self.modulation_out = nn.Dense(2 * self.width, kernel_init=_ZERO)
        self.norm_out = nn.LayerNorm(use_bias=False, use_scale=False, use_fast_variance=False)
        self.logits = nn.Dense(self.num_codes, kernel_init=_INIT)

    def __call__(
        self,
        said: Float[Array, "batch places dim"],
        label: Int[Array, "batch"] | None = None,
        keys: Keys | None = None,
        context: Float[Array, "batch length context_dim"] | None = None,
        context_mask: Bool[Array, "batch length"] | None = None,
        pooled: Float[Array, "batch context_dim"] | None = None,
    ) -> Float[Array, "batch codes categories"]:
        """Return the logits of all codes, each from the scales before its own.

        Args:
            said: what the scales before say at each place of the second scale and those behind it.
            label: classes in [0, num_classes); needed if and only if num_classes is set.
            keys: one for each example, for dropout; None turns dropout off.
            context: vectors of a text; needed if and only if context_dim is set.
            context_mask: which of them are looked at.
            pooled: one vector for all of the text.
        """
        condition = self.condition(len(said), label, pooled)
        first = self.scales[0] ** 2
        h = jnp.concatenate([self._first(condition), self._embedded(said, first)], axis=1)
        level = np.repeat(np.arange(len(self.scales)), [side * side for side in self.scales])
        seen = jnp.asarray(level[:, None] >= level[None])[None]
        if context is not None:
            h, seen = self._with_text(h, seen, context, context_mask)
        none = jnp.zeros((self.depth, len(h), 0, self.num_heads, self.width // self.num_heads))
        past = (none.astype(self.dtype),) * 2
        h, _ = self.blocks(h, jnp.arange(self.depth), past, condition, seen, keys)
        return self._head(h[:, -len(level) :], condition)

    def condition(
        self, batch: int, label: Array | None, pooled: Array | None
    ) -> Float[Array, "batch width"]:
        """Make the vector that stands first, and modulates all layers."""
        check_label(label, self.num_classes)
        condition = jnp.broadcast_to(self.start, (batch, self.width))
        if label is not None:
            condition = condition + self.label(label)
        if (pooled is None) != (self.context_dim is None):
            state = "missing" if pooled is None else "not expected"
            raise ValueError(f"pooled: {state} with context_dim={self.context_dim}")
        return condition if pooled is None else condition + self.pooled(pooled)

    def read(
        self, context: Array, context_mask: Array | None, condition: Array
    ) -> tuple[Array, Array]:
        """Return keys and values of a text's vectors, [depth, batch, length, heads, dim]."""
        seen = jnp.ones(context.shape[:2], bool) if context_mask is None else context_mask
        past = self.no_past(len(context))
        h = self.context(context.astype(self.dtype))
        return self.blocks(h, jnp.arange(self.depth), past, condition, seen[:, None], None)[1]

    def no_past(self, batch: int) -> tuple[Array, Array]:
        """Return keys and values of nothing."""
        shape = (self.depth, batch, 0, self.num_heads, self.width // self.num_heads)
        return jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype)

    def step(
        self,
        scale: int,
        said: Float[Array, "batch places dim"] | None,
        condition: Float[Array, "batch width"],
        past: tuple[Array, Array],
        context_mask: Bool[Array, "batch length"] | None = None,
    ) -> tuple[Float[Array, "batch places categories"], tuple[Array, Array]]:
        """Return the logits of one scale, and the keys and values of all until it.

        Args:
            scale: its number.
            said: what the scales before say at each of its places; None for the first.
            condition: of :meth:`condition`.
            past: keys and values so far, of :meth:`no_past`, :meth:`read` or the scale before.
            context_mask: which of the first places of the past, a text's, are looked at.
        """
        if said is None:
            h = self._first(condition)
        else:
            h = self._embedded(said, num_codes_of(self.scales[:scale]))
        seen = None
        if context_mask is not None:
            places = past[0].shape[2] + h.shape[1] - context_mask.shape[1]
            seen = jnp.concatenate([context_mask, jnp.ones((len(h), places), bool)], axis=1)
            seen = seen[:, None]
        h, made = self.blocks(h, jnp.arange(self.depth), past, condition, seen, None)
        past = (
            jnp.concatenate([past[0], made[0]], axis=2),
            jnp.concatenate([past[1], made[1]], axis=2),
        )
        return self._head(h, condition), past

    def _first(self, condition: Array) -> Array:
        num = self.scales[0] ** 2
        h = jnp.repeat(condition[:, None], num, axis=1)
        return (h + (self.positions[:num] + self.levels[:1])[None]).astype(self.dtype)

    def _embedded(self, said: Array, first: int) -> Array:
        level = np.repeat(np.arange(len(self.scales)), [side * side for side in self.scales])
        places = slice(first, first + said.shape[1])
        where = self.positions[places] + self.levels[jnp.asarray(level[places])]
        return self.inputs(said) + where[None].astype(self.dtype)

    def _with_text(
        self, h: Array, seen: Array, context: Array, context_mask: Array | None
    ) -> tuple[Array, Array]:
        """Put a text's vectors before all scales: these see it, and it sees itself."""
        length, codes = context.shape[1], h.shape[1]
        mask = jnp.ones((len(h), length), bool) if context_mask is None else context_mask
        h = jnp.concatenate([self.context(context.astype(self.dtype)), h], axis=1)
        text = jnp.broadcast_to(mask[:, None], (len(h), length + codes, length))
        behind = jnp.concatenate([jnp.zeros((1, length, codes), bool), seen], axis=1)
        behind = jnp.broadcast_to(behind, (len(h), length + codes, codes))
        return h, jnp.concatenate([text, behind], axis=2)

    def _head(self, h: Array, condition: Array) -> Array:
        shift, scale = jnp.split(self.modulation_out(nn.silu(condition))[:, None], 2, axis=-1)
        return self.logits(self.norm_out(h.astype(jnp.float32)) * (1 + scale) + shift)


class _Block(nn.Module):
    num_heads: int
    mlp_ratio: int
    dropout: float
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch places width"],
        layer: Int[Array, ""],
        past: tuple[Array, Array],
        condition: Float[Array, "batch width"],
        seen: Array | None,
        keys: Keys | None,
    ) -> tuple[Array, tuple[Array, Array]]:
        keys = None if keys is None else rng.fold_in(keys, layer)
        width = h.shape[-1]
        six = nn.Dense(6 * width, kernel_init=_ZERO, dtype=self.dtype, name="modulation")(
            nn.silu(condition)
        )[:, None]
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = jnp.split(six, 6, axis=-1)
        x = self._norm()(h) * (1 + scale) + shift
        heads = (self.num_heads, width // self.num_heads)
        query, key, value = (
            nn.DenseGeneral(heads, kernel_init=_INIT, dtype=self.dtype, name=name)(x)
            for name in ("query", "key", "value")
        )
        stretch = self.param("attention_scale", nn.initializers.constant(np.log(4.0)), heads[:1])
        # The attention divides by the root of the dimension, which is taken back here.
        stretch = jnp.exp(jnp.minimum(stretch, _LARGEST)) * heads[1] ** 0.5
        query = _unit(query) * stretch[None, None, :, None].astype(self.dtype)
        key = _unit(key)
        every_key, every_value = (
            jnp.concatenate([old, new], axis=1) for old, new in zip(past, (key, value), strict=True)
        )
        x = lowering.attention(query, every_key, every_value, mask=seen)
        x = nn.DenseGeneral(
            width, axis=(-2, -1), kernel_init=_INIT, dtype=self.dtype, name="attention_out"
        )(x)
        h = h + gate * Dropout(self.dropout, name="dropout_attention")(x, keys)
        x = self._norm()(h) * (1 + mlp_scale) + mlp_shift
        x = nn.Dense(self.mlp_ratio * width, kernel_init=_INIT, dtype=self.dtype, name="mlp_in")(x)
        x = nn.Dense(width, kernel_init=_INIT, dtype=self.dtype, name="mlp_out")(nn.gelu(x))
        return h + mlp_gate * Dropout(self.dropout, name="dropout_mlp")(x, keys), (key, value)

    def _norm(self) -> nn.LayerNorm:
        return nn.LayerNorm(
            use_bias=False, use_scale=False, use_fast_variance=False, dtype=self.dtype
        )


def _unit(x: Array) -> Array:
    square = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return (x * jnp.reciprocal(jnp.sqrt(square + 1e-12))).astype(x.dtype)
