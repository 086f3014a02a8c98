"""Pure functions of arrays: no network, no state."""

from gen_jax.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
