"""Meshes of devices, and where arrays live on them."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

__all__ = ["batch_sharding", "make_mesh", "replicated"]


def make_mesh(data: int = -1) -> Mesh:
    """Lay all devices out along the axis ``data``, over which batches are split.

    Args:
        data: number of devices; -1 for all.

    Raises:
        ValueError: unless exactly all devices are used; JAX itself would leave some idle silently.
    """
    num_devices = jax.device_count()
    size = num_devices if data == -1 else data
    if size != num_devices:
        raise ValueError(f"mesh.data: {num_devices} devices are there, got {data}; -1 takes all")
    # Auto, because under JAX's default (Explicit) every gather from a table would need a sharding.
    return jax.make_mesh((size,), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Put the same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Split the first axis over ``data``."""
    return NamedSharding(mesh, PartitionSpec("data"))
