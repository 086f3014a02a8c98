"""Arrays out of pickle files, without running anything that a file says.

A pickle is a program: it may name any function and call it. Here it can name what stands in a
closed table and nothing else, and what stands there are inert builders of ours, never NumPy's or
torch's own. Other types, byte orders and references are refused.
"""

import io
import math
import pickle
import pickletools
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["read_arrays", "read_torch"]

_DTYPES = ("f4", "f2", "f8", "i4", "i8", "u1")


class _DType:
    """Stands for ``numpy.dtype``."""

    def __init__(self, code: object = None, *_: object) -> None:
        if code not in _DTYPES:
            raise pickle.UnpicklingError(f"an array of {code!r} is refused")
        self.code = str(code)

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", "|", "=")):
            raise pickle.UnpicklingError("an array of another byte order is refused")


class _Array:
    """Stands for ``numpy.ndarray``, and is filled by its state."""

    value: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise pickle.UnpicklingError("an array without a state is refused")
        _, shape, dtype, fortran, raw = state
        if not isinstance(raw, (bytes, bytearray)) or not isinstance(dtype, _DType):
            raise pickle.UnpicklingError("an array of objects is refused")
        self.value = np.frombuffer(raw, f"<{dtype.code}").reshape(
            _shape(shape), order="F" if fortran else "C"
        )


def _reconstruct(kind: object, *_: object) -> _Array:
    if kind is not _Array:
        raise pickle.UnpicklingError("another kind of array is refused")
    return _Array()


_NUMPY: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
}


class _Closed(pickle.Unpickler):
    """An unpickler whose files can name what stands in its table and nothing else."""

    table: Mapping[tuple[str, str], Any] = _NUMPY

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in the table."""
        try:
            return self.table[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is refused") from None

    def persistent_load(self, pid: Any) -> Any:
        """Refuse references out of the file."""
        raise pickle.UnpicklingError("references out of the file are refused")


def read_arrays(data: bytes) -> dict[str, Any]:
    """Read nested mappings of NumPy arrays from a pickle.

    Args:
        data: of the file.

    Returns:
        The same mappings, of arrays.

    Raises:
        ValueError: if the file names, or holds, anything else, or is damaged.
    """
    tree = _load(io.BytesIO(data))
    if not isinstance(tree, dict):
        raise ValueError(f"holds {type(tree).__name__}; mappings of arrays are required")
    return {name: _plain(value) for name, value in tree.items()}


def _plain(tree: Any) -> Any:
    if isinstance(tree, _Array) and tree.value is not None:
        return tree.value
    if isinstance(tree, dict):
        return {name: _plain(value) for name, value in tree.items()}
    raise ValueError(f"holds {type(tree).__name__}; mappings of arrays are required")


_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    MemoryError,
    RecursionError,
    ImportError,
)


def _load(file: io.BytesIO, unpickler: pickle.Unpickler | None = None) -> Any:
    """Load the pickle that begins here, and leave the file at its end."""
    begin, size = file.tell(), len(file.getbuffer())
    try:
        for operation, argument, _ in pickletools.genops(file):
            # Whoever remembers something under a large number asks for that much memory.
            if "PUT" in operation.name and isinstance(argument, int) and argument > size:
                raise pickle.UnpicklingError(f"memory for {argument:,} objects is refused")
        file.seek(begin)
        return (_Closed(file) if unpickler is None else unpickler).load()
    # What a damaged file makes of the machine that a pickle runs on, beside its own errors.
    except _DAMAGE as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _shape(shape: object) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError(f"an array of shape {shape!r} is refused")
    return shape


# --- torch's files of before 1.6 -----------------------------------------------------------------


class _Ordered(dict):
    """Stands for ``collections.OrderedDict``."""

    def __setstate__(self, state: object) -> None:
        """Forget torch's notes on versions."""


def _rebuild(storage: object, offset: object, size: object, stride: object, *_: object) -> Any:
    return storage, offset, size, stride


class _Torch(_Closed):
    """Beside mappings, tensors of 32-bit floats and 64-bit integers."""

    table: Mapping[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): _Ordered,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
        ("torch", "FloatStorage"): "<f4",
        ("torch", "LongStorage"): "<i8",
    }
    storages: dict[str, str]

    def persistent_load(self, pid: Any) -> Any:
        """Note a storage, whose numbers follow the pickle."""
        if not (isinstance(pid, tuple) and len(pid) == 6 and pid[0] == "storage"):
            raise pickle.UnpicklingError("another reference than to a storage is refused")
        _, dtype, key, _, _, view = pid
        if dtype not in ("<f4", "<i8") or view is not None or not isinstance(key, str):
            raise pickle.UnpicklingError("another kind of storage is refused")
        self.storages[key] = dtype
        return key


_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def read_torch(data: bytes) -> dict[str, np.ndarray]:
    """Read the tensors of a state dict as torch saved it before version 1.6.

    Raises:
        ValueError: if the file names, or holds, anything else, or is damaged.
    """
    file = io.BytesIO(data)
    magic, protocol, system = (_load(file) for _ in range(3))
    little = isinstance(system, dict) and system.get("little_endian") is True
    if (magic, protocol) != (_MAGIC, _PROTOCOL) or not little:
        raise ValueError("is no file of torch.save before 1.6, or of another byte order")
    unpickler = _Torch(file)
    unpickler.storages = {}
    tree, keys = _load(file, unpickler), _load(file)
    if not isinstance(tree, dict) or not isinstance(keys, list):
        raise ValueError("holds no tensors by name")
    numbers: dict[str, np.ndarray] = {}
    for key in keys:
        dtype = np.dtype(unpickler.storages.get(key, "<f4"))
        (num,) = struct.unpack("<q", _exactly(file, 8))
        numbers[key] = np.frombuffer(_exactly(file, num * dtype.itemsize), dtype)
    return {name: _tensor(name, entry, numbers) for name, entry in tree.items()}


def _exactly(file: io.BytesIO, num: int) -> bytes:
    data = file.read(num) if num >= 0 else b""
    if len(data) != num:
        raise ValueError("ends too early")
    return data


def _tensor(name: object, entry: Any, numbers: Mapping[str, np.ndarray]) -> np.ndarray:
    if not (isinstance(entry, tuple) and len(entry) == 4 and entry[0] in numbers):
        raise ValueError(f"{name}: no tensor")
    key, offset, size, stride = entry
    size, stride = _shape(size), _shape(stride)
    if type(offset) is not int or offset < 0 or len(size) != len(stride):
        raise ValueError(f"{name}: no tensor")
    last = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True))
    if math.prod(size) and last >= len(numbers[key]):
        raise ValueError(f"{name}: lies outside of its storage")
    base = numbers[key]
    strides = [s * base.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(base[offset:], size, strides).copy()
