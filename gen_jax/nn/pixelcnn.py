"""The gated PixelCNN (van den Oord et al. 2016b), with a cache for sampling."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.nn.blocks import check_label, drop
from gen_jax.nn.conditioning import CodesAbove, grid_of
from gen_jax.nn.geometry import pixelcnn_faults
from gen_jax.ops import keys as rng
from gen_jax.typing import Array, DTypeLike, Float, Int, Keys

__all__ = ["TENSOR_DIMS", "PixelCNN", "PixelCache", "PixelContext"]

# See gen_jax.nn.blocks.TENSOR_DIMS.
TENSOR_DIMS: Mapping[str, int] = {r"/head_in/(kernel|bias)$": -1, r"/head_out$": -2}

INIT = nn.initializers.variance_scaling(
    1.0, "fan_in", "truncated_normal", in_axis=-2, out_axis=-1, batch_axis=0
)


class PixelContext(NamedTuple):
    """What does not change from token to token: made once for a batch."""

    label: Float[Array, "depth batch four_width"] | None  # biases of each layer
    above: Float[Array, "batch height width channels"] | None


class PixelCache(NamedTuple):
    """What the tokens to come need of those before: a band of rows, and no more.

    ``columns`` run from kernel // 2 places left of the grid.
    """

    above: Float[Array, "batch rows columns width"]  # embedded rows above the present one
    vertical: Float[Array, "layers batch rows columns width"]  # inputs of each vertical layer there
    gates: Float[Array, "depth batch width two_width"]  # vertical stack of the present row
    row: Float[Array, "batch columns width"]  # embedded positions of the present row
    horizontal: Float[Array, "layers batch columns width"]  # inputs of each horizontal layer there
    position: Float[Array, "batch width"]  # embedded tokens of the present position
    hidden: Float[Array, "batch hidden"]  # what they add to the head
    feature: Float[Array, "batch width"]  # horizontal stack's output at the present position


class PixelCNN(nn.Module):
    """Predict each token of a grid, in raster order, from those before it, by convolutions.

    A vertical stack sees all rows above, a horizontal one the positions to the left and, through
    it, those rows: together every token before, and no other (van den Oord et al. 2016b, figures 1
    and 2). Tokens at one position (colors, or levels of a code) follow each other in the head,
    which sees the stacks' output and the tokens before at that position; the paper masks channels
    of every layer instead. The repeated layers are one ``lax.scan``.

    Attributes:
        num_categories: how many different tokens there are.
        shape: of the grid of tokens, at most three sizes: height, width, tokens a position.
        width: channels of each stack.
        depth: layers, at least 2; with kernels of n the rows above are seen (n // 2) depth far.
        kernel: n, odd, at least 3.
        hidden: width of the head's hidden layer.
        dropout: rate, in [0, 1).
        num_classes: how many labels the network is conditioned on, the number itself standing for
            no label; None for none.
        above: numbers of categories of coarser grids that the network is conditioned on.
        dtype: compute type; parameters are float32 and so are the logits.

    Raises:
        ValueError: at construction, if the depth or the kernel is out of range.
    """

    num_categories: int
    shape: Sequence[int]
    width: int = 128
    depth: int = 12
    kernel: int = 5
    hidden: int = 512
    dropout: float = 0.0
    num_classes: int | None = None
    above: Sequence[int] = ()
    dtype: DTypeLike = jnp.float32

    def __post_init__(self) -> None:
        faults = pixelcnn_faults(depth=self.depth, kernel=self.kernel)
        if faults:
            raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
        super().__post_init__()

    @property
    def length(self) -> int:
        """How many tokens a grid has."""
        return math.prod(self.shape)

    @property
    def parts(self) -> int:
        """In how many programs a grid is decoded: every token costs the same."""
        return 1

    def grown(self, cache: PixelCache, length: int) -> PixelCache:
        """Leave a cache as it is: it holds a few rows, wherever a token stands."""
        del length
        return cache

    def setup(self) -> None:
        width, reach, later = self.width, self.kernel // 2, self.depth - 1
        tokens = grid_of(self.shape)[2]
        self.tokens = nn.Embed(tokens * self.num_categories, width, dtype=self.dtype)

        def stack(name: str, layers: int, seen: int) -> Mapping[str, Array]:
            """Make parameters of layers that see so many rows, and positions of their own row."""
            sizes = {
                "vertical": (seen, self.kernel, width, 2 * width),
                "horizontal": (1, seen, width, 2 * width),
                "link": (1, 1, 2 * width, 2 * width),
                "out": (1, 1, width, width),
            }
            made = {
                part: self.param(f"{name}_{part}", INIT, (layers, *size))
                for part, size in sizes.items()
            }
            for part in ("vertical_bias", "horizontal_bias"):
                zeros = nn.initializers.zeros
                made[part] = self.param(f"{name}_{part}", zeros, (layers, 2 * width))
            if self.above:
                made["above"] = self.param(f"{name}_above", INIT, (layers, width, 4 * width))
            return made

        # The first layer sees neither its own row nor its own position.
        self.first = stack("first", 1, reach)
        self.later = stack("later", later, reach + 1)
        if self.num_classes is not None:
            self.labels = nn.Embed(
                self.num_classes + 1, self.depth * 4 * width, dtype=self.dtype,
                embedding_init=nn.initializers.normal(0.02),
            )  # fmt: skip
        if self.above:
            self.codes_above = CodesAbove(self.shape, self.above, width, dtype=self.dtype)
        self.head_in = nn.Dense(tokens * self.hidden, dtype=self.dtype)
        if tokens > 1:
            self.head_tokens = nn.Embed(tokens * self.num_categories, self.hidden, dtype=self.dtype)
        self.head_out = self.param("head_out", INIT, (tokens, self.hidden, self.num_categories))
        self.head_bias = self.param(
            "head_bias", nn.initializers.zeros, (tokens, self.num_categories)
        )

    def __call__(
        self,
        tokens: Int[Array, "batch length"],
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
        context = self.context(len(tokens), label, above)
        height, width, depth = grid_of(self.shape)
        reach = self.kernel // 2
        offsets = self.num_categories * jnp.arange(depth)
        index = tokens.reshape(-1, height, width, depth) + offsets[None, None, None]
        x = jnp.sum(self.tokens(index), axis=-2)

        def columns(x: Array, left: int, right: int) -> Array:
            return jnp.pad(x, ((0, 0), (0, 0), (left, right), (0, 0)))

        def rows(x: Array) -> Array:
            return jnp.pad(x, ((0, 0), (reach, 0), (0, 0), (0, 0)))

        def layer(
            carry: tuple[Array, Array], inputs: tuple[Mapping[str, Array], Array | None, Array]
        ) -> tuple[tuple[Array, Array], None]:
            (v, h), (own, bias, number) = carry, inputs
            pre_v = self._conv(columns(rows(v), reach, reach), own["vertical"])
            pre_h = self._conv(columns(h, reach, 0), own["horizontal"])
            v, gated = self._gates(own, pre_v, pre_h, bias, context.above)
            gated = self._drop(gated, keys, number)
            return (v, h + self._conv(gated, own["out"])), None

        first = jax.tree.map(lambda p: p[0], self.first)
        biases = context.label
        pre_v = self._conv(columns(rows(x), reach, reach), first["vertical"])[:, :-1]
        pre_h = self._conv(columns(x, reach, 0), first["horizontal"])[:, :, :-1]
        own_bias = None if biases is None else biases[0]
        v, gated = self._gates(first, pre_v, pre_h, own_bias, context.above)
        h = self._conv(self._drop(gated, keys, jnp.int32(0)), first["out"])
        rest = None if biases is None else biases[1:]
        (_, h), _ = jax.lax.scan(layer, (v, h), (self.later, rest, jnp.arange(1, self.depth)))

        hidden = self.head_in(nn.relu(h)).reshape(*h.shape[:3], depth, self.hidden)
        if depth > 1:
            # Shifted before it is summed: of a sum less itself, rounding would leave a trace.
            earlier = self.head_tokens(index)[..., :-1, :]
            earlier = jnp.pad(earlier, ((0, 0), (0, 0), (0, 0), (1, 0), (0, 0)))
            hidden = hidden + jnp.cumsum(earlier, axis=-2)
        logits = jnp.einsum("bhwcn,cnk->bhwck", nn.relu(hidden).astype(jnp.float32), self.head_out)
        logits = logits + self.head_bias[None, None, None]
        return logits.reshape(len(tokens), self.length, self.num_categories)

    def context(
        self,
        batch: int,
        label: Int[Array, "batch"] | None = None,
        above: Sequence[Array] = (),
    ) -> PixelContext:
        """Make what :meth:`decode` needs of label and coarser grids, as :meth:`__call__` does."""
        check_label(label, self.num_classes)
        biases = None
        if label is not None:
            biases = self.labels(label).reshape(batch, self.depth, 4 * self.width)
            biases = jnp.swapaxes(biases, 0, 1)
        return PixelContext(biases, self.codes_above(above) if self.above else None)

    def decode(
        self, cache: PixelCache, token: Int[Array, "batch"], index: Int[Array, ""],
        context: PixelContext,
    ) -> tuple[Float[Array, "batch categories"], PixelCache]:  # fmt: skip
        """Return the logits of the token at ``index``, from the one before it and the cache.

        A token costs one position of the horizontal stack, and the first of a row one row of the
        vertical stack.

        Args:
            cache: of :meth:`empty_cache`, filled by the calls for smaller indices.
            token: at ``index - 1``; at index 0 it means nothing.
            index: from 0.
            context: of :meth:`context`.
        """
        _, width, depth = grid_of(self.shape)
        channel, column = index % depth, index // depth % width
        row = index // (depth * width)
        before = (index - 1) % depth
        entry = token + self.num_categories * before
        cache = cache._replace(position=cache.position + self.tokens(entry))
        if depth > 1:
            cache = cache._replace(hidden=cache.hidden + self.head_tokens(entry))

        cache = jax.lax.cond(
            channel == 0, lambda c: self._next_position(c, row, column, context), lambda c: c, cache
        )
        hidden = self.head_in(nn.relu(cache.feature)).reshape(-1, depth, self.hidden)
        hidden = jax.lax.dynamic_index_in_dim(hidden, channel, 1, keepdims=False) + cache.hidden
        logits = nn.relu(hidden).astype(jnp.float32) @ self.head_out[channel]
        return logits + self.head_bias[channel][None], cache

    def empty_cache(self, batch: int) -> PixelCache:
        """Make the cache of an empty grid."""
        _, width, _ = grid_of(self.shape)
        reach = self.kernel // 2
        columns, layers = width + reach, self.depth - 1
        sizes = {
            "above": (batch, reach, width, self.width),
            "vertical": (layers, batch, reach, width, self.width),
            "gates": (self.depth, batch, width, 2 * self.width),
            "row": (batch, columns, self.width),
            "horizontal": (layers, batch, columns, self.width),
            "position": (batch, self.width),
            "hidden": (batch, self.hidden),
            "feature": (batch, self.width),
        }
        return PixelCache(**{name: jnp.zeros(size, self.dtype) for name, size in sizes.items()})

    def _next_position(
        self, cache: PixelCache, row: Array, column: Array, context: PixelContext
    ) -> PixelCache:
        """Take up the finished position, and run the horizontal stack at the next."""
        _, width, _ = grid_of(self.shape)
        reach = self.kernel // 2
        last = (column - 1) % width
        started = (row + column) > 0  # before the first token there is nothing to take up
        position = jnp.where(started, cache.position, 0.0)
        cache = cache._replace(
            row=jax.lax.dynamic_update_slice_in_dim(
                cache.row, position[:, None], last + reach, axis=1
            ),
            position=jnp.zeros_like(cache.position),
            hidden=jnp.zeros_like(cache.hidden),
        )
        cache = jax.lax.cond(
            column == 0, lambda c: self._next_row(c, row, context), lambda c: c, cache
        )
        above = context.above
        if above is not None:
            above = jax.lax.dynamic_slice_in_dim(above, row, 1, axis=1)
            above = jax.lax.dynamic_slice_in_dim(above, column, 1, axis=2)

        def step(
            h: Array | None, own: Mapping[str, Array], gates: Array, window: Array,
            bias: Array | None,
        ) -> Array:  # fmt: skip
            pre_v = jax.lax.dynamic_slice_in_dim(gates, column, 1, axis=1)[:, None]
            pre_h = self._conv(window[:, None], own["horizontal"])
            _, gated = self._gates(own, pre_v, pre_h, bias, above, vertical_done=True)
            out = self._conv(gated, own["out"])[:, 0, 0]
            return out if h is None else h + out

        def at(x: Array, size: int) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, column, size, axis=1)

        biases = context.label
        first = jax.tree.map(lambda p: p[0], self.first)
        own_bias = None if biases is None else biases[0]
        h = step(None, first, cache.gates[0], at(cache.row, reach), own_bias)

        def layer(h: Array, inputs: tuple) -> tuple[Array, Array]:
            own, gates, seen, bias = inputs
            seen = jax.lax.dynamic_update_slice_in_dim(seen, h[:, None], column + reach, axis=1)
            return step(h, own, gates, at(seen, reach + 1), bias), seen

        rest = None if biases is None else biases[1:]
        h, horizontal = jax.lax.scan(
            layer, h, (self.later, cache.gates[1:], cache.horizontal, rest)
        )
        return cache._replace(horizontal=horizontal, feature=h)

    def _next_row(self, cache: PixelCache, row: Array, context: PixelContext) -> PixelCache:
        """Run the vertical stack for a new row, from the band of rows above it."""
        reach = self.kernel // 2
        started = row > 0
        finished = cache.row[:, None, reach:]
        above = jnp.concatenate([cache.above, finished], axis=1)[:, 1:]
        above = jnp.where(started, above, cache.above)
        told = context.above
        if told is not None:
            told = jax.lax.dynamic_slice_in_dim(told, row, 1, axis=1)

        def wide(x: Array) -> Array:
            return jnp.pad(x, ((0, 0), (0, 0), (reach, reach), (0, 0)))

        def vertical(own: Mapping[str, Array], window: Array, bias: Array | None) -> tuple:
            pre = self._conv(wide(window), own["vertical"])
            return self._vertical(own, pre, bias, told), pre[:, 0]

        biases = context.label
        first = jax.tree.map(lambda p: p[0], self.first)
        v, gates = vertical(first, above, None if biases is None else biases[0])

        def layer(v: Array, inputs: tuple) -> tuple[Array, tuple[Array, Array]]:
            own, band, bias = inputs
            window = jnp.concatenate([band, v], axis=1)
            v, gates = vertical(own, window, bias)
            return v, (gates, window[:, 1:])

        rest = None if biases is None else biases[1:]
        _, (later, bands) = jax.lax.scan(layer, v, (self.later, cache.vertical, rest))
        return cache._replace(
            above=above,
            vertical=bands,
            gates=jnp.concatenate([gates[None], later]),
            row=jnp.zeros_like(cache.row),
            horizontal=jnp.zeros_like(cache.horizontal),
        )

    def _conv(self, x: Array, kernel: Array) -> Float[Array, "batch height width channels"]:
        return jax.lax.platform_dependent(
            x, kernel.astype(self.dtype), cpu=_by_taps, default=_convolve
        )

    def _vertical(
        self, own: Mapping[str, Array], pre: Array, bias: Array | None, above: Array | None
    ) -> Float[Array, "batch height width channels"]:
        """Gate the vertical stack: tanh(a) sigmoid(b) (Eq. 2 and 4)."""
        pre = pre + own["vertical_bias"].astype(self.dtype)[None, None, None]
        half = 2 * self.width
        if bias is not None:
            pre = pre + bias[:, None, None, :half]
        if above is not None:
            pre = pre + above @ own["above"][:, :half].astype(self.dtype)
        return _gate(pre)

    def _gates(
        self, own: Mapping[str, Array], pre_v: Array, pre_h: Array, bias: Array | None,
        above: Array | None, vertical_done: bool = False,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Gate both stacks; the horizontal sees the vertical before its gate."""
        v = pre_v if vertical_done else self._vertical(own, pre_v, bias, above)
        pre = pre_h + self._conv(pre_v, own["link"])
        pre = pre + own["horizontal_bias"].astype(self.dtype)[None, None, None]
        half = 2 * self.width
        if bias is not None:
            pre = pre + bias[:, None, None, half:]
        if above is not None:
            pre = pre + above @ own["above"][:, half:].astype(self.dtype)
        return v, _gate(pre)

    def _drop(self, x: Array, keys: Keys | None, layer: Array) -> Array:
        if keys is None or self.dropout == 0.0:
            return x
        return drop(x, rng.fold_in(keys, layer), self.dropout)


def _gate(pre: Array) -> Array:
    a, b = jnp.split(pre, 2, axis=-1)
    return jnp.tanh(a) * jax.nn.sigmoid(b)


def _convolve(
    x: Float[Array, "batch rows columns in"], kernel: Float[Array, "down across in out"]
) -> Float[Array, "batch fewer_rows fewer_columns out"]:
    """Convolve without padding."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _by_taps(
    x: Float[Array, "batch rows columns in"], kernel: Float[Array, "down across in out"]
) -> Float[Array, "batch fewer_rows fewer_columns out"]:
    """Convolve by one matrix product from all neighbourhoods.

    On CPU the gradient of such a convolution takes ten to fifty times as long as this one's.
    """
    down, across = kernel.shape[:2]
    rows, columns = x.shape[1] - down + 1, x.shape[2] - across + 1
    taps = [
        x[:, row : row + rows, column : column + columns]
        for row in range(down)
        for column in range(across)
    ]
    around = taps[0] if len(taps) == 1 else jnp.concatenate(taps, axis=-1)
    return around @ kernel.reshape(-1, kernel.shape[-1])
