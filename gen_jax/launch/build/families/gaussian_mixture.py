"""Mixtures of Gaussians."""

from collections.abc import Mapping
from typing import Any

from gen_jax.codecs import dequantize, with_codec
from gen_jax.launch.build.experiment import Experiment, Stage1, make_optimizer
from gen_jax.models.gaussian_mixture import gaussian_mixture_model

__all__ = ["build"]


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizer."""
    del stage1
    model = gaussian_mixture_model(values["data.shape"], values["model.num_components"])
    # Noise within each gray level: a density that bounds probabilities of pixels.
    return Experiment(with_codec(model, dequantize()), {"net": make_optimizer(values)})
