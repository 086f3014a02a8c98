"""What does not go together in a quantizer, without JAX; see :mod:`gen_jax.diffusion.rules`."""

import math
from collections.abc import Mapping, Sequence

__all__ = ["MAX_SCALAR_CODES", "scalar_faults", "vector_faults"]

MAX_SCALAR_CODES = 2**20


def vector_faults(*, cosine: bool, levels: int) -> Mapping[str, str]:
    """Find whether residual levels meet codes of length 1."""
    if cosine and levels > 1:
        what = "with cosine 1 is required: what a level leaves over has no length 1"
        return {"levels": f"got {levels}; {what}"}
    return {}


def scalar_faults(scalar_levels: Sequence[int]) -> Mapping[str, str]:
    """Find whether the codes of a finite scalar quantizer can be counted."""
    total = math.prod(scalar_levels)
    if not scalar_levels:
        return {"scalar_levels": "got (); some are required with finite_scalar"}
    if total > MAX_SCALAR_CODES:
        what = f"{total:,} codes; at most {MAX_SCALAR_CODES:,} can be counted"
        return {"scalar_levels": f"{tuple(scalar_levels)} make {what}"}
    return {}
