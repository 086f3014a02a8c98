"""Training: state, step, loop, checkpoints. Knows the protocols and no model."""

from gen_jax.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
