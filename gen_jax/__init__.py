"""gen_jax: image generative models as pure JAX functions.

The public names are loaded when they are first used, so that importing the mathematics of
diffusion does not load networks, trainers or data pipelines.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "diffusion": "gen_jax.diffusion",
    "ops": "gen_jax.ops",
    "UNet": "gen_jax.nn.unet",
    "diffusion_model": "gen_jax.models.diffusion",
    "CausalTransformer": "gen_jax.nn.transformer",
    "autoregressive_model": "gen_jax.models.autoregressive",
    "autoencoder_model": "gen_jax.models.autoencoder",
    "adversarial_autoencoder_model": "gen_jax.models.adversarial_autoencoder",
    "vae_model": "gen_jax.models.vae",
    "PixelCNN": "gen_jax.nn.pixelcnn",
    "dvae_model": "gen_jax.models.dvae",
    "vqvae_model": "gen_jax.models.vqvae",
    "hierarchical_model": "gen_jax.models.autoregressive",
    "unit": "gen_jax.codecs",
    "tokens": "gen_jax.codecs",
    "binary": "gen_jax.codecs",
    "dequantize": "gen_jax.codecs",
    "pretrained": "gen_jax.codecs",
    "make_train_step": "gen_jax.train.step",
    "init_state": "gen_jax.train.state",
    "TrainState": "gen_jax.train.state",
    "Model": "gen_jax.protocols",
    "Codec": "gen_jax.protocols",
    "rgb": "gen_jax.codecs",
    "with_codec": "gen_jax.codecs",
}
_MODULES = ("diffusion", "ops")
_RENAMED = {name: name.removesuffix("_model") for name in _PUBLIC if name.endswith("_model")}

__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name])
    return module if name in _MODULES else getattr(module, _RENAMED.get(name, name))


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
