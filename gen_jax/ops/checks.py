"""Whether arrays are of the right kind, by their types alone: nothing is computed."""

from typing import Any

import jax.numpy as jnp

__all__ = ["check_floating", "check_pixels", "check_times"]


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
