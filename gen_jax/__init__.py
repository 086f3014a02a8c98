"""gen_jax: image generative models as pure JAX functions.

The public names, listed in ``__init__.pyi``, are loaded when they are first used, so that importing
the mathematics of diffusion does not load networks, trainers or data pipelines.
"""

from gen_jax.lazy import attach

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = attach(__name__, __file__)
