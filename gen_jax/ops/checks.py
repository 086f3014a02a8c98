"""Whether arrays are of the right kind, by their types alone: nothing is computed."""

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import jax.numpy as jnp
from jaxtyping import AbstractArray, jaxtyped

__all__ = ["check_floating", "check_pixels", "check_times", "checked"]

P = ParamSpec("P")
R = TypeVar("R")

# What annotations ask for, in words; the other kinds are named as they are.
_KINDS = {
    "Float": "floating-point numbers are required",
    "Int": "whole numbers are required",
    "Bool": "true or false is required",
    "UInt8": "uint8",
    "Key": "keys of jax.random.key are required (jax.random.wrap_key_data makes them of old ones)",
}


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Check arrays that a function is given against its annotations, in words.

    Types and shapes alone are looked at, NumPy's arrays as JAX's; what has neither, a Python
    number say, passes. Under ``jit`` this happens once, while the function is traced.

    Raises:
        TypeError: of the new function, for an array of another type.
        ValueError: for one of another shape.

    Example:
        >>> normalize(np.zeros(3, np.uint8))
        TypeError: z: got uint8; floating-point numbers are required, pixels by a codec
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        signature, kinds = _annotations(function)
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:
            return function(*args, **kwargs)  # and say what is missing
        _check_arrays({name: (given[name], kinds[name]) for name in kinds if name in given})
        return function(*args, **kwargs)

    call.__checked__ = True
    return call


@functools.cache
def _annotations(
    function: Callable[..., Any],
) -> tuple[inspect.Signature, Mapping[str, tuple[Any, ...]]]:
    """Return a function's signature, and the kinds of arrays that its parameters may be."""
    hints = typing.get_type_hints(function)
    kinds = {name: _kinds(hint) for name, hint in hints.items() if name != "return"}
    return inspect.signature(function), {name: kind for name, kind in kinds.items() if kind}


def _kinds(hint: Any) -> tuple[Any, ...]:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        # Of whichever library: NumPy's arrays are good arguments.
        return (hint.dtype[Any, hint.dim_str],)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in _kinds(part))
    return ()


@jaxtyped(typechecker=None)
def _check_arrays(given: Mapping[str, tuple[Any, tuple[Any, ...]]]) -> None:
    sizes: dict[str, str] = {}
    for name, (x, kinds) in given.items():
        known = {kind.dtype.__name__ for kind in kinds}
        if not hasattr(x, "dtype") or not hasattr(x, "shape"):
            if x is not None and known == {"Key"}:  # of the other kinds there are Python's numbers
                raise TypeError(f"{name}: got {type(x).__name__}; {_KINDS['Key']}")
            continue
        if any(isinstance(x, kind) for kind in kinds):
            sizes[name] = f"{name} {list(x.shape)}"
            continue
        if not any(isinstance(x, kind.dtype[Any, "..."]) for kind in kinds):
            what = " or ".join(_KINDS.get(kind, f"{kind} is required") for kind in sorted(known))
            what += ", pixels by a codec" if x.dtype == jnp.uint8 and "Float" in known else ""
            raise TypeError(f"{name}: got {x.dtype}; {what}")
        shapes = dict.fromkeys(f"[{kind.dim_str.replace(' ', ', ')}]" for kind in kinds)
        wanted = " or ".join(shapes)
        beside = f", beside {', '.join(sizes.values())}" if sizes else ""
        raise ValueError(f"{name}: got {list(x.shape)}; {wanted} is required{beside}")


def check_floating(**arrays: Any) -> None:
    """Check that arrays hold floating-point numbers.

    Raises:
        TypeError: naming the array, its type and what is required.

    Example:
        >>> check_floating(x_0=np.zeros(3, np.uint8))
        TypeError: x_0: got uint8; floating-point numbers are required, pixels by a codec
    """
    for name, x in arrays.items():
        dtype = getattr(x, "dtype", None)
        if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
            what = "floating-point numbers are required"
            what += ", pixels by a codec" if dtype == jnp.uint8 else ""
            raise TypeError(f"{name}: got {dtype}; {what}")


def check_times(t: Any) -> None:
    """Check that times are numbers in [0, 1], and no whole numbers of steps.

    Raises:
        TypeError: for an array of whole numbers.
        ValueError: for a number outside of [0, 1].
    """
    dtype = getattr(t, "dtype", None)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"t: got {dtype}; floating-point times in [0, 1] are required: step i of T is i / T"
        )
    # Grids that were computed may pass 1 by a rounding.
    if isinstance(t, (int, float)) and not 0 <= t <= 1 + 1e-6:
        raise ValueError(f"t: got {t}; a time in [0, 1] is required: step i of T is i / T")


def check_pixels(image: Any) -> None:
    """Check that images are of eight bits.

    Raises:
        TypeError: naming their type and what is required.
    """
    dtype = getattr(image, "dtype", None)
    if dtype != jnp.uint8:
        raise TypeError(
            f"image: got {dtype}; uint8 in [0, 255] is required; what is in the range of x already "
            "needs no codec"
        )
