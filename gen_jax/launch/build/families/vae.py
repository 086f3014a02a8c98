"""Variational autoencoders: importance-weighted, conditional, and for latent diffusion."""

from collections.abc import Mapping
from typing import Any

from gen_jax.codecs import with_codec
from gen_jax.launch.build import autoencoders
from gen_jax.launch.build.experiment import Experiment, Stage1, make_optimizer
from gen_jax.models.vae import vae_model

__all__ = ["build"]


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizer."""
    del stage1
    num_classes = values["model.num_classes"] or None
    names = ("binarize", "sigma", "log_sigma", "components")
    codec, likelihood = autoencoders.codec_and_likelihood(
        values["model.likelihood"],
        values["data.shape"][2],
        noise=True,
        **{name: values[f"model.{name}"] for name in names},
    )
    encoder, decoder = autoencoders.halves(values, likelihood, codes=2, num_classes=num_classes)
    names = ("beta", "free_bits", "kl_warmup", "num_importance")
    model = vae_model(
        encoder,
        decoder,
        likelihood,
        autoencoders.latent_shape(values),
        num_classes=num_classes,
        standardize=values["model.latent"] == "grid",
        **{name: values[f"model.{name}"] for name in names},
    )
    model = with_codec(autoencoders.without_false_density(model, values), codec)
    return Experiment(model, {"net": make_optimizer(values)})
