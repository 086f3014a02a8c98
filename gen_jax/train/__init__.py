"""Training: state, step, loop, checkpoints. Knows the protocols and no model.

``gen_jax.train(config, data)`` calls :func:`gen_jax.launch.door.train`.
"""

from gen_jax.lazy import attach, callable_as

__getattr__, __dir__, __all__ = attach(__name__, __file__)
callable_as(__name__, "gen_jax.launch.door", "train")
