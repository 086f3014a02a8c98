"""Classifiers of clean or noisy images."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gen_jax.launch.families import diffusion
from gen_jax.launch.schema import boolean, integer
from gen_jax.nn.geometry import unet_faults

if TYPE_CHECKING:
    from gen_jax.launch.experiment import Experiment

_NETWORK = (
    *("channels", "multipliers", "num_res_blocks", "attention_resolutions", "num_heads"),
    *("groups", "dropout", "remat"),
)
_NOISE = ("schedule", "num_steps", "beta_start", "beta_end", "sigma_max")

FIELDS = {
    **{f"model.{name}": diffusion.FIELDS[f"model.{name}"] for name in (*_NETWORK, "dtype")},
    "model.num_classes": integer(2, change="frozen"),
    "model.noisy": boolean(change="frozen"),  # to guide a diffusion model on this noise:
    **{f"diffusion.{name}": diffusion.FIELDS[f"diffusion.{name}"] for name in _NOISE},
}


def faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong between fields that are each right by themselves."""
    height, width, _ = values["data.shape"]
    if height != width:
        return [("data.shape", f"{height}x{width}; the network needs square images")]
    names = ("channels", "multipliers", "attention_resolutions", "num_heads", "groups")
    found = unet_faults(resolution=height, **{name: values[f"model.{name}"] for name in names})
    return [(f"model.{name}", fault) for name, fault in found.items()] + diffusion.beta_faults(
        values
    )


def build(values: Mapping[str, Any], stage1: None = None) -> "Experiment":
    """Build the model, its codec and its optimiser."""
    import jax.numpy as jnp

    from gen_jax.codecs import rgb, with_codec
    from gen_jax.diffusion import log_normal_noise
    from gen_jax.launch.experiment import Experiment, make_optimizer
    from gen_jax.models.classifier import classifier_model
    from gen_jax.nn.blocks import TENSOR_DIMS
    from gen_jax.nn.classifier import Classifier

    network = Classifier(
        resolution=values["data.shape"][0],
        num_classes=values["model.num_classes"],
        dtype=jnp.dtype(values["model.dtype"]),
        **{name: values[f"model.{name}"] for name in _NETWORK},
    )
    schedule, num_steps = diffusion.make_schedule(values)
    # Uniform times of edm would nearly all be noise without an image.
    times = log_normal_noise(schedule) if values["diffusion.schedule"] == "edm" else None
    noise = schedule if values["model.noisy"] else None
    model = classifier_model(network, values["model.num_classes"], noise, num_steps, times)
    return Experiment(
        model=with_codec(model, rgb()),
        optimizers={"net": make_optimizer(values)},
        frozen={"codec": {}},
        tensor_dims=TENSOR_DIMS,
    )
