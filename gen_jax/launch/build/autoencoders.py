"""Networks, likelihoods and codecs that several families of autoencoders have."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax import codecs
from gen_jax.launch.config.parts import CONV
from gen_jax.nn.autoencoder import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from gen_jax.ops import likelihoods
from gen_jax.ops.likelihoods import Likelihood, Sigma
from gen_jax.protocols import Codec, Model

__all__ = ["codec_and_likelihood", "halves", "latent_shape", "without_false_density"]


def latent_shape(values: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of one code: a vector, or a grid of them."""
    if values.get("model.latent") != "grid":
        return (values["model.latent_dim"],)
    side = values["data.shape"][0] // 2 ** (len(values["model.multipliers"]) - 1)
    return (side, side, values["model.latent_dim"])


def halves(
    values: Mapping[str, Any],
    likelihood: Likelihood,
    *,
    codes: int = 1,
    num_classes: int | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Make an encoder, with ``codes`` outputs for each element of a code, and its decoder."""
    height, width, channels = values["data.shape"]
    num_codes = codes * values["model.latent_dim"]
    outputs = likelihood.num_outputs(channels)
    shared = {"num_classes": num_classes, "dtype": jnp.dtype(values["model.dtype"])}
    if values["model.network"] == "mlp":
        shared["activation"] = values["model.activation"]
        widths = tuple(values["model.widths"])
        return (
            MLPEncoder(widths, num_codes, **shared),
            MLPDecoder(widths[::-1], (height, width), outputs, **shared),
        )
    shared |= {name: values[f"model.{name}"] for name in CONV[:-1]}
    flat, inner = len(latent_shape(values)) == 1, values["model.projected"]
    return (
        ConvEncoder(height, num_codes, flat=flat, projected=codes * inner, **shared),
        ConvDecoder(height, outputs, projected=inner, **shared),
    )


def codec_and_likelihood(
    name: str,
    channels: int,
    *,
    binarize: str = "none",
    sigma: Sigma = "fixed",
    log_sigma: float = 0.0,
    components: int = 10,
    noise: bool = False,
) -> tuple[Codec, Likelihood]:
    """Make a likelihood by name, and the codec that gives images the values it is about.

    Args:
        name: of the likelihood.
        channels: of the images.
        binarize: for ``"bernoulli"``; see :func:`gen_jax.codecs.binary`.
        sigma: for ``"gaussian"``, as log_sigma.
        log_sigma: at the start.
        components: of ``"logistic_mixture"``.
        noise: for ``"gaussian"``: whether gray levels are filled with noise, so that its density
            bounds probabilities of pixels.
    """
    if name == "bernoulli":
        return codecs.binary(binarize), likelihoods.bernoulli()
    if name == "gaussian":
        codec = codecs.dequantize() if noise else codecs.rgb()
        return codec, likelihoods.gaussian(sigma, log_sigma)
    if name == "logit_laplace":
        return codecs.unit(), likelihoods.logit_laplace()
    # These give probabilities of gray levels, which no change of units changes.
    codec = codecs.rgb()._replace(log_scale=0.0)
    if name == "discretized_logistic":
        return codec, likelihoods.discretized_logistic()
    return codec, likelihoods.logistic_mixture(channels, components)


def without_false_density(model: Model, values: Mapping[str, Any]) -> Model:
    """Take the density from a model of gray levels as they are: their cross-entropy is none."""
    if (values["model.likelihood"], values["model.binarize"]) == ("bernoulli", "none"):
        return model._replace(density=None)
    return model
