"""The diffusion process: schedules, parameterizations, losses and samplers.

Nothing here knows a network. A denoiser is any callable ``(x, t) -> Prediction``; build one from
any network with :func:`denoiser`.
"""

from gen_jax.lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
