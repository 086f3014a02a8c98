"""Networks of normalizing flows, and the flows that papers make of them."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from gen_jax.nn import lowering
from gen_jax.nn.blocks import check_label
from gen_jax.nn.geometry import flow_faults
from gen_jax.nn.transformer import Block, CausalTransformer
from gen_jax.ops import bijectors
from gen_jax.ops.bijectors import Autoregression, Bijector, Conditioner, Told
from gen_jax.typing import Array, DTypeLike, Float, Int, PyTree, ScalarLike

__all__ = [
    "MLP",
    "CausalRegressor",
    "ConvNet",
    "ResNet",
    "ViT",
    "causal",
    "conditioner",
    "dequantizer",
    "glow",
    "jet",
    "realnvp",
    "spline_flow",
    "tarflow",
]

_ZEROS = nn.initializers.zeros


def conditioner(make: Callable[[int], nn.Module]) -> Conditioner:
    """Make a coupling's network of Linen modules ``(x, label) -> [..., num]``.

    Args:
        make: from the number of outputs to the module. One whose outputs begin at zero makes a
            coupling begin as the identity, or nearly so.
    """

    def init(key: Array, kept: Array, num: int, told: Told) -> PyTree:
        label = told.get("label")
        label = None if label is None else label[:1]
        return make(num).init(key, kept[:1], label)["params"]

    def apply(params: PyTree, kept: Array, num: int, told: Told) -> Array:
        made = make(num).apply({"params": params}, kept, told.get("label"))
        assert isinstance(made, Array)
        return made

    return Conditioner(init, apply)


class _Labeled(nn.Module):
    """A layer's outputs, and a vector for each class, the number itself standing for none."""

    num_classes: int | None

    @nn.compact
    def __call__(self, h: Array, label: Array | None) -> Array:
        check_label(label, self.num_classes)
        if self.num_classes is None:
            return h
        embed = nn.Embed(self.num_classes + 1, h.shape[-1], dtype=h.dtype, name="label")
        vector = embed(label)
        return h + jnp.reshape(vector, (len(h), *(1 for _ in h.shape[1:-1]), -1))


def dequantizer(shape: tuple[int, int, int], steps: int = 4, width: int = 32) -> Bijector:
    """Make a flow of noise that is told ``image``: where in its gray level each pixel lies.

    Variational dequantization (Ho et al. 2019, section 3.1): couplings with checkerboards, whose
    networks see the image beside the noise.

    Args:
        shape: of an image.
        steps: couplings, one ``lax.scan``.
        width: channels of their networks.
    """

    def network(num: int) -> nn.Module:
        return ConvNet(num, width)

    def beside(kept: Array, told: Told) -> Array:
        return jnp.concatenate([kept, told["image"]], axis=-1)

    def init(key: Array, kept: Array, num: int, told: Told) -> PyTree:
        return network(num).init(key, beside(kept, told)[:1])["params"]

    def apply(params: PyTree, kept: Array, num: int, told: Told) -> Array:
        made = network(num).apply({"params": params}, beside(kept, told))
        assert isinstance(made, Array)
        return made

    net = Conditioner(init, apply)
    masks = _checkerboards(*shape[:2])

    def step(index: Array) -> Bijector:
        masked = bijectors.coupling(net, bijectors.affine(bound=2.0), masks[index % 2])
        return bijectors.chain(masked, bijectors.actnorm())

    return bijectors.repeated(step, steps)


def _checkerboards(height: int, width: int) -> Float[Array, "two height width one"]:
    rows, columns = np.indices((height, width))
    even = ((rows + columns) % 2 == 0).astype(np.float32)[..., None]
    return jnp.asarray(np.stack([even, 1 - even]))


class MLP(nn.Module):
    """Dense layers, of vectors.

    Attributes:
        outputs: their number.
        widths: of the hidden layers.
        num_classes: labels; None for none.
    """

    outputs: int
    widths: Sequence[int] = (64, 64)
    num_classes: int | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch dims"], label: Int[Array, "batch"] | None = None
    ) -> Float[Array, "batch outputs"]:
        h = x
        for number, width in enumerate(self.widths):
            h = nn.Dense(width, name=f"dense_{number}")(h)
            h = _Labeled(self.num_classes, name="labeled")(h, label) if number == 0 else h
            h = nn.silu(h)
        return nn.Dense(self.outputs, kernel_init=_ZEROS, name="out")(h)


class ConvNet(nn.Module):
    """Glow's network: 3x3, 1x1 and 3x3 convolutions (Kingma & Dhariwal 2018, section 5).

    Attributes:
        outputs: channels of the result, which begins at zero.
        width: channels between.
        num_classes: labels; None for none.
        dtype: of the computation but of the last layer's.
    """

    outputs: int
    width: int = 64
    num_classes: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        label: Int[Array, "batch"] | None = None,
    ) -> Float[Array, "batch height width outputs"]:
        conv = functools.partial(lowering.Conv, dtype=self.dtype)
        h = conv(self.width, (3, 3), name="conv_0")(x.astype(self.dtype))
        h = nn.relu(_Labeled(self.num_classes, name="labeled")(h, label))
        h = nn.relu(conv(self.width, (1, 1), name="conv_1")(h)).astype(jnp.float32)
        return lowering.Conv(self.outputs, (3, 3), kernel_init=_ZEROS, name="out")(h)


class ResNet(nn.Module):
    """RealNVP's network: residual blocks of 3x3 convolutions (Dinh et al. 2017, section 3.5).

    Where the paper normalizes over batches there is a normalization over each example: density and
    sample of one do not depend on others.

    Attributes:
        outputs: channels of the result, which begins at zero.
        width: channels between.
        num_blocks: residual blocks.
        groups: of the normalizations.
        num_classes: labels; None for none.
        dtype: of the computation but of the last layer's.
    """

    outputs: int
    width: int = 32
    num_blocks: int = 2
    groups: int = 8
    num_classes: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        label: Int[Array, "batch"] | None = None,
    ) -> Float[Array, "batch height width outputs"]:
        conv = functools.partial(lowering.Conv, self.width, (3, 3), dtype=self.dtype)
        norm = functools.partial(lowering.GroupNorm, self.groups, dtype=self.dtype)
        h = conv(name="conv_in")(x.astype(self.dtype))
        h = _Labeled(self.num_classes, name="labeled")(h, label)
        for number in range(self.num_blocks):
            inner = conv(name=f"conv_{number}_0")(nn.relu(norm(name=f"norm_{number}_0")(h)))
            inner = nn.relu(norm(name=f"norm_{number}_1")(inner))
            h = h + conv(name=f"conv_{number}_1")(inner)
        h = nn.relu(norm(name="norm_out")(h)).astype(jnp.float32)
        return lowering.Conv(self.outputs, (1, 1), kernel_init=_ZEROS, name="out")(h)


class ViT(nn.Module):
    """Jet's network: a transformer over tokens (Kolesnikov et al. 2024, section 3.1).

    Attributes:
        outputs: numbers for each token, which begin at zero.
        width: of the residual stream.
        depth: layers, one ``lax.scan``.
        num_heads: heads of each attention layer.
        num_classes: labels; None for none.
        dtype: of the computation but of the last layer's.
    """

    outputs: int
    width: int = 64
    depth: int = 2
    num_heads: int = 2
    num_classes: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length channels"],
        label: Int[Array, "batch"] | None = None,
    ) -> Float[Array, "batch length outputs"]:
        positions = self.param("positions", nn.initializers.normal(0.02), (x.shape[1], self.width))
        h = nn.Dense(self.width, dtype=self.dtype, name="inputs")(x)
        h = h + positions[None].astype(self.dtype)
        h = _Labeled(self.num_classes, name="labeled")(h, label)
        layers = nn.scan(
            Block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=self.depth,
        )
        blocks = layers(self.num_heads, 4, 0.0, self.depth, self.dtype, False, name="blocks")
        h, _ = blocks(h, jnp.arange(self.depth), None, None)
        h = nn.LayerNorm(use_fast_variance=False, name="norm_out")(h.astype(jnp.float32))
        return nn.Dense(self.outputs, kernel_init=_ZEROS, name="out")(h)


class CausalRegressor(CausalTransformer):
    """The causal transformer over tokens that are vectors, of ``num_inputs`` numbers each.

    ``num_categories`` is the number of outputs, which begin at zero. The class is added to each
    token, as in TarFlow, and stands before the first.
    """

    num_inputs: int = 1

    def embedding(self) -> nn.Module:
        """Make the layer that takes a token."""
        return nn.Dense(self.width, dtype=self.dtype)

    def head(self) -> nn.Module:
        """Make the layer that gives numbers."""
        return nn.Dense(self.num_categories, kernel_init=_ZEROS, dtype=jnp.float32)

    def given(
        self, batch: int, label: Array | None, above: Sequence[Array]
    ) -> tuple[Float[Array, "batch width"], Float[Array, "batch tokens width"] | None]:
        """Make what stands before the first token, and what is added to each."""
        start, _ = super().given(batch, label, above)
        if self.num_classes is None:
            return start, None
        return start, jnp.repeat(start[:, None], self.length, axis=1)


def causal(network: CausalRegressor) -> Autoregression:
    """Make an autoregressive flow's network of a causal transformer.

    ``told["label"]`` stands before the first token. With ``told["guidance"]`` what the label makes
    of the numbers is multiplied by it, as in classifier-free guidance; the last label is none.
    """

    def with_and_without(told: Told) -> tuple[Array | None, ScalarLike | None]:
        label, guidance = told.get("label"), told.get("guidance")
        if guidance is None or label is None:
            return label, None
        assert network.num_classes is not None
        return jnp.concatenate([label, jnp.full_like(label, network.num_classes)]), guidance

    def twice(x: Array, guidance: ScalarLike | None) -> Array:
        return x if guidance is None else jnp.concatenate([x, x])

    def guided(raw: Array, guidance: ScalarLike | None) -> Array:
        if guidance is None:
            return raw
        with_label, without = jnp.split(raw, 2)
        return without + guidance * (with_label - without)

    def init(key: Array, x: Array, told: Told) -> PyTree:
        label = told.get("label")
        label = None if label is None else label[:1]
        return network.init(key, x[:1], label)["params"]

    def apply(params: PyTree, x: Array, told: Told) -> Array:
        label, guidance = with_and_without(told)
        raw = network.apply({"params": params}, twice(x, guidance), label)
        assert isinstance(raw, Array)
        return guided(raw, guidance)

    def begin(params: PyTree, batch: int, told: Told) -> PyTree:
        label, guidance = with_and_without(told)
        rows = batch if guidance is None else 2 * batch
        context = network.apply({"params": params}, rows, label, method="context")
        return network.empty_cache(rows), context

    def step(
        params: PyTree, state: PyTree, token: Array, index: Array, told: Told
    ) -> tuple[Array, PyTree]:
        cache, context = state
        _, guidance = with_and_without(told)
        raw, cache = network.apply(
            {"params": params}, cache, twice(token, guidance), index, context, method="decode"
        )
        return guided(raw, guidance), (cache, context)

    return Autoregression(init, apply, begin, step)


def _row(starts: bijectors.Rotation, index: Array) -> bijectors.Rotation:
    """Take one of several rotations."""
    return bijectors.Rotation(*(jnp.asarray(part)[index] for part in starts))


def glow(
    shape: tuple[int, int, int],
    levels: int = 2,
    steps: int = 8,
    width: int = 64,
    num_classes: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Bijector:
    """Make Glow (Kingma & Dhariwal 2018): actnorm, 1x1 convolution and coupling, again and again.

    Between the levels half of the channels is let go, once a convolution has scaled and shifted it
    by what stays: the learned prior of the authors' code.

    Args:
        shape: of an image; ``levels`` times the sides must be even.
        levels: resolutions.
        steps: of each level, one ``lax.scan``.
        width: channels of the couplings' networks.
        num_classes: labels; None for none.
        dtype: of the networks.
    """
    _check(shape, levels=levels)
    net = conditioner(lambda num: ConvNet(num, width, num_classes, dtype))
    prior = conditioner(_OneConv)

    def level(number: int, channels: int) -> Bijector:
        starts = bijectors.rotations(steps, channels, seed=number)

        def step(index: Array) -> Bijector:
            return bijectors.chain(
                bijectors.actnorm(),
                bijectors.linear(_row(starts, index)),
                bijectors.coupling(net, bijectors.affine(bound=3.0)),
            )

        return bijectors.chain(bijectors.squeeze(), bijectors.repeated(step, steps))

    made: Bijector | None = None
    for number in reversed(range(levels)):
        own = level(number, 4 * shape[2] * 2**number)
        if made is not None:
            learned = bijectors.coupling(prior, bijectors.affine())
            own = bijectors.chain(own, learned, bijectors.split(made))
        made = own
    assert made is not None
    return made


class _OneConv(nn.Module):
    """One convolution that begins at zero."""

    outputs: int

    @nn.compact
    def __call__(self, x: Array, label: Array | None = None) -> Array:
        del label
        return lowering.Conv(self.outputs, (3, 3), kernel_init=_ZEROS, name="out")(x)


def realnvp(
    shape: tuple[int, int, int],
    levels: int = 2,
    width: int = 32,
    num_blocks: int = 2,
    num_classes: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Bijector:
    """Make RealNVP (Dinh et al. 2017): of logits, checkerboards and channels in turn.

    A level is three couplings with checkerboards, a squeeze, three with halves of the channels, and
    half of the channels let go; the last level is four with checkerboards. Actnorm stands behind
    each, where the paper normalizes over batches.

    Args:
        shape: of an image; ``levels - 1`` times the sides must be even.
        levels: resolutions.
        width: channels of the couplings' residual networks, a multiple of 8.
        num_blocks: residual blocks of each.
        num_classes: labels; None for none.
        dtype: of the networks.
    """
    _check(shape, levels=levels - 1)
    net = conditioner(
        lambda num: ResNet(num, width, num_blocks, math.gcd(8, width), num_classes, dtype)
    )
    transform = bijectors.affine(bound=2.0)

    def checkered(height: int, wide: int, num: int) -> Bijector:
        masks = _checkerboards(height, wide)

        def step(index: Array) -> Bijector:
            masked = bijectors.coupling(net, transform, masks[index % 2])
            return bijectors.chain(masked, bijectors.actnorm())

        return bijectors.repeated(step, num)

    def by_channel(channels: int) -> Bijector:
        turned = bijectors.permutation(range(channels)[::-1])

        def step(index: Array) -> Bijector:
            del index
            return bijectors.chain(bijectors.coupling(net, transform), bijectors.actnorm(), turned)

        return bijectors.repeated(step, 3)

    height, wide, channels = shape
    sizes = [(height // 2**i, wide // 2**i, channels * 2**i) for i in range(levels)]
    made = checkered(*sizes[-1][:2], 4)
    for height, wide, channels in reversed(sizes[:-1]):
        parts = checkered(height, wide, 3), bijectors.squeeze(), by_channel(4 * channels)
        made = bijectors.chain(*parts, bijectors.split(made))
    return bijectors.chain(bijectors.logit(), made)


def jet(
    shape: tuple[int, int, int],
    patch: int = 4,
    blocks: int = 3,
    width: int = 64,
    depth: int = 2,
    num_heads: int = 2,
    num_classes: int | None = None,
    dtype: DTypeLike = jnp.float32,
    *,
    channel_couplings: int = 4,
) -> Bijector:
    """Make Jet (Kolesnikov et al. 2024): couplings by transformers, and nothing else.

    Each block is ``channel_couplings`` couplings of a random half of each token's channels, and one
    of a random half of the tokens.

    Args:
        shape: of an image, whose sides ``patch`` divides.
        patch: side of a token.
        blocks: as above, one ``lax.scan``.
        width: of the transformers.
        depth: layers of each.
        num_heads: heads of each layer.
        num_classes: labels; None for none.
        dtype: of the networks.
        channel_couplings: for each coupling of tokens.
    """
    _check(shape, patch=patch, width=width, num_heads=num_heads, even_tokens=True)
    rows, columns = shape[0] // patch, shape[1] // patch
    length, channels = rows * columns, patch**2 * shape[2]
    net = conditioner(lambda num: ViT(num, width, depth, num_heads, num_classes, dtype))
    generator = np.random.default_rng(0)

    def orders(size: int, *num: int) -> Array:
        return jnp.asarray(generator.permuted(np.tile(np.arange(size), (*num, 1)), axis=-1))

    of_channels, of_tokens = orders(channels, blocks, channel_couplings), orders(length, blocks)

    def step(index: Array) -> Bijector:
        parts = []
        for number in range(channel_couplings):
            parts.append(bijectors.permutation(of_channels[index, number]))
            parts.append(bijectors.coupling(net, bijectors.affine()))
        parts.append(bijectors.permutation(of_tokens[index], axis=1))
        parts.append(bijectors.coupling(net, bijectors.affine(), axis=1))
        return bijectors.chain(*parts)

    return bijectors.chain(
        bijectors.squeeze(patch),
        bijectors.tokens(rows, columns),
        bijectors.repeated(step, blocks),
    )


def tarflow(
    shape: tuple[int, int, int],
    patch: int = 4,
    blocks: int = 4,
    width: int = 64,
    depth: int = 2,
    num_heads: int = 2,
    num_classes: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Bijector:
    """Make TarFlow (Zhai et al. 2024): causal transformers over patches, in turns of direction.

    Args:
        shape: of an image, whose sides ``patch`` divides.
        patch: side of a token.
        blocks: autoregressive maps, one ``lax.scan``.
        width: of each map's transformer.
        depth: layers of each.
        num_heads: heads of each layer.
        num_classes: labels, the number itself standing for none; None for none.
        dtype: of the networks.
    """
    _check(shape, patch=patch, width=width, num_heads=num_heads)
    rows, columns = shape[0] // patch, shape[1] // patch
    length, channels = rows * columns, patch**2 * shape[2]
    network = CausalRegressor(
        2 * channels,
        (length,),
        width,
        depth,
        num_heads,
        num_classes=num_classes,
        dtype=dtype,
        num_inputs=channels,
    )
    there = np.arange(length)
    orders = jnp.asarray(np.stack([there, *(there[::-1] for _ in range(blocks - 1))]))

    def step(index: Array) -> Bijector:
        return bijectors.chain(
            bijectors.permutation(orders[index], axis=1),
            bijectors.autoregressive(causal(network)),
        )

    return bijectors.chain(
        bijectors.squeeze(patch),
        bijectors.tokens(rows, columns),
        bijectors.repeated(step, blocks),
    )


def spline_flow(
    dims: int,
    layers: int = 8,
    widths: Sequence[int] = (64, 64),
    bins: int = 8,
    bound: float = 3.0,
    num_classes: int | None = None,
) -> Bijector:
    """Make a flow of vectors: couplings by rational-quadratic splines (Durkan et al. 2019).

    Args:
        dims: of a vector, from 2.
        layers: of scaling, rotation and coupling, one ``lax.scan``.
        widths: of the couplings' dense layers.
        bins: of each spline.
        bound: of each spline's interval.
        num_classes: labels; None for none.

    Example:
        >>> model = flow_model(spline_flow(2), (2,))
    """
    if dims < 2:
        raise ValueError(f"dims: got {dims}; at least 2 are required")
    starts = bijectors.rotations(layers, dims)
    net = conditioner(lambda num: MLP(num, widths, num_classes))

    def step(index: Array) -> Bijector:
        return bijectors.chain(
            bijectors.actnorm(),
            bijectors.linear(_row(starts, index)),
            bijectors.coupling(net, bijectors.rational_quadratic(bins, bound)),
        )

    return bijectors.repeated(step, layers)


def _check(shape: Sequence[int], **given: Any) -> None:
    if faults := flow_faults(resolution=shape[:2], **given):
        raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))
