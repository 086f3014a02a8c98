"""A causal transformer over sequences of tokens, with a cache for sampling."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.nn.blocks import Dropout, rematerialised
from gen_jax.nn.geometry import transformer_faults
from gen_jax.ops import keys as rng
from gen_jax.typing import Array, DTypeLike, Float, Int, Keys

__all__ = ["Cache", "CausalTransformer"]

INIT = nn.initializers.normal(0.02)


class Cache(NamedTuple):
    """Keys and values of the positions seen so far, for all layers at once."""

    key: Float[Array, "depth batch length heads dim"]
    value: Float[Array, "depth batch length heads dim"]


class _Block(nn.Module):
    """Attention to what came before, then an MLP, each behind a normalisation (pre-LN)."""

    num_heads: int
    mlp_ratio: int
    dropout: float
    depth: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch tokens width"],
        cache: Cache | None,
        layer: Int[Array, ""],
        index: Int[Array, ""],
        keys: Keys | None,
    ) -> tuple[Float[Array, "batch tokens width"], Cache | None]:
        # All layers stand at one place of the network; their masks must differ.
        keys = None if keys is None else rng.fold_in(keys, layer)
        width = h.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        ending = nn.initializers.normal(0.02 / (2 * self.depth) ** 0.5)  # as in GPT-2
        x = nn.LayerNorm(dtype=self.dtype, name="norm_attention")(h)
        query, key, value = (
            nn.DenseGeneral(heads, kernel_init=INIT, dtype=self.dtype, name=name)(x)
            for name in ("query", "key", "value")
        )
        if cache is None:
            x = jax.nn.dot_product_attention(query, key, value, is_causal=True)
        else:
            cache = Cache(
                *(
                    jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), index, axis=1)
                    for old, new in zip(cache, (key, value), strict=True)
                )
            )
            seen = jnp.arange(cache.key.shape[1]) <= index
            x = jax.nn.dot_product_attention(query, *cache, mask=seen[None, None, None])
        x = nn.DenseGeneral(
            width, axis=(-2, -1), kernel_init=ending, dtype=self.dtype, name="attention_out"
        )(x)
        h = h + Dropout(self.dropout, name="dropout_attention")(x, keys)
        x = nn.LayerNorm(dtype=self.dtype, name="norm_mlp")(h)
        x = nn.Dense(self.mlp_ratio * width, kernel_init=INIT, dtype=self.dtype, name="mlp_in")(x)
        x = nn.Dense(width, kernel_init=ending, dtype=self.dtype, name="mlp_out")(nn.gelu(x))
        return h + Dropout(self.dropout, name="dropout_mlp")(x, keys), cache


class CausalTransformer(nn.Module):
    """Predict each token of a sequence from those before it (Radford et al. 2019).

    The layers are one ``lax.scan``: a deep network compiles as fast as a shallow one. Positions are
    learned.

    Attributes:
        num_categories: how many different tokens there are.
        length: tokens of a sequence.
        width: of the residual stream.
        depth: layers.
        num_heads: heads of each attention layer; must divide the width.
        mlp_ratio: hidden width of the MLPs, as a multiple of the width.
        dropout: rate, in [0, 1).
        num_classes: how many labels the network is conditioned on; None for none.
        dtype: compute type; parameters are float32 and so are the logits.
        remat: what each layer computes again in the backward pass; see
            :func:`gen_jax.nn.blocks.rematerialised`.

    Raises:
        ValueError: at construction, if the heads do not divide the width.
    """

    num_categories: int
    length: int
    width: int = 256
    depth: int = 8
    num_heads: int = 8
    mlp_ratio: int = 4
    dropout: float = 0.0
    num_classes: int | None = None
    dtype: DTypeLike = jnp.float32
    remat: str = "none"

    def __post_init__(self) -> None:
        faults = transformer_faults(width=self.width, num_heads=self.num_heads)
        if faults:
            raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
        super().__post_init__()

    def setup(self) -> None:
        self.tokens = nn.Embed(
            self.num_categories, self.width, embedding_init=INIT, dtype=self.dtype
        )
        self.positions = self.param("positions", INIT, (self.length, self.width))
        # What stands before the first token; the class, where there are classes.
        self.start = nn.Embed(
            self.num_classes or 1, self.width, embedding_init=INIT, dtype=self.dtype
        )
        block = rematerialised(_Block, self.remat)
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, 0, nn.broadcast, nn.broadcast),
            out_axes=0,
            length=self.depth,
        )
        self.blocks = layers(self.num_heads, self.mlp_ratio, self.dropout, self.depth, self.dtype)
        self.norm_out = nn.LayerNorm(dtype=self.dtype)
        self.logits = nn.Dense(self.num_categories, kernel_init=INIT, dtype=self.dtype)

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
        label: Int[Array, "batch"] | None = None,
        keys: Keys | None = None,
    ) -> Float[Array, "batch length categories"]:
        """Give the logits of every token, each from the tokens before it.

        Args:
            tokens: in [0, num_categories).
            label: classes in [0, num_classes); needed if and only if num_classes is set.
            keys: one for each example, for dropout; None turns dropout off.

        Raises:
            ValueError: if the length differs, or a label is missing or not expected.
        """
        if tokens.shape[1] != self.length:
            raise ValueError(f"tokens: {self.length} are needed, got {tokens.shape[1]}")
        first = self._first(label, len(tokens))
        h = jnp.concatenate([first[:, None], self.tokens(tokens[:, :-1])], axis=1)
        h = h + self.positions[None].astype(self.dtype)
        h, _ = self.blocks(h, None, jnp.arange(self.depth), jnp.int32(0), keys)
        return self._head(h)

    def decode(
        self,
        cache: Cache,
        token: Int[Array, "batch"],
        index: Int[Array, ""],
        label: Int[Array, "batch"] | None = None,
    ) -> tuple[Float[Array, "batch categories"], Cache]:
        """Give the logits of the token at ``index``, from the one before it and the cache.

        Args:
            cache: of :meth:`empty_cache`, filled by the calls for smaller indices.
            token: at ``index - 1``; at index 0 it means nothing.
            index: from 0.
            label: as in :meth:`__call__`.
        """
        first = self._first(label, len(token))
        h = jnp.where(index == 0, first, self.tokens(token))[:, None]
        position = jax.lax.dynamic_slice_in_dim(self.positions, index, 1)
        h = h + position[None].astype(self.dtype)
        h, cache = self.blocks(h, cache, jnp.arange(self.depth), index, None)
        return self._head(h)[:, 0], cache

    def empty_cache(self, batch: int) -> Cache:
        """Make the cache of an empty sequence."""
        shape = (self.depth, batch, self.length, self.num_heads, self.width // self.num_heads)
        return Cache(jnp.zeros(shape, self.dtype), jnp.zeros(shape, self.dtype))

    def _first(self, label: Array | None, batch: int) -> Float[Array, "batch width"]:
        if (label is None) != (self.num_classes is None):
            raise ValueError(
                f"label: {'missing' if label is None else 'not expected'} with "
                f"num_classes={self.num_classes}"
            )
        return self.start(jnp.zeros(batch, jnp.int32) if label is None else label)

    def _head(self, h: Array) -> Float[Array, "batch tokens categories"]:
        return self.logits(self.norm_out(h)).astype(jnp.float32)
