"""Inception v3 as the Fréchet Inception distance has it: the weights of 2015, and their pooling.

The network of Szegedy et al. 2015 as ``pt_inception-2015-12-05`` was trained, in which averages
over windows leave the border out, and the last block pools by the largest (Heusel et al. 2017).
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float, UInt8

__all__ = ["SIDE", "fold", "inception", "inception_shapes"]

SIDE = 299
_EPSILON = 1e-3

Params = Mapping[str, Mapping[str, Array]]

# Convolutions by name: channels out, height and width of the kernel, stride; whether it pads.
_A = {
    "branch1x1": (64, 1, 1, 1), "branch5x5_1": (48, 1, 1, 1), "branch5x5_2": (64, 5, 5, 1),
    "branch3x3dbl_1": (64, 1, 1, 1), "branch3x3dbl_2": (96, 3, 3, 1),
    "branch3x3dbl_3": (96, 3, 3, 1),
}  # fmt: skip


def _c(width: int) -> dict[str, tuple[int, int, int, int]]:
    return {
        "branch1x1": (192, 1, 1, 1),
        "branch7x7_1": (width, 1, 1, 1),
        "branch7x7_2": (width, 1, 7, 1),
        "branch7x7_3": (192, 7, 1, 1),
        "branch7x7dbl_1": (width, 1, 1, 1),
        "branch7x7dbl_2": (width, 7, 1, 1),
        "branch7x7dbl_3": (width, 1, 7, 1),
        "branch7x7dbl_4": (width, 7, 1, 1),
        "branch7x7dbl_5": (192, 1, 7, 1),
        "branch_pool": (192, 1, 1, 1),
    }


_E = {
    "branch1x1": (320, 1, 1, 1), "branch3x3_1": (384, 1, 1, 1), "branch3x3_2a": (384, 1, 3, 1),
    "branch3x3_2b": (384, 3, 1, 1), "branch3x3dbl_1": (448, 1, 1, 1),
    "branch3x3dbl_2": (384, 3, 3, 1), "branch3x3dbl_3a": (384, 1, 3, 1),
    "branch3x3dbl_3b": (384, 3, 1, 1), "branch_pool": (192, 1, 1, 1),
}  # fmt: skip
_BLOCKS: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "Mixed_5b": {**_A, "branch_pool": (32, 1, 1, 1)},
    "Mixed_5c": {**_A, "branch_pool": (64, 1, 1, 1)},
    "Mixed_5d": {**_A, "branch_pool": (64, 1, 1, 1)},
    "Mixed_6a": {
        "branch3x3": (384, 3, 3, 2), "branch3x3dbl_1": (64, 1, 1, 1),
        "branch3x3dbl_2": (96, 3, 3, 1), "branch3x3dbl_3": (96, 3, 3, 2),
    },
    "Mixed_6b": _c(128), "Mixed_6c": _c(160), "Mixed_6d": _c(160), "Mixed_6e": _c(192),
    "Mixed_7a": {
        "branch3x3_1": (192, 1, 1, 1), "branch3x3_2": (320, 3, 3, 2),
        "branch7x7x3_1": (192, 1, 1, 1), "branch7x7x3_2": (192, 1, 7, 1),
        "branch7x7x3_3": (192, 7, 1, 1), "branch7x7x3_4": (192, 3, 3, 2),
    },
    "Mixed_7b": _E, "Mixed_7c": _E,
}  # fmt: skip
_STEM = {
    "Conv2d_1a_3x3": (3, 32, 3, 2, False), "Conv2d_2a_3x3": (32, 32, 3, 1, False),
    "Conv2d_2b_3x3": (32, 64, 3, 1, True), "Conv2d_3b_1x1": (64, 80, 1, 1, False),
    "Conv2d_4a_3x3": (80, 192, 3, 1, False),
}  # fmt: skip
_INTO = {
    "Mixed_5b": 192, "Mixed_5c": 256, "Mixed_5d": 288, "Mixed_6a": 288, "Mixed_6b": 768,
    "Mixed_6c": 768, "Mixed_6d": 768, "Mixed_6e": 768, "Mixed_7a": 768, "Mixed_7b": 1280,
    "Mixed_7c": 2048,
}  # fmt: skip


def inception_shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of the convolutions' weights by torch's names, [out, in, height, width]."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{name}.conv.weight": (out, width, side, side)
        for name, (width, out, side, _, _) in _STEM.items()
    }
    for block, convs in _BLOCKS.items():
        for name, (out, height, width, _) in convs.items():
            shapes[f"{block}.{name}.conv.weight"] = (out, _width_into(block, name), height, width)
    return shapes


def _width_into(block: str, name: str) -> int:
    """Return how many channels a convolution sees: those of the block, or of the one before it."""
    stem, _, number = name.rpartition("_")
    step = number.rstrip("ab")
    if not step.isdigit() or step == "1":
        return _INTO[block]
    return _BLOCKS[block][f"{stem}_{int(step) - 1}"][0]


def fold(tensors: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """Make parameters of a state dict: each normalization is folded into its convolution.

    Args:
        tensors: by torch's names.

    Raises:
        ValueError: if one is missing or of another shape.
    """
    params = {}
    for name, shape in inception_shapes().items():
        own = name.removesuffix(".conv.weight")
        found = tensors.get(name)
        if found is None or found.shape != shape:
            got = "nothing" if found is None else list(found.shape)
            raise ValueError(f"{name}: got {got}; {list(shape)} is required")
        names = ("weight", "bias", "running_mean", "running_var")
        if missing := [x for x in names if f"{own}.bn.{x}" not in tensors]:
            raise ValueError(f"{own}.bn.{missing[0]}: missing")
        scale, bias, mean, variance = (tensors[f"{own}.bn.{x}"] for x in names)
        factor = scale / np.sqrt(variance + _EPSILON)
        kernel = found.transpose(2, 3, 1, 0) * factor
        params[own] = {"kernel": np.ascontiguousarray(kernel), "bias": bias - mean * factor}
    return params


@checked
def inception(
    params: Params, images: UInt8[Array, "batch height width 3"]
) -> tuple[Float[Array, "batch 2048"], Float[Array, "batch 2023"]]:
    """Compute the features of images.

    They are resized to 299x299 as TensorFlow 1 did it, without half a pixel's shift, and brought to
    (x - 128) / 128, as torch-fidelity does.

    Args:
        params: of :func:`fold`.
        images: colored.

    Returns:
        The 2,048 of the last pooling, for FID; and the first seven channels of the seventh mixed
        layer's first convolution at their 17x17 places, for sFID (Nash et al. 2021).
    """
    x = (_resize(images.astype(jnp.float32)) - 128.0) / 128.0

    def conv(name: str, x: Array, stride: int = 1, *, same: bool = True) -> Array:
        made = jax.lax.conv_general_dilated(
            x, params[name]["kernel"], (stride, stride), "SAME" if same else "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        return jax.nn.relu(made + params[name]["bias"][None, None, None])

    for name, (_, _, _, stride, same) in _STEM.items():
        x = conv(name, x, stride, same=same)
        if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
            x = _largest(x, 2)
    spatial = jnp.zeros(())
    for block in _BLOCKS:
        if block == "Mixed_6d":
            spatial = conv(f"{block}.branch1x1", x)[..., :7]
        x = _block(block, x, conv)
    return jnp.mean(x, axis=(1, 2)), jnp.reshape(spatial, (len(images), -1))


def _block(block: str, x: Array, conv: Callable[..., Array]) -> Array:
    def chain(*names: str, last_stride: int = 1) -> Array:
        h = x
        for i, name in enumerate(names):
            stride = last_stride if i == len(names) - 1 else 1
            h = conv(f"{block}.{name}", h, stride, same=stride == 1)
        return h

    def steps(stem: str, num: int) -> tuple[str, ...]:
        return tuple(f"{stem}_{i}" for i in range(1, num + 1))

    if block == "Mixed_6a":
        parts = [chain("branch3x3", last_stride=2), chain(*steps("branch3x3dbl", 3), last_stride=2)]
        return jnp.concatenate([*parts, _largest(x, 2)], axis=-1)
    if block == "Mixed_7a":
        parts = [
            chain(*steps(stem, n), last_stride=2)
            for stem, n in (("branch3x3", 2), ("branch7x7x3", 4))
        ]
        return jnp.concatenate([*parts, _largest(x, 2)], axis=-1)
    pooled = _largest(x, 1) if block == "Mixed_7c" else _mean(x)
    parts = [chain("branch1x1")]
    if block.startswith("Mixed_5"):
        parts += [chain(*steps("branch5x5", 2)), chain(*steps("branch3x3dbl", 3))]
    elif block.startswith("Mixed_6"):
        parts += [chain(*steps("branch7x7", 3)), chain(*steps("branch7x7dbl", 5))]
    else:
        for before, stem in (
            (("branch3x3_1",), "branch3x3_2"),
            (("branch3x3dbl_1", "branch3x3dbl_2"), "branch3x3dbl_3"),
        ):
            h = chain(*before)
            parts += [conv(f"{block}.{stem}{side}", h) for side in "ab"]
    return jnp.concatenate([*parts, conv(f"{block}.branch_pool", pooled)], axis=-1)


def _largest(x: Array, stride: int) -> Array:
    padding = "VALID" if stride == 2 else "SAME"
    window = (1, 3, 3, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, (1, stride, stride, 1), padding)


def _mean(x: Array) -> Array:
    """Average over 3x3 windows of what lies inside the image."""

    def total(y: Array) -> Array:
        return jax.lax.reduce_window(y, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    return total(x) / total(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def _resize(x: Array) -> Array:
    """Resize bilinearly as TensorFlow 1 did: place i is read at i times the ratio of the sides."""
    rows, columns = (jnp.asarray(_weights(side)) for side in x.shape[1:3])
    return jnp.einsum("ai,bj,nijc->nabc", rows, columns, x, precision="highest")


def _weights(side: int) -> np.ndarray:
    places = np.arange(SIDE, dtype=np.float64) * side / SIDE
    low = np.minimum(places.astype(int), side - 1)
    high, share = np.minimum(low + 1, side - 1), places - low
    weights = np.zeros((SIDE, side))
    np.add.at(weights, (np.arange(SIDE), low), 1 - share)
    np.add.at(weights, (np.arange(SIDE), high), share)
    return weights.astype(np.float32)
