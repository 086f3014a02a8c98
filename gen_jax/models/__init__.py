"""Generative models, one file a family; each a lower-case factory of a Model."""

from gen_jax.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
