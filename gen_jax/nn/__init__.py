"""Flax Linen networks; no losses.

Nothing is imported here, so that ``gen_jax.nn.geometry`` can be asked without loading JAX.
"""

from gen_jax.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
