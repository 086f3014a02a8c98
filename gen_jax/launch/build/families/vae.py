"""Variational autoencoders: importance-weighted, conditional, and for latent diffusion."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gen_jax.launch.build import autoencoders
from gen_jax.launch.build.adversary import autoencoding
from gen_jax.launch.build.experiment import Experiment, Stage1
from gen_jax.models.vae import vae_model
from gen_jax.typing import Array

__all__ = ["build"]


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizers."""
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
    mlp = values["model.network"] == "mlp"
    height, width, _ = values["data.shape"]

    def mean(outputs: Array) -> Array:
        return likelihood.mean(jnp.reshape(outputs, (len(outputs), height, width, -1)))

    return autoencoding(
        autoencoders.without_false_density(model, values),
        codec,
        values,
        last=rf"^decoder/dense_{len(values['model.widths'])}$" if mlp else "^decoder/head$",
        mean=mean,
        low=0.0 if values["model.likelihood"] == "bernoulli" else -1.0,
    )
