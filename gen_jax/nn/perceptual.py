"""Pretrained networks as pure functions: perceptual distances and features of images.

Parameters are arguments, nested mappings of arrays, as
:func:`gen_jax.interop.pretrained.load_pretrained` gives them: as constants of a program they would
be folded for minutes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float, UInt8

__all__ = [
    "BLOCKS",
    "PERCEPTUAL",
    "Block",
    "alexnet",
    "as_rgb",
    "efficientnet_lite0",
    "lpips",
    "lpips_features",
    "vgg16",
]

Weights = Mapping[str, Any]
_NUMBERS = ("NHWC", "HWIO", "NHWC")

# Of the authors: what x from -1 to 1 is shifted and scaled by.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


def _along_channels(values: Any, dtype: Any = jnp.float32) -> Array:
    return jnp.asarray(values, dtype)[None, None, None]


def _conv(x: Array, weights: Weights, stride: int = 1, padding: Any = "SAME") -> Array:
    kernel = jnp.asarray(weights["kernel"], x.dtype)
    strides = (stride, stride)
    y = lowering.convolve(x, kernel, strides, padding, dimension_numbers=_NUMBERS)
    return y + _along_channels(weights["bias"], x.dtype)


def _pool(x: Array, size: int) -> Array:
    """Take the largest of size x size, at every second place."""
    window, strides = (1, size, size, 1), (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, "VALID")


@checked
def vgg16(weights: Weights, x: Float[Array, "batch height width 3"]) -> tuple[Array, ...]:
    """Return VGG16's features (Simonyan & Zisserman 2015), the last of each of its five levels.

    Each is [batch, rows, columns, channels].

    Args:
        weights: of the network.
        x: at least 16x16, normalized.
    """
    levels = []
    number = 0
    for level, depth in enumerate((2, 2, 3, 3, 3)):
        x = _pool(x, 2) if level else x
        for _ in range(depth):
            x = jax.nn.relu(_conv(x, weights[f"conv_{number}"]))
            number += 1
        levels.append(x)
    return tuple(levels)


@checked
def alexnet(weights: Weights, x: Float[Array, "batch height width 3"]) -> tuple[Array, ...]:
    """Return AlexNet's features (Krizhevsky 2014), of each of its five convolutions.

    Each is [batch, rows, columns, channels].

    Args:
        weights: of the network.
        x: at least 31x31, normalized.
    """
    levels = []
    # Stride, padding, and whether the largest of 3x3 come before.
    layers = ((4, 2, False), (1, 2, True), (1, 1, True), (1, 1, False), (1, 1, False))
    for number, (stride, padding, pooled) in enumerate(layers):
        x = _pool(x, 3) if pooled else x
        x = jax.nn.relu(_conv(x, weights[f"conv_{number}"], stride, [(padding, padding)] * 2))
        levels.append(x)
    return tuple(levels)


class _Network(NamedTuple):
    """Features by level, and the least side of an image."""

    features: Callable[[Weights, Array], tuple[Array, ...]]
    smallest: int


PERCEPTUAL: Mapping[str, _Network] = {
    "vgg16": _Network(vgg16, 16),
    "alexnet": _Network(alexnet, 31),
}
"""Networks of :func:`lpips` by name."""


@checked
def as_rgb(
    x: Float[Array, "batch height width channels"] | UInt8[Array, "batch height width channels"],
    low: float = -1.0,
) -> Float[Array, "batch height width 3"]:
    """Bring images to three channels from -1 to 1.

    Args:
        x: pixels as uint8, or numbers from ``low`` to 1. Of one channel three alike are made, of
            four the last, which is opacity, is left out.
        low: -1, or 0.

    Raises:
        ValueError: for another number of channels, or another ``low``.
    """
    if low not in (-1.0, 0.0):
        raise ValueError(f"low: got {low}; -1 or 0 is required")
    if x.shape[-1] not in (1, 3, 4):
        raise ValueError(f"x: got {x.shape[-1]} channels; 1, 3 or 4 are required")
    if x.dtype == jnp.uint8:
        x = x.astype(jnp.float32) / 127.5 - 1
    elif low == 0:
        x = 2 * x - 1
    return jnp.repeat(x, 3, axis=-1) if x.shape[-1] == 1 else x[..., :3]


@checked
def lpips_features(
    network: str,
    weights: Weights,
    x: Float[Array, "batch height width channels"] | UInt8[Array, "batch height width channels"],
    low: float = -1.0,
) -> tuple[Array, ...]:
    """Return a network's features of images, level by level, each of length 1 at each position.

    They are [batch, rows, columns, channels].

    Raises:
        ValueError: for another network, or images that are too small for it.
    """
    if network not in PERCEPTUAL:
        raise ValueError(f"network: got {network!r}; one of {', '.join(PERCEPTUAL)} is required")
    known = PERCEPTUAL[network]
    if min(x.shape[1:3]) < known.smallest:
        raise ValueError(
            f"x: got {x.shape[1]}x{x.shape[2]}; {network} takes {known.smallest} pixels or more"
        )
    x = (as_rgb(x, low) - _along_channels(_SHIFT)) / _along_channels(_SCALE)

    def unit(f: Array) -> Array:
        # Not f / (|f| + eps), whose gradient where f is 0 is not a number.
        return f * jax.lax.rsqrt(jnp.sum(jnp.square(f), axis=-1, keepdims=True) + 1e-20)

    return tuple(unit(f) for f in known.features(weights, x))


@checked
def lpips(
    network: str,
    weights: Weights,
    a: Float[Array, "batch height width channels"] | UInt8[Array, "batch height width channels"],
    b: Float[Array, "batch height width channels"] | UInt8[Array, "batch height width channels"],
    low: float = -1.0,
) -> Float[Array, "batch"]:
    """Compute the learned perceptual distance of images (Zhang et al. 2018, Eq. 1), version 0.1.

    Args:
        network: ``"vgg16"`` or ``"alexnet"``.
        weights: of it and its heads; see :func:`gen_jax.interop.pretrained.load_pretrained`.
        a: pixels as uint8, or numbers from ``low`` to 1.
        b: likewise.
        low: -1, as codecs make pixels, or 0.

    Example:
        >>> weights = load_pretrained("alexnet")
        >>> distance = jax.jit(functools.partial(lpips, "alexnet"))(weights, images, others)
    """
    total = jnp.zeros(len(a))
    levels = zip(
        lpips_features(network, weights, a, low),
        lpips_features(network, weights, b, low),
        strict=True,
    )
    for number, (one, other) in enumerate(levels):
        squares = jnp.square(one - other) * _along_channels(weights[f"head_{number}"])
        total = total + jnp.mean(jnp.sum(squares, axis=-1), axis=(1, 2))
    return total


# --- EfficientNet-Lite0 --------------------------------------------------------------------------


class Block(NamedTuple):
    """One inverted residual block."""

    kernel: int
    stride: int
    expand: int
    inputs: int
    outputs: int


def _blocks() -> tuple[Block, ...]:
    made: list[Block] = []
    for repeats, kernel, stride, expand, inputs, outputs in (
        (1, 3, 1, 1, 32, 16),
        (2, 3, 2, 6, 16, 24),
        (2, 5, 2, 6, 24, 40),
        (3, 3, 2, 6, 40, 80),
        (3, 5, 1, 6, 80, 112),
        (4, 5, 2, 6, 112, 192),
        (1, 3, 1, 6, 192, 320),
    ):
        made.append(Block(kernel, stride, expand, inputs, outputs))
        made += [Block(kernel, 1, expand, outputs, outputs)] * (repeats - 1)
    return tuple(made)


BLOCKS = _blocks()


def _each_channel(x: Array, weights: Weights, stride: int) -> Array:
    kernel = jnp.asarray(weights["kernel"], x.dtype)
    size = kernel.shape[0]
    y = lowering.depthwise(x, kernel)
    if stride > 1:

        def kept(side: int) -> slice:
            # A strided window begins half of the padding before the image; one of ours, half of its
            # own size.
            padding = max((-(-side // stride) - 1) * stride + size - side, 0)
            return slice(size // 2 - padding // 2, None, stride)

        y = y[:, kept(x.shape[1]), kept(x.shape[2])]
    return y + _along_channels(weights["bias"], x.dtype)


@checked
def efficientnet_lite0(
    weights: Weights, images: UInt8[Array, "batch height width channels"]
) -> tuple[Float[Array, "batch 1280"], Float[Array, "batch 1000"]]:
    """Return EfficientNet-Lite0's features (Tan & Le 2019), and its logits of ImageNet's classes.

    Args:
        weights: of :func:`gen_jax.interop.pretrained.load_pretrained`.
        images: pixels, of 1, 3 or 4 channels. Of less than 32x32 little is left at the end: resize
            them before.
    """
    x = (127.5 * (as_rgb(images) + 1) - 127) / 128

    def relu6(x: Array) -> Array:
        return jnp.clip(x, 0, 6)

    x = relu6(_conv(x, weights["stem"], 2))
    for number, block in enumerate(BLOCKS):
        own = weights[f"block_{number}"]
        h = relu6(_conv(x, own["expand"])) if block.expand > 1 else x
        h = relu6(_each_channel(h, own["depthwise"], block.stride))
        h = _conv(h, own["project"])
        x = x + h if block.stride == 1 and block.inputs == block.outputs else h
    features = jnp.mean(relu6(_conv(x, weights["head"])), axis=(1, 2))
    head = weights["logits"]
    return features, features @ jnp.asarray(head["kernel"]) + jnp.asarray(head["bias"])[None]
