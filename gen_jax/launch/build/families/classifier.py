"""Classifiers of clean or noisy images."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gen_jax.codecs import rgb, with_codec
from gen_jax.diffusion import log_normal_noise
from gen_jax.launch.build.experiment import Experiment, Stage1, make_optimizer
from gen_jax.launch.build.processes import make_schedule
from gen_jax.models.classifier import classifier_model
from gen_jax.nn.classifier import Classifier

__all__ = ["build"]

_NETWORK = (
    *("channels", "multipliers", "num_res_blocks", "attention_resolutions", "num_heads"),
    *("groups", "dropout", "remat", "num_classes"),
)


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizer."""
    del stage1
    network = Classifier(
        resolution=values["data.shape"][0],
        dtype=jnp.dtype(values["model.dtype"]),
        **{name: values[f"model.{name}"] for name in _NETWORK},
    )
    schedule, num_steps = make_schedule(values)
    # Uniform times of edm would nearly all be noise without an image.
    times = log_normal_noise(schedule) if values["diffusion.schedule"] == "edm" else None
    noise = schedule if values["model.noisy"] else None
    model = classifier_model(network, values["model.num_classes"], noise, num_steps, times)
    return Experiment(with_codec(model, rgb()), {"net": make_optimizer(values)})
