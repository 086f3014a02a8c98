"""Which noise goes with which example."""

import jax.numpy as jnp

from gen_jax.typing import Array, Float

__all__ = ["optimal_pairing"]


def optimal_pairing(
    x_0: Float[Array, "batch *dims"], eps: Float[Array, "batch *dims"]
) -> Float[Array, "batch *dims"]:
    """Permute noise among the examples of a batch so that the sum of |x_0 - eps|^2 is smallest.

    The optimal transport plan of a mini-batch (Tong et al. 2024, Section 3.2; Pooladian et al.
    2023, Section 3): paths of a rectified flow then cross less often. The time grows with the cube
    of the batch.

    Args:
        x_0: data.
        eps: noise.

    Returns:
        The same noises, the i-th for the i-th example.
    """
    from optax.assignment import hungarian_algorithm  # not needed by those who only sample

    a, b = (jnp.reshape(x, (len(x), -1)).astype(jnp.float32) for x in (x_0, eps))
    # |a - b|^2 without the terms that are the same for every pairing.
    rows, columns = hungarian_algorithm(-a @ b.T)
    return eps[columns[jnp.argsort(rows)]]
