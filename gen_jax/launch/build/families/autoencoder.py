"""Deterministic autoencoders: plain, denoising and sparse."""

from collections.abc import Mapping
from typing import Any

from gen_jax.codecs import with_codec
from gen_jax.launch.build import autoencoders
from gen_jax.launch.build.experiment import Experiment, Stage1, make_optimizer
from gen_jax.models.autoencoder import autoencoder_model
from gen_jax.ops import corruptions

__all__ = ["build"]


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizer."""
    del stage1
    codec, likelihood = autoencoders.codec_and_likelihood(
        values["model.likelihood"], values["data.shape"][2]
    )
    encoder, decoder = autoencoders.halves(values, likelihood)
    low = 0.0 if values["model.likelihood"] == "bernoulli" else -1.0  # black
    level = values["model.corruption_level"]
    makers = {
        "none": lambda: None,
        "masking": lambda: corruptions.masking(level, low),
        "gaussian": lambda: corruptions.gaussian_noise(level),
        "salt_and_pepper": lambda: corruptions.salt_and_pepper(level, low, 1.0),
    }
    names = ("sparsity", "sparsity_weight", "sparsity_target")
    model = autoencoder_model(
        encoder,
        decoder,
        likelihood,
        autoencoders.latent_shape(values),
        standardize=values["model.latent"] == "grid",
        corruption=makers[values["model.corruption"]](),
        **{name: values[f"model.{name}"] for name in names},
    )
    return Experiment(with_codec(model, codec), {"net": make_optimizer(values)})
