"""Whether a checkpoint is what was saved.

Orbax notices a missing or a shortened file, but not a flipped bit in the data of an array. So each
array is saved with a digest. It is a sum over elements of a hash of value and position: sums of
integers are exact in any order, so that it does not depend on how the array is split over devices
or processes. It protects against damage, not against an attacker, who would rewrite it too.
"""

import concurrent.futures
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.reading import parse_json
from gen_jax.typing import PyTree

__all__ = ["Leaf", "inspect_leaves", "seal", "unseal"]

_CHUNK = 2**15  # words at once on the host, so that what lies between stays in a core's cache


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
    with concurrent.futures.ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        # Where one program a shape would have to be compiled first, the host is done sooner.
        looked_at = [
            pool.submit(_on_host, x) if _is_on_host(x) else _on_devices()(x) for _, x in leaves
        ]
    found = [x.result() if isinstance(x, concurrent.futures.Future) else x for x in looked_at]
    return {
        jax.tree_util.keystr(path): Leaf(f"{int(low):08x}{int(high):08x}", bool(finite))
        for (path, _), (low, high, finite) in zip(leaves, jax.device_get(found), strict=True)
    }


def _is_on_host(x: Any) -> bool:
    if not isinstance(x, jax.Array):
        return True
    on_cpu = all(device.platform == "cpu" for device in x.devices())
    return on_cpu and (x.is_fully_addressable or x.is_fully_replicated)


def _on_host(x: Any) -> tuple[int, int, bool]:
    array = np.ascontiguousarray(x)
    flat = array.reshape(-1).view(_unsigned(array.dtype))
    low = high = 0
    for begin in range(0, flat.size, _CHUNK):
        words = flat[begin : begin + _CHUNK].astype(np.uint32)
        index = np.arange(len(words), dtype=np.uint32) + np.uint32(begin & 0xFFFFFFFF)
        for half, part in enumerate(_hashes(words, index, np)):
            total = int(np.sum(part, dtype=np.uint64))
            low, high = (low + total, high) if half == 0 else (low, high + total)
    inexact = jnp.issubdtype(array.dtype, jnp.inexact)
    return low & 0xFFFFFFFF, high & 0xFFFFFFFF, not inexact or bool(np.isfinite(array).all())


@functools.cache
def _on_devices() -> Callable[[jax.Array], Any]:
    """Compile the same for arrays that lie elsewhere, without moving or joining their parts."""

    def look(x: jax.Array) -> tuple[jax.Array, ...]:
        bits = x.astype(jnp.uint8) if x.dtype == bool else x
        words = jax.lax.bitcast_convert_type(bits, _unsigned(bits.dtype))
        words = words.astype(jnp.uint32)
        # The place of each word in row-major order, axis by axis.
        index, stride = jnp.zeros(words.shape, jnp.uint32), 1
        for axis in reversed(range(words.ndim)):
            place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
            index += place * jnp.uint32(stride & 0xFFFFFFFF)
            stride *= words.shape[axis]
        low, high = (jnp.sum(h, dtype=jnp.uint32) for h in _hashes(words, index, jnp))
        inexact = jnp.issubdtype(x.dtype, jnp.inexact)
        return low, high, jnp.all(jnp.isfinite(x)) if inexact else jnp.array(True)

    return jax.jit(look)


def _unsigned(dtype: Any) -> Any:
    return {1: np.uint8, 2: np.uint16}.get(np.dtype(dtype).itemsize, np.uint32)


def _hashes(words: Any, index: Any, xp: ModuleType) -> tuple[Any, Any]:
    """Hash each word with its place, twice, by NumPy or by JAX alike."""
    u32 = xp.uint32
    low = _mix(words ^ _mix(index * u32(0x9E3779B9) + u32(1), xp), xp)
    high = _mix((words + u32(0x7F4A7C15)) ^ _mix(index * u32(0x85EBCA77) + u32(7), xp), xp)
    return low, high


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
