"""Attention, normalization and convolution, each in the form that its platform runs fastest.

The numbers are the same within rounding, and so are derivatives of all orders, forward and reverse.
The platform is that of JAX's default device, or what :func:`target` says, for who plans for another
machine. What was measured stands in ``experiments/performance``.

On a CPU, XLA's attention for [batch, positions, heads, dim] transposes where it need not, its
weight gradient of a wide 3x3 convolution runs at half of what nine matrix products do, a 1x1
convolution is slower than the product that it is, and a depthwise one costs as much as a dense one.
On GPUs attention in half precision is cuDNN's fused kernel, and where there is none its gradient's
products are in half precision, of which XLA's are not. Everywhere else XLA's forms are left alone.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.extend
import jax.extend.backend
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad, batching, mlir

from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Bool, Float

__all__ = [
    "PRODUCTS",
    "Conv",
    "GroupNorm",
    "attention",
    "convolve",
    "depthwise",
    "doubled",
    "platform",
    "target",
]

# From so many input channels on, nine products of shifted images beat XLA's own weight gradient.
_TAPS_FROM = 256

_TARGET: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


def platform() -> str:
    """Return the platform that programs are traced for: ``"cpu"``, ``"gpu"`` or ``"tpu"``."""
    if (chosen := _TARGET.get()) is not None:
        return chosen
    device = jax.config.jax_default_device
    return getattr(device, "platform", device) or jax.default_backend()


@contextlib.contextmanager
def target(name: str) -> Iterator[None]:
    """Trace programs for a platform that is not the one at hand.

    Example:
        >>> with target("tpu"):
        ...     jaxpr = jax.make_jaxpr(step)(state, batch)
    """
    token = _TARGET.set(name)
    try:
        yield
    finally:
        _TARGET.reset(token)


# --- products with transposes of their own -------------------------------------------------------

Product = Callable[[Array, Array], Array]
PRODUCTS = ("product_of_heads", "product_of_images")
"""Names of the primitives that are matrix products or convolutions."""


def _product(
    name: str,
    apply: Callable[..., Array],
    left: Callable[..., Array],
    right: Callable[..., Array],
) -> Callable[..., Array]:
    """Make a bilinear map whose transposes are chosen by hand.

    A primitive, because ``custom_vjp`` knows no forward mode, and both are needed: reverse for
    training, forward for the divergence of a flow.

    Args:
        name: of the primitive.
        apply: ``(x, y, **static) -> z``, with JAX's own operations.
        left: ``(dz, x's shape, y, **static) -> dx``.
        right: ``(dz, x, y's shape, **static) -> dy``.
    """
    primitive = jax.extend.core.Primitive(name)

    def plain(x: Array, y: Array, *, jaxpr: Any, static: Any) -> Array:
        del jaxpr
        return apply(x, y, **dict(static))

    def bind(x: Array, y: Array, **static: Any) -> Array:
        # The plain form goes along, for who counts operations.
        jaxpr = jax.make_jaxpr(functools.partial(apply, **static))(x, y)
        return primitive.bind(x, y, jaxpr=jaxpr, static=tuple(static.items()))

    def transposed_left(dz: Array, x: Any, y: Array, *, jaxpr: Any, static: Any) -> Array:
        del jaxpr
        return left(dz, x.aval, y, **dict(static)).astype(x.aval.dtype)

    def transposed_right(dz: Array, x: Array, y: Any, *, jaxpr: Any, static: Any) -> Array:
        del jaxpr
        return right(dz, x, y.aval, **dict(static)).astype(y.aval.dtype)

    def batched(
        arguments: Sequence[Array], axes: Sequence[Any], **params: Any
    ) -> tuple[Array, int]:
        return jax.vmap(functools.partial(plain, **params), tuple(axes))(*arguments), 0

    primitive.def_impl(jax.jit(plain, static_argnames=("jaxpr", "static")))
    primitive.def_abstract_eval(lambda x, y, *, jaxpr, static: jaxpr.out_avals[0])
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    batching.primitive_batchers[primitive] = batched
    ad.defbilinear(primitive, transposed_left, transposed_right)
    return bind


# Contracting the second-to-last axes of both into [.., S, D] takes three times as long as into
# [.., D, S], since the larger one is then the one that is transposed.
def _over_positions(scores: Array, x: Array) -> Array:
    return jnp.swapaxes(jnp.einsum("bhtd,bhts->bhds", x, scores), 2, 3)


_of_heads: Callable[..., Array]


def _heads(x: Array, y: Array, *, scores: bool) -> Array:
    """Compute scores of queries and keys, or averages of values.

    Scores are in float32 also of half precision, in which their differences would be lost.
    """
    if not scores:
        return jnp.einsum("bhts,bhsd->bhtd", x, y)
    return jnp.einsum("bhtd,bhsd->bhts", x, y, preferred_element_type=jnp.float32)


# Gradients of scores are rounded to what they are multiplied with: products of float32 and half
# precision would be made in float32.
_of_heads = _product(
    "product_of_heads",
    _heads,
    lambda dz, x, y, *, scores: _of_heads(dz.astype(y.dtype), y, scores=not scores),
    lambda dz, x, y, *, scores: (
        _over_positions(dz.astype(x.dtype), x) if scores else _over_positions(x, dz.astype(x.dtype))
    ),
)


_NHWC = ("NHWC", "HWIO", "NHWC")

# Strides, padding, and dilations of the image and of the kernel, along height and width.
Window = tuple[tuple[int, ...], tuple[tuple[int, int], ...], tuple[int, ...], tuple[int, ...]]

_of_images: Callable[..., Array]


def _image_product(x: Array, y: Array, *, window: Window) -> Array:
    strides, padding, image_dilation, kernel_dilation = window
    return lax.conv_general_dilated(
        x, y, strides, padding, image_dilation, kernel_dilation, dimension_numbers=_NHWC
    )


def _dilated(size: int, dilation: int) -> int:
    return (size - 1) * dilation + 1


def _image_gradient(dz: Array, x: Any, y: Array, *, window: Window) -> Array:
    """Convolve with the kernel turned around, written as a convolution as any other."""
    strides, padding, image_dilation, kernel_dilation = window
    pads = []
    for axis in (0, 1):
        image = _dilated(x.shape[1 + axis], image_dilation[axis])
        kernel = _dilated(y.shape[axis], kernel_dilation[axis])
        before = kernel - padding[axis][0] - 1
        out = _dilated(dz.shape[1 + axis], strides[axis])
        pads.append((before, image + kernel - 1 - out - before))
    turned = jnp.swapaxes(y[::-1, ::-1], 2, 3)
    return _of_images(dz, turned, window=(image_dilation, tuple(pads), strides, kernel_dilation))


def _kernel_gradient(dz: Array, x: Array, y: Any, *, window: Window) -> Array:
    """Convolve the images with the output's gradient, channels for examples."""
    strides, padding, image_dilation, kernel_dilation = window
    same = (strides, padding, image_dilation, kernel_dilation) == _SAME_3X3
    if same and y.shape[:2] == (3, 3) and x.shape[-1] >= _TAPS_FROM:
        return _by_taps(dz, x, y)
    pads = []
    for axis in (0, 1):
        image = _dilated(x.shape[1 + axis], image_dilation[axis])
        kernel = _dilated(y.shape[axis], kernel_dilation[axis])
        out = _dilated(dz.shape[1 + axis], strides[axis])
        before = padding[axis][0]
        pads.append((before, out - image + kernel - before - 1))
    by_channel, by_place = jnp.transpose(x, (3, 1, 2, 0)), jnp.transpose(dz, (1, 2, 0, 3))
    made = _of_images(
        by_channel, by_place, window=(kernel_dilation, tuple(pads), image_dilation, strides)
    )
    return jnp.transpose(made, (1, 2, 0, 3))


_SAME_3X3: Window = ((1, 1), ((1, 1), (1, 1)), (1, 1), (1, 1))


def _by_taps(dz: Array, x: Array, kernel: Any) -> Array:
    """Make a 3x3 kernel's gradient as nine products of a shifted image and the output's gradient.

    One after another: all nine copies at once would be most of what training keeps in memory.
    """
    _, height, width, channels = x.shape
    around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    flat = jnp.reshape(dz, (-1, dz.shape[-1]))
    taps: list[Array] = []
    for row in range(3):
        for column in range(3):
            if taps:
                around, taps[-1] = lax.optimization_barrier((around, taps[-1]))
            shifted = around[:, row : row + height, column : column + width]
            taps.append(jnp.reshape(shifted, (-1, channels)).T @ flat)
    return jnp.reshape(jnp.stack(taps), kernel.shape)


# Of loops and branches XLA leaves convolutions as they are written, and on a CPU only one way of
# writing them is fast: examples first, channels last, and no other order of dimensions. Gradients
# as JAX writes them have others, and take ten times as long there.
_of_images = _product("product_of_images", _image_product, _image_gradient, _kernel_gradient)


# --- attention -----------------------------------------------------------------------------------


@checked
def attention(
    query: Float[Array, "batch queries heads dim"],
    key: Float[Array, "batch keys heads dim"],
    value: Float[Array, "batch keys heads dim"],
    *,
    is_causal: bool = False,
    mask: Bool[Array, "batch keys"] | Bool[Array, "any some keys"] | None = None,
) -> Float[Array, "batch queries heads dim"]:
    """Compute softmax(Q K^T / sqrt(dim)) V for each head (Vaswani et al. 2017, Eq. 1).

    Args:
        query: what looks.
        key: what it is compared with.
        value: what is averaged.
        is_causal: whether a position looks at itself and those before it alone.
        mask: which keys are looked at, one or more of each example: by all queries, or by each,
            of each example or of all alike; None for all.
    """
    kind, half = platform(), _is_half(query, key, value)
    if mask is not None:
        seen = mask[:, None, None] if mask.ndim == 2 else mask[:, None]
        if half or kind == "cpu":
            return _heads_first(query, key, value, is_causal, seen)
        return jax.nn.dot_product_attention(query, key, value, mask=seen, is_causal=is_causal)
    if half and kind in ("gpu", "cuda") and _has_cudnn() and _fits_cudnn(query, key):
        # A program that is traced beside a GPU may still be run on a CPU.
        return lax.platform_dependent(
            query,
            key,
            value,
            cuda=functools.partial(
                jax.nn.dot_product_attention, is_causal=is_causal, implementation="cudnn"
            ),
            default=functools.partial(_heads_first, is_causal=is_causal),
        )
    if half or kind == "cpu":
        return _heads_first(query, key, value, is_causal)
    return jax.nn.dot_product_attention(query, key, value, is_causal=is_causal)


def _is_half(*arrays: Array) -> bool:
    return all(x.dtype in (jnp.bfloat16, jnp.float16) for x in arrays)


def _has_cudnn() -> bool:
    """Return whether the GPU at hand is one of NVIDIA's.

    JAX asks for the library already while it traces: who plans for a GPU elsewhere has none.
    """
    version = jax.extend.backend.get_backend().platform_version
    return jax.default_backend() == "gpu" and "rocm" not in version


def _fits_cudnn(query: Array, key: Array) -> bool:
    """Return whether cuDNN has a fused kernel for arrays of these shapes, in half precision.

    In training it takes even lengths alone.
    """
    dim = query.shape[-1]
    return all(x.shape[1] % 2 == 0 for x in (query, key)) and dim % 8 == 0 and dim <= 128


def _heads_first(
    query: Array, key: Array, value: Array, is_causal: bool, mask: Array | None = None
) -> Array:
    dim, dtype = query.shape[-1], query.dtype
    scale, half = dim**-0.5, _is_half(query)
    if not half:  # fewer numbers than the scores; but half precision would lose digits
        query = query * scale
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    logits = _of_heads(query, key, scores=True)
    if half:
        logits = logits * scale
    if is_causal:
        past = jnp.arange(logits.shape[2])[:, None] >= jnp.arange(logits.shape[3])[None]
        logits = jnp.where(past[None, None], logits, -jnp.inf)
    if mask is not None:
        logits = jnp.where(mask, logits, -jnp.inf)
    largest = lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    shares = jnp.exp(logits - largest)
    # Divided by their sums after the product: of it there is less.
    total = jnp.sum(shares, axis=-1, keepdims=True)
    mean = _of_heads(shares.astype(dtype), value, scores=False) / total
    return jnp.swapaxes(mean.astype(dtype), 1, 2)


# --- normalization -------------------------------------------------------------------------------


class GroupNorm(nn.GroupNorm):
    """Group normalization (Wu & He 2018), with variances in two passes and in float32.

    Linen's, but that on a CPU sums are over positions first, channel by channel, and over a group's
    channels then.
    """

    use_fast_variance: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *dims channels"], *, mask: Array | None = None
    ) -> Array:
        """Normalize each example's groups to mean 0 and variance 1, scale and shift channels."""
        if platform() != "cpu" or self.num_groups is None or mask is not None:
            return super().__call__(x, mask=mask)
        batch, channels, num = len(x), x.shape[-1], self.num_groups
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        p = jnp.reshape(x, (batch, -1, channels)).astype(jnp.float32)

        def mean(p: Array) -> Array:
            sums = jnp.reshape(jnp.sum(p, axis=1), (batch, num, -1))
            means = jnp.sum(sums, axis=-1) / (p.shape[1] * sums.shape[-1])
            return jnp.repeat(means, channels // num, axis=1)[:, None]

        centered = p - mean(p)
        factor = lax.rsqrt(mean(jnp.square(centered)) + self.epsilon) * scale[None, None]
        made = jnp.reshape(centered * factor + bias[None, None], x.shape)
        return made.astype(self.dtype or x.dtype)


# --- convolution, channels last ------------------------------------------------------------------


def convolve(
    x: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: Any,
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    **options: Any,
) -> Array:
    """Convolve as ``lax.conv_general_dilated``, which Linen would call."""
    dilated = any(d != 1 for dilation in (lhs_dilation, rhs_dilation) for d in dilation or ())
    plain, dense = kernel.ndim == 4 and not dilated, feature_group_count == 1
    size = kernel.shape[:2]
    if plain and platform() == "cpu":
        same = all(s == 1 for s in strides) and _is_same(padding, size)
        if dense and same and size == (1, 1):
            flat = jnp.reshape(x, (-1, x.shape[-1])) @ kernel[0, 0]
            return jnp.reshape(flat, (*x.shape[:-1], kernel.shape[-1]))
        if dense and same and x.shape[1] * x.shape[2] <= _FEW:
            return _by_columns(x, kernel)
        if dense:
            return _of_images(x, kernel, window=_window(x, size, strides, padding))
        if same and feature_group_count == x.shape[-1] == kernel.shape[-1]:
            return depthwise(x, kernel)
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers,
        feature_group_count,
        **options,
    )


# Pixels of an image that is smaller than its kernel: XLA's own routine takes seventy times as long
# on a CPU as one product (512 channels, 2x2 pixels: 0.50 s and 0.007 s).
_FEW = 4


def _by_columns(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns channels out"],
) -> Float[Array, "batch height width out"]:
    """Convolve as one product of all neighborhoods; an odd kernel, of which the size stays."""
    rows, columns = kernel.shape[:2]
    height, width = x.shape[1:3]
    around = jnp.pad(x, ((0, 0), (rows // 2,) * 2, (columns // 2,) * 2, (0, 0)))
    parts = [
        around[:, row : row + height, column : column + width]
        for row in range(rows)
        for column in range(columns)
    ]
    flat = jnp.reshape(jnp.concatenate(parts, axis=-1), (-1, rows * columns * x.shape[-1]))
    made = flat @ jnp.reshape(kernel, (-1, kernel.shape[-1]))
    return jnp.reshape(made, (*x.shape[:-1], kernel.shape[-1]))


def _window(x: Array, size: Sequence[int], strides: Sequence[int], padding: Any) -> Window:
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], size, strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    return tuple(strides), pads, (1, 1), (1, 1)


def _is_same(padding: Any, size: Sequence[int]) -> bool:
    """Return whether odd kernels leave height and width as they are."""
    if any(side % 2 == 0 for side in size):
        return False
    return padding == "SAME" or tuple(map(tuple, padding)) == tuple((s // 2, s // 2) for s in size)


@checked
def depthwise(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "rows columns one channels"],
) -> Float[Array, "batch height width channels"]:
    """Convolve each channel by itself with an odd kernel, as a sum of shifted images."""
    rows, columns = kernel.shape[:2]
    height, width = x.shape[1:3]
    pads = ((0, 0), (rows // 2, rows // 2), (columns // 2, columns // 2), (0, 0))
    around, total = jnp.pad(x, pads), jnp.zeros((), x.dtype)
    for row in range(rows):
        for column in range(columns):
            part = around[:, row : row + height, column : column + width]
            total = total + part * kernel[row, column, 0][None, None, None]
    return total


@checked
def doubled(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "two two channels two two out"],
) -> Float[Array, "batch double_height double_width out"]:
    """Convolve with the transpose of a 4x4 convolution of stride 2.

    Written as what makes each of the four phases of the output of 2x2 neighborhoods of the input:
    of the dilated convolution that XLA makes of a transposed one the gradient takes ten times as
    long on a CPU.

    Args:
        x: images.
        kernel: of neighborhoods' rows and columns, and of phases' rows and columns.
    """
    batch, height, width, channels = x.shape
    kernel = kernel.astype(x.dtype)
    if platform() == "cpu":

        def phase(a: int, b: int) -> Array:
            # An even row of the output lies between its own input row and the one above, an odd row
            # between its own and the one below; likewise columns.
            pads = ((1 - a, a), (1 - b, b))
            return _of_images(x, kernel[:, :, :, a, b], window=((1, 1), pads, (1, 1), (1, 1)))

        rows = [jnp.stack([phase(a, b) for b in (0, 1)], axis=3) for a in (0, 1)]
    else:  # all phases of all neighborhoods, as one product
        around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        corners = [around[:, a : a + height + 1, b : b + width + 1] for a in (0, 1) for b in (0, 1)]
        h = jnp.concatenate(corners, axis=-1) @ jnp.reshape(kernel, (4 * channels, -1))
        h = jnp.reshape(h, (batch, height + 1, width + 1, 2, 2, -1))
        rows = [
            jnp.stack([h[:, a : a + height, b : b + width, a, b] for b in (0, 1)], axis=3)
            for a in (0, 1)
        ]
    return jnp.reshape(jnp.stack(rows, axis=2), (batch, 2 * height, 2 * width, -1))


Conv = functools.partial(nn.Conv, conv_general_dilated=convolve)
"""Linen's convolution, by :func:`convolve`."""
