"""Adversarial autoencoders."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gen_jax.codecs import with_codec
from gen_jax.launch.build import autoencoders
from gen_jax.launch.build.experiment import Experiment, Stage1, make_optimizer
from gen_jax.models.adversarial_autoencoder import adversarial_autoencoder_model
from gen_jax.nn.autoencoder import CodeDiscriminator
from gen_jax.train.optimizers import by_subtree

__all__ = ["build"]


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizers."""
    del stage1
    codec, likelihood = autoencoders.codec_and_likelihood(
        values["model.likelihood"], values["data.shape"][2]
    )
    encoder, decoder = autoencoders.halves(values, likelihood)
    dtype = jnp.dtype(values["model.dtype"])
    discriminator = CodeDiscriminator(tuple(values["model.disc_widths"]), dtype=dtype)
    model = adversarial_autoencoder_model(
        encoder, decoder, discriminator, likelihood, values["model.latent_dim"]
    )
    # The encoder is trained in two turns of a step; the decoder sits out the second.
    halves = {"encoder": make_optimizer(values, turns=2), "decoder": make_optimizer(values)}
    optimizers = {"net": by_subtree(halves), "disc": make_optimizer(values, "disc")}
    return Experiment(with_codec(model, codec), optimizers)
