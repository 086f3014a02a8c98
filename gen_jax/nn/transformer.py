"""A causal transformer over grids of tokens, with a cache for sampling."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.nn import lowering
from gen_jax.nn.blocks import Dropout, check_label, rematerialized
from gen_jax.nn.conditioning import CodesAbove, grid_of
from gen_jax.nn.geometry import transformer_faults
from gen_jax.ops import keys as rng
from gen_jax.typing import Array, DTypeLike, Float, Int, Keys

__all__ = ["Block", "Cache", "CausalTransformer", "Context"]

INIT = nn.initializers.normal(0.02)


class Cache(NamedTuple):
    """Keys and values of the positions seen so far, an array for each layer.

    A loop over tokens carries them, and each token writes its own place: layers in one array would
    be copied whole by whoever goes from layer to layer.
    """

    key: tuple[Float[Array, "batch heads length dim"], ...]
    value: tuple[Float[Array, "batch heads length dim"], ...]


class Context(NamedTuple):
    """What does not change from token to token: made once for a batch."""

    start: Float[Array, "batch width"]  # what stands before the first token: the class
    added: Float[Array, "batch tokens width"] | None  # to each token's embedding
    layers: tuple[Mapping[str, Array], ...]  # weights, as decoding one token wants them


# Periods of a rotary axis grow up to about this factor; grids are short (Heo et al. 2024).
ROTARY_PERIOD = 100.0


def rotary_angles(shape: Sequence[int], dim: int) -> Float[np.ndarray, "tokens half"]:
    """Return the angles by which each token of a grid turns the pairs of a head (Su et al. 2021).

    Axes longer than 1 share the pairs out, the first taking what is left over.
    """
    axes = [(i, size) for i, size in enumerate(shape) if size > 1] or [(0, 1)]
    places = np.stack(np.unravel_index(np.arange(math.prod(shape)), tuple(shape)), axis=1)
    share, left = divmod(dim // 2, len(axes))
    parts = []
    for number, (axis, _) in enumerate(axes):
        num = share + (left if number == 0 else 0)
        frequencies = ROTARY_PERIOD ** (-np.arange(num) / num)
        parts.append(places[:, axis, None] * frequencies[None])
    return np.concatenate(parts, axis=1).astype(np.float32)


def _turn(
    x: Float[Array, "batch tokens heads dim"], angles: Float[Array, "tokens half"]
) -> Float[Array, "batch tokens heads dim"]:
    cos, sin = (f(angles)[None, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class Block(nn.Module):
    """Attention to what came before, then an MLP, each behind a normalization (pre-LN).

    Without ``is_causal`` to all that there is.
    """

    num_heads: int
    mlp_ratio: int
    dropout: float
    depth: int
    dtype: DTypeLike
    is_causal: bool = True

    @nn.compact
    def __call__(
        self,
        h: Float[Array, "batch tokens width"],
        layer: Int[Array, ""],
        angles: Float[Array, "tokens half"] | None,
        keys: Keys | None,
    ) -> tuple[Float[Array, "batch tokens width"], None]:
        # All layers stand at one place of the network; their masks must differ.
        keys = None if keys is None else rng.fold_in(keys, layer)
        width = h.shape[-1]
        heads = (self.num_heads, width // self.num_heads)
        ending = nn.initializers.normal(0.02 / (2 * self.depth) ** 0.5)  # as in GPT-2
        x = nn.LayerNorm(use_fast_variance=False, dtype=self.dtype, name="norm_attention")(h)
        query, key, value = (
            nn.DenseGeneral(heads, kernel_init=INIT, dtype=self.dtype, name=name)(x)
            for name in ("query", "key", "value")
        )
        if angles is not None:
            query, key = _turn(query, angles), _turn(key, angles)
        x = lowering.attention(query, key, value, is_causal=self.is_causal)
        x = nn.DenseGeneral(
            width, axis=(-2, -1), kernel_init=ending, dtype=self.dtype, name="attention_out"
        )(x)
        h = h + Dropout(self.dropout, name="dropout_attention")(x, keys)
        x = nn.LayerNorm(use_fast_variance=False, dtype=self.dtype, name="norm_mlp")(h)
        x = nn.Dense(self.mlp_ratio * width, kernel_init=INIT, dtype=self.dtype, name="mlp_in")(x)
        x = nn.Dense(width, kernel_init=ending, dtype=self.dtype, name="mlp_out")(nn.gelu(x))
        return h + Dropout(self.dropout, name="dropout_mlp")(x, keys), None


def _normalized(
    h: Float[Array, "batch width"], weights: Mapping[str, Array], name: str, dtype: DTypeLike
) -> Float[Array, "batch width"]:
    """As Linen's LayerNorm, in two passes."""
    h = h.astype(jnp.float32)
    centered = h - jnp.mean(h, axis=-1, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + 1e-6)
    scale, bias = weights[f"{name}_scale"], weights[f"{name}_bias"]
    return (centered / deviation * scale[None] + bias[None]).astype(dtype)


class CausalTransformer(nn.Module):
    """Predict each token of a grid, in raster order, from those before it (Radford et al. 2019).

    In training the layers are one ``lax.scan``: a deep network compiles as fast as a shallow one.
    Where a token is decoded they stand one after another, each with a cache of its own.

    Attributes:
        num_categories: how many different tokens there are.
        shape: of the grid of tokens, at most three sizes.
        width: of the residual stream.
        depth: layers.
        num_heads: heads of each attention layer; must divide the width.
        mlp_ratio: hidden width of the MLPs, as a multiple of the width.
        dropout: rate, in [0, 1).
        positions: ``"table"``, a learned vector for each position; ``"axes"``, the sum of learned
            vectors for its row, column and channel; or ``"rotary"``, turned queries and keys, with
            each axis in its own part of a head.
        num_classes: how many labels the network is conditioned on, the number itself standing for
            no label; None for none.
        above: numbers of categories of coarser grids that the network is conditioned on.
        dtype: compute type; parameters are float32 and so are the logits.
        remat: what each layer computes again in the backward pass; see
            :func:`gen_jax.nn.blocks.rematerialized`.

    Raises:
        ValueError: at construction, if the heads do not divide the width.
    """

    num_categories: int
    shape: Sequence[int]
    width: int = 256
    depth: int = 8
    num_heads: int = 8
    mlp_ratio: int = 4
    dropout: float = 0.0
    positions: str = "table"
    num_classes: int | None = None
    above: Sequence[int] = ()
    dtype: DTypeLike = jnp.float32
    remat: str = "none"

    def __post_init__(self) -> None:
        faults = transformer_faults(
            width=self.width, num_heads=self.num_heads, positions=self.positions
        )
        if faults:
            raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
        super().__post_init__()

    @property
    def length(self) -> int:
        """How many tokens a grid has."""
        return math.prod(self.shape)

    @property
    def parts(self) -> int:
        """In how many programs a sequence is decoded: early tokens look at few places.

        Each is compiled, all layers of it; short sequences and deep networks gain too little.
        """
        if self.length < 128:
            return 1
        return 4 if self.depth <= 12 else 2

    def setup(self) -> None:
        self.tokens = self.embedding()
        if self.positions == "table":
            self.table = self.param("positions", INIT, (self.length, self.width))
        elif self.positions == "axes":
            self.axes = [
                self.param(f"positions_{axis}", INIT, (size, self.width))
                for axis, size in enumerate(self.shape)
            ]
        # What stands before the first token; the class, where there are classes.
        self.start = nn.Embed(
            1 if self.num_classes is None else self.num_classes + 1,
            self.width,
            embedding_init=INIT,
            dtype=self.dtype,
        )
        if self.above:
            self.codes_above = CodesAbove(self.shape, self.above, self.width, dtype=self.dtype)
        block = rematerialized(Block, self.remat)
        layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            out_axes=0,
            length=self.depth,
        )
        self.blocks = layers(self.num_heads, self.mlp_ratio, self.dropout, self.depth, self.dtype)
        self.norm_out = nn.LayerNorm(use_fast_variance=False, dtype=self.dtype)
        self.logits = self.head()

    def embedding(self) -> nn.Module:
        """Make the layer that takes a token."""
        return nn.Embed(self.num_categories, self.width, embedding_init=INIT, dtype=self.dtype)

    def head(self) -> nn.Module:
        """Make the last layer."""
        return nn.Dense(self.num_categories, kernel_init=INIT, dtype=jnp.float32)

    def __call__(
        self,
        tokens: Int[Array, "batch length"] | Float[Array, "batch length dims"],
        label: Int[Array, "batch"] | None = None,
        above: Sequence[Array] = (),
        keys: Keys | None = None,
    ) -> Float[Array, "batch length categories"]:
        """Return the logits of every token, each from the tokens before it.

        Args:
            tokens: in [0, num_categories).
            label: classes in [0, num_classes], the last for none; needed if and only if
                num_classes is set.
            above: coarser grids of codes, as many as the attribute of that name says.
            keys: one for each example, for dropout; None turns dropout off.

        Raises:
            ValueError: if the length differs, or a label is missing or not expected.
        """
        if tokens.shape[1] != self.length:
            raise ValueError(f"tokens: got {tokens.shape[1]}; {self.length} are required")
        start, added = self.given(len(tokens), label, above)
        h = jnp.concatenate([start[:, None], self.tokens(tokens[:, :-1])], axis=1)
        places = jnp.arange(self.length)
        where, angles = self._positions(places), self._angles(places)
        h = h if where is None else h + where[None].astype(self.dtype)
        h = h if added is None else h + added
        h, _ = self.blocks(h, jnp.arange(self.depth), angles, keys)
        return self._head(h)

    def context(
        self,
        batch: int,
        label: Int[Array, "batch"] | None = None,
        above: Sequence[Array] = (),
    ) -> Context:
        """Make what :meth:`decode` needs of label and coarser grids, as :meth:`__call__` does."""
        return Context(*self.given(batch, label, above), self._layers())

    def given(
        self, batch: int, label: Int[Array, "batch"] | None, above: Sequence[Array]
    ) -> tuple[Float[Array, "batch width"], Float[Array, "batch tokens width"] | None]:
        """Make what stands before the first token, and what is added to each."""
        check_label(label, self.num_classes)
        start = self.start(jnp.zeros(batch, jnp.int32) if label is None else label)
        if not self.above:
            return start, None
        h = self.codes_above(above)
        tokens = grid_of(self.shape)[2]
        return start, jnp.repeat(h.reshape(len(h), -1, self.width), tokens, axis=1)

    def _layers(self) -> tuple[Mapping[str, Array], ...]:
        """Take the layers' weights apart, with one matrix for queries, keys and values."""
        blocks = self.variables["params"]["blocks"]
        kinds = ("query", "key", "value")
        kernel, bias = (
            jnp.concatenate(
                [jnp.reshape(blocks[kind][part], (*shape, self.width)) for kind in kinds], axis=-1
            ).astype(self.dtype)
            for part, shape in (("kernel", (self.depth, self.width)), ("bias", (self.depth,)))
        )
        stacked = {"qkv_kernel": kernel, "qkv_bias": bias}
        for name in ("attention_out", "mlp_in", "mlp_out"):
            kernel = blocks[name]["kernel"]
            kernel = jnp.reshape(kernel, (self.depth, -1, kernel.shape[-1]))
            stacked |= {f"{name}_kernel": kernel, f"{name}_bias": blocks[name]["bias"]}
        stacked = {name: x.astype(self.dtype) for name, x in stacked.items()}
        for name in ("norm_attention", "norm_mlp"):
            stacked |= {f"{name}_{part}": blocks[name][part] for part in ("scale", "bias")}
        return tuple({name: x[i] for name, x in stacked.items()} for i in range(self.depth))

    def decode(
        self,
        cache: Cache,
        token: Int[Array, "batch"] | Float[Array, "batch dims"],
        index: Int[Array, ""],
        context: Context,
    ) -> tuple[Float[Array, "batch categories"], Cache]:
        """Return the logits of the token at ``index``, from the one before it and the cache.

        Args:
            cache: of :meth:`empty_cache`, filled by the calls for smaller indices; all of its
                places are looked at.
            token: at ``index - 1``; at index 0 it means nothing.
            index: from 0.
            context: of :meth:`context`.
        """
        h = jnp.where(index == 0, context.start, self.tokens(token))
        where, angles = self._positions(index[None]), self._angles(index[None])
        h = h if where is None else h + where.astype(self.dtype)
        h = h if context.added is None else h + context.added[:, index]
        made: list[tuple[Array, Array]] = []
        for weights, key, value in zip(context.layers, *cache, strict=True):
            h, *places = self._decode_layer(weights, h, key, value, index, angles)
            made.append((places[0], places[1]))
        keys, values = zip(*made, strict=True)
        return self._head(h[:, None])[:, 0], Cache(keys, values)

    def _decode_layer(
        self,
        weights: Mapping[str, Array],
        h: Float[Array, "batch width"],
        keys: Float[Array, "batch heads length dim"],
        values: Float[Array, "batch heads length dim"],
        index: Int[Array, ""],
        angles: Float[Array, "one half"] | None,
    ) -> tuple[Array, Array, Array]:
        """Give one layer its token, and the cache the token's key and value."""

        def dense(x: Array, name: str) -> Array:
            return x @ weights[f"{name}_kernel"] + weights[f"{name}_bias"][None]

        batch, dim = len(h), self.width // self.num_heads
        x = _normalized(h, weights, "norm_attention", self.dtype)
        parts = jnp.split(dense(x, "qkv"), 3, axis=-1)
        query, key, value = (jnp.reshape(x, (batch, 1, self.num_heads, dim)) for x in parts)
        if angles is not None:
            query, key = _turn(query, angles), _turn(key, angles)
        query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
        keys, values = (
            jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), index, axis=2)
            for old, new in ((keys, key), (values, value))
        )
        logits = jnp.einsum("bhqd,bhld->bhql", query * dim**-0.5, keys)
        past = jnp.arange(keys.shape[2]) <= index
        logits = jnp.where(past[None, None, None], logits.astype(jnp.float32), -jnp.inf)
        shares = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        x = jnp.einsum("bhql,bhld->bhqd", shares, values)
        h = h + dense(jnp.reshape(x, (batch, self.width)), "attention_out")
        x = _normalized(h, weights, "norm_mlp", self.dtype)
        return h + dense(nn.gelu(dense(x, "mlp_in")), "mlp_out"), keys, values

    def empty_cache(self, batch: int) -> Cache:
        """Make the cache of an empty sequence."""
        shape = (batch, self.num_heads, self.length, self.width // self.num_heads)
        empty = tuple(jnp.zeros(shape, self.dtype) for _ in range(self.depth))
        return Cache(empty, empty)

    def grown(self, cache: Cache, length: int) -> Cache:
        """Give a cache so many places: more, or fewer where nothing stands there yet."""

        def sized(x: Array) -> Array:
            more = max(0, length - x.shape[2])
            return jnp.pad(x[:, :, :length], ((0, 0), (0, 0), (0, more), (0, 0)))

        return jax.tree.map(sized, cache)

    def _positions(self, places: Int[Array, "tokens"]) -> Float[Array, "tokens width"] | None:
        if self.positions == "table":
            return self.table[places]
        if self.positions == "rotary":
            return None
        by_axis = jnp.unravel_index(places, tuple(self.shape))
        rows = [table[place] for table, place in zip(self.axes, by_axis, strict=True)]
        return jnp.sum(jnp.stack(rows), axis=0)

    def _angles(self, places: Int[Array, "tokens"]) -> Float[Array, "tokens half"] | None:
        if self.positions != "rotary":
            return None
        return jnp.asarray(rotary_angles(self.shape, self.width // self.num_heads))[places]

    def _head(self, h: Array) -> Float[Array, "batch tokens categories"]:
        return self.logits(self.norm_out(h))
