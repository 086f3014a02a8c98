"""Names for arrays and trees, shared by every floor.

Shapes are jaxtyping annotations. Public functions of the mathematics check their arguments against
them (:func:`gen_jax.ops.checks.checked`), once where a program is traced; the others only under the
test suite's import hook.
"""

from typing import Any, TypeAlias

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Key, UInt8, UInt16

__all__ = [
    "Array",
    "ArrayLike",
    "Bool",
    "DTypeLike",
    "Float",
    "Image",
    "Int",
    "Key",
    "Keys",
    "PyTree",
    "Scalar",
    "ScalarLike",
    "Shape",
    "UInt8",
    "UInt16",
]

PyTree: TypeAlias = Any
Shape: TypeAlias = tuple[int, ...]
Image: TypeAlias = UInt8[Array, "batch height width channels"]
Keys: TypeAlias = Key[Array, "batch"]
Scalar: TypeAlias = Float[Array, ""]
ScalarLike: TypeAlias = float | int | jax.Array
