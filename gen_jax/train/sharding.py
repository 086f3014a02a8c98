"""Meshes of devices, and where arrays live on them.

Batches are split over ``data`` and ``fsdp`` together. Large arrays of the state are split over
``fsdp``, which costs communication and saves memory, and over ``tensor``, which also splits the
arithmetic of attention heads and of channels.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gen_jax.typing import PyTree

__all__ = [
    "AXES",
    "Rules",
    "arrange",
    "axis_sizes",
    "batch_sharding",
    "check_overrides",
    "make_mesh",
    "replicated",
    "spec_of",
    "state_shardings",
]

AXES = ("data", "fsdp", "tensor")


class Rules(NamedTuple):
    """How the arrays of a state are split.

    Paths look like ``opt_state/net/1/mu/down_0_0/conv_in/kernel``; patterns are regular expressions
    searched in them, so that one pattern finds a parameter, its average and its moments.
    """

    tensor_dims: Mapping[str, int] = {}  # pattern -> the dimension along heads or channels
    overrides: Mapping[str, Sequence[str | None]] = {}  # pattern -> an axis for each dimension
    min_size: int = 2**16  # smaller arrays (in elements) stay whole over fsdp


def axis_sizes(num_devices: int, data: int = -1, fsdp: int = 1, tensor: int = 1) -> tuple[int, ...]:
    """Arrange ``num_devices`` along the three axes.

    Args:
        num_devices: all of them are used.
        data: devices along the axis ``data``; -1, for one axis at most, takes what the others
            leave.
        fsdp: along ``fsdp``.
        tensor: along ``tensor``.

    Returns:
        Sizes of ``data``, ``fsdp`` and ``tensor``.

    Raises:
        ValueError: with the arithmetic, if the product is not the number of devices.
    """
    sizes = dict(zip(AXES, (data, fsdp, tensor), strict=True))
    product = " x ".join(f"{name} {size}" for name, size in sizes.items())
    if any(size < 1 and size != -1 for size in sizes.values()):
        raise ValueError(f"mesh: {product}; whole numbers from 1, or one -1, are required")
    open_axes = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(open_axes) > 1:
        raise ValueError(f"mesh: {product}; -1 may stand for one axis only")
    if open_axes and num_devices % known == 0:
        sizes[open_axes[0]] = num_devices // known
    elif open_axes:
        raise ValueError(f"mesh: {product}; {known} does not divide the {num_devices} devices")
    elif known != num_devices:
        # JAX itself would leave some idle silently.
        raise ValueError(
            f"mesh: {product} = {known} devices, but there are {num_devices}; -1 for one axis "
            "takes what the others leave"
        )
    return tuple(sizes.values())


def make_mesh(
    data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Make the mesh of all devices with the axes ``data``, ``fsdp`` and ``tensor``.

    Args:
        data: see :func:`axis_sizes`.
        fsdp: see :func:`axis_sizes`.
        tensor: see :func:`axis_sizes`.
        devices: None for those of this job.

    Raises:
        ValueError: as :func:`axis_sizes`.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axis_sizes(len(devices), data, fsdp, tensor)
    # Auto, because under JAX's default (Explicit) every gather from a table would need a sharding.
    return Mesh(arrange(devices, sizes), AXES, axis_types=(AxisType.Auto,) * 3)


def arrange(devices: Sequence[Any], sizes: Sequence[int]) -> np.ndarray:
    """Arrange devices so that those along the later axes are near each other.

    Args:
        devices: as many as the product of the sizes.
        sizes: of the axes; the slow network between hosts of GPUs, or slices of TPUs, goes along
            the first.
    """
    if len({getattr(device, "slice_index", 0) for device in devices}) > 1:
        ordered = sorted(devices, key=lambda device: (device.slice_index, device.id))
        return np.array(ordered, dtype=object).reshape(sizes)
    return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)


def replicated(mesh: Mesh) -> NamedSharding:
    """Put the same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split the first axis over ``data`` and ``fsdp``."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def spec_of(
    path: str, shape: Sequence[int], axes: Mapping[str, int], rules: Rules
) -> PartitionSpec:
    """Decide how one array is split.

    The first override that matches decides alone. Otherwise ``tensor`` takes the dimension that
    ``tensor_dims`` names, if it can be divided, and ``fsdp`` the largest dimension that is left and
    can be divided (the last of equals), if the array is large enough.

    Args:
        path: of the array in the state.
        shape: of the array.
        axes: size of each mesh axis.
        rules: see :class:`Rules`.

    Raises:
        ValueError: if an override names an axis that is not there or does not divide a dimension.
    """
    for pattern, wanted in rules.overrides.items():
        if re.search(pattern, path):
            return _override(pattern, wanted, path, shape, axes)
    dims: list[str | None] = [None] * len(shape)
    for pattern, dim in rules.tensor_dims.items():
        if axes["tensor"] > 1 and re.search(pattern, path) and -len(shape) <= dim < len(shape):
            if shape[dim] % axes["tensor"] == 0:
                dims[dim] = "tensor"
            break
    free = [
        dim
        for dim, size in enumerate(shape)
        if dims[dim] is None and size and size % axes["fsdp"] == 0
    ]
    if axes["fsdp"] > 1 and free and math.prod(shape) >= rules.min_size:
        dims[max(free, key=lambda dim: (shape[dim], dim))] = "fsdp"
    while dims and dims[-1] is None:
        dims.pop()
    return PartitionSpec(*dims)


def _override(
    pattern: str,
    wanted: Sequence[str | None],
    path: str,
    shape: Sequence[int],
    axes: Mapping[str, int],
) -> PartitionSpec:
    # One pattern also meets the scalars of an optimizer, and factored moments.
    if len(wanted) != len(shape):
        return PartitionSpec()
    for axis, size in zip(wanted, shape, strict=True):
        if axis is not None and axis not in axes:
            raise ValueError(f"override {pattern!r}: {axis!r} is none of {', '.join(axes)}")
        if axis is not None and size % axes[axis]:
            raise ValueError(
                f"override {pattern!r}: {axis} {axes[axis]} does not divide {size}, a dimension of "
                f"{path} {tuple(shape)}"
            )
    return PartitionSpec(*wanted)


def state_shardings(tree: PyTree, mesh: Mesh, rules: Rules) -> PyTree:
    """Decide where every array of a state, or of frozen weights, lives.

    Args:
        tree: arrays or their shapes.
        mesh: with the three axes.
        rules: see :class:`Rules`.

    Returns:
        A tree of shardings.

    Raises:
        ValueError: as :func:`spec_of`.
    """
    axes = dict(mesh.shape)
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    specs = [spec_of(_name(path), leaf.shape, axes, rules) for path, leaf in leaves]
    return structure.unflatten(NamedSharding(mesh, spec) for spec in specs)


def check_overrides(state: PyTree, rules: Rules) -> None:
    """Check that every override says something about a state.

    Raises:
        ValueError: naming an override that matches no array.
    """
    paths = [_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    for pattern in rules.overrides:
        if not any(re.search(pattern, path) for path in paths):
            raise ValueError(f"override {pattern!r}: matches no array; one is {paths[-1]}")


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
