"""Whether a checkpoint is what was saved.

Orbax notices a missing or a shortened file, but not a flipped bit in the data of an array. So each
array is saved with a digest. It is a sum over elements of a hash of value and position: sums of
integers are exact in any order, so that it does not depend on how the array is split over devices
or processes. It protects against damage, not against an attacker, who would rewrite it too.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.reading import parse_json
from gen_jax.typing import PyTree

__all__ = ["Leaf", "inspect_leaves", "seal", "unseal"]


class Leaf(NamedTuple):
    """What is known of one array."""

    digest: str  # 16 hexadecimal digits
    finite: bool


def inspect_leaves(tree: PyTree) -> dict[str, Leaf]:
    """Digest every array of a tree, and see whether all its numbers are finite.

    Args:
        tree: arrays of any sharding; where they are split over processes, all must call this.

    Returns:
        By the path of each leaf.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    looked_at = [_inspect(x) for _, x in leaves]
    return {
        jax.tree_util.keystr(path): Leaf(f"{int(low):08x}{int(high):08x}", bool(finite))
        for (path, _), (low, high, finite) in zip(leaves, jax.device_get(looked_at), strict=True)
    }


def _inspect(x: Any) -> Any:
    # Compiling one program a shape takes longer than the host needs for models that a CPU trains.
    if not isinstance(x, jax.Array):
        return _sums(np.asarray(x), np)
    on_host = all(device.platform == "cpu" for device in x.devices())
    if on_host and (x.is_fully_addressable or x.is_fully_replicated):
        return _sums(np.asarray(x), np)
    return _compiled()(x)


@functools.cache
def _compiled() -> Callable[[jax.Array], Any]:
    return jax.jit(functools.partial(_sums, xp=jnp))


def _sums(x: Any, xp: ModuleType) -> Any:
    """Give both halves of the digest and whether all is finite, by NumPy or by JAX alike."""
    words = _words(x, xp)
    index = xp.arange(words.shape[-1], dtype=xp.uint32)
    stride = words.shape[-1]
    for size in reversed(words.shape[:-1]):
        outer = xp.arange(size, dtype=xp.uint32) * xp.uint32(stride & 0xFFFFFFFF)
        index = outer[(...,) + (None,) * index.ndim] + index[None]
        stride *= size
    low = _mix(words ^ _mix(index * xp.uint32(0x9E3779B9) + xp.uint32(1), xp), xp)
    high = _mix(
        (words + xp.uint32(0x7F4A7C15)) ^ _mix(index * xp.uint32(0x85EBCA77) + xp.uint32(7), xp), xp
    )
    finite = xp.all(xp.isfinite(x)) if jnp.issubdtype(x.dtype, jnp.inexact) else np.bool_(True)
    return xp.sum(low, dtype=xp.uint32), xp.sum(high, dtype=xp.uint32), finite


def _words(x: Any, xp: ModuleType) -> Any:
    """Give the bits of each element as uint32, two of them for 64 bits, along a last axis."""
    if x.dtype == bool:
        x = x.astype(np.uint8)
    width = np.dtype(x.dtype).itemsize
    unsigned = {1: np.uint8, 2: np.uint16}.get(width, np.uint32)
    if xp is np:
        bits: Any = np.ascontiguousarray(x).reshape(*x.shape, 1).view(unsigned)
    else:
        bits = jax.lax.bitcast_convert_type(x, unsigned)
        bits = bits if width > 4 else bits[..., None]
    return bits.astype(np.uint32)


def _mix(h: Any, xp: ModuleType) -> Any:
    """Finish as MurmurHash3 does: every bit of a word comes to depend on every other."""
    h = h ^ (h >> xp.uint32(16))
    h = h * xp.uint32(0x85EBCA6B)
    h = h ^ (h >> xp.uint32(13))
    h = h * xp.uint32(0xC2B2AE35)
    return h ^ (h >> xp.uint32(16))


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Add a digest of the whole to what is to be written as JSON."""
    return {**content, "sha256": _sha256(content)}


def unseal(data: bytes) -> dict[str, Any]:
    """Read what :func:`seal` made.

    Raises:
        ValueError: if it is not that, bit for bit.
    """
    content = parse_json(data, len(data))
    if not isinstance(content, dict) or "sha256" not in content:
        raise ValueError("without the digest that belongs to it")
    expected = content.pop("sha256")
    if _sha256(content) != expected:
        raise ValueError("not what its digest says")
    return content


def _sha256(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
