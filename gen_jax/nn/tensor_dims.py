"""Which dimensions of all networks' parameters devices may share out; see ``mesh.tensor``."""

from collections.abc import Mapping

from gen_jax.nn import autoencoder, blocks, dvae, hierarchy, pixelcnn

__all__ = ["TENSOR_DIMS"]

TENSOR_DIMS: Mapping[str, int] = {
    **blocks.TENSOR_DIMS,
    **autoencoder.TENSOR_DIMS,
    **hierarchy.TENSOR_DIMS,
    **dvae.TENSOR_DIMS,
    **pixelcnn.TENSOR_DIMS,
}
"""Patterns of paths, and the dimension along heads or channels of what they match. Each stands
beside the layers that it speaks of; the first that matches decides."""
