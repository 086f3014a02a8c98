"""The models of diffusers that have a counterpart here, and what their weights are called.

For each class: what its config must say so that its forward pass is ours, what that is in our
terms, and the map of all weights. Whatever is not understood is refused by name.
"""

from collections.abc import Callable, Mapping
from typing import Any

from gen_jax.errors import CheckpointError
from gen_jax.interop.diffusers.autoencoder import autoencoder_kl, vq_model
from gen_jax.interop.diffusers.describe import describe
from gen_jax.interop.diffusers.foreign import Foreign
from gen_jax.interop.diffusers.scheduler import read_scheduler, scheduler_config
from gen_jax.interop.diffusers.transformer import dit
from gen_jax.interop.diffusers.unet import unet2d, unet2d_condition

__all__ = [
    "CLASSES",
    "Foreign",
    "describe",
    "read_architecture",
    "read_scheduler",
    "scheduler_config",
]


def read_architecture(config: Mapping[str, Any]) -> Foreign:
    """Read the config of a diffusers model.

    Args:
        config: what its ``config.json`` holds.

    Raises:
        CheckpointError: naming the key, its value and what is accepted.
    """
    name = str(config.get("_class_name"))
    if name not in CLASSES:
        raise CheckpointError(f"_class_name: {name!r}; one of {', '.join(CLASSES)} can be imported")
    try:
        return CLASSES[name](config)
    except KeyError as error:
        raise CheckpointError(f"{error.args[0]}: missing, or unknown") from error
    except (TypeError, IndexError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise CheckpointError(f"{name}: its options do not fit together: {error}") from error


CLASSES: Mapping[str, Callable[[Mapping[str, Any]], Foreign]] = {
    "UNet2DModel": unet2d,
    "UNet2DConditionModel": unet2d_condition,
    "AutoencoderKL": autoencoder_kl,
    "VQModel": vq_model,
    "DiTTransformer2DModel": dit,
}
