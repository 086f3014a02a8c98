"""What the families of autoencoders share: fields, networks, likelihoods and codecs.

Its top level imports no JAX, because the schema reads it before anything heavy is loaded.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gen_jax.launch.schema import boolean, choice, integer, integers
from gen_jax.nn.geometry import autoencoder_faults

if TYPE_CHECKING:
    import flax.linen as nn

    from gen_jax.ops.likelihoods import Likelihood, Sigma
    from gen_jax.protocols import Codec

__all__ = [
    "CONV",
    "CONV_FIELDS",
    "FIELDS",
    "codec_and_likelihood",
    "halves",
    "latent_shape",
    "network_faults",
]

FIELDS = {
    "model.network": choice("mlp", "conv", change="frozen"),
    "model.widths": integers(1, change="frozen"),  # mlp; the decoder has them in reverse
    "model.activation": choice("tanh", "relu", "silu", change="frozen"),  # mlp
    "model.channels": integer(1, change="frozen"),  # conv, from here
    "model.multipliers": integers(1, change="frozen"),
    "model.num_res_blocks": integer(1, change="frozen"),
    "model.groups": integer(1, change="frozen"),
    "model.attention": boolean(change="frozen"),
    "model.projected": integer(0, change="frozen"),  # channels inside a 1x1 convolution; to here
    "model.latent_dim": integer(1, change="frozen"),
    "model.dtype": choice("float32", "bfloat16"),
}

_CONV = ("channels", "multipliers", "num_res_blocks", "groups", "attention")
CONV = (*_CONV, "projected")
CONV_FIELDS = {f"model.{name}": FIELDS[f"model.{name}"] for name in CONV}


def network_faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong between a network's fields that are each right by themselves."""
    if values["model.network"] == "mlp":
        if values.get("model.latent") == "grid":
            return [("model.latent", "'grid'; with model.network 'mlp' a code is a 'vector'")]
        return []
    if values["model.projected"] and values.get("model.latent") != "grid":
        return [("model.projected", f"{values['model.projected']}; 0 is needed for a 'vector'")]
    return conv_faults(values)


def conv_faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong between the fields of convolutional halves."""
    height, width, _ = values["data.shape"]
    if height != width:
        return [("data.shape", f"{height}x{width}; a convolutional network needs square images")]
    names = ("channels", "multipliers", "groups")
    faults = autoencoder_faults(
        resolution=height, **{name: values[f"model.{name}"] for name in names}
    )
    return [(f"model.{name}", fault) for name, fault in faults.items()]


def latent_shape(values: Mapping[str, Any]) -> tuple[int, ...]:
    """Give the shape of one code: a vector, or a grid of them."""
    if values.get("model.latent") != "grid":
        return (values["model.latent_dim"],)
    side = values["data.shape"][0] // 2 ** (len(values["model.multipliers"]) - 1)
    return (side, side, values["model.latent_dim"])


def halves(
    values: Mapping[str, Any],
    likelihood: "Likelihood",
    *,
    codes: int = 1,
    num_classes: int | None = None,
) -> "tuple[nn.Module, nn.Module]":
    """Make an encoder, with ``codes`` outputs for each element of a code, and its decoder."""
    import jax.numpy as jnp

    from gen_jax.nn.autoencoder import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder

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
    shared |= {name: values[f"model.{name}"] for name in _CONV}
    flat, inner = len(latent_shape(values)) == 1, values["model.projected"]
    return (
        ConvEncoder(height, num_codes, flat=flat, projected=codes * inner, **shared),
        ConvDecoder(height, outputs, projected=inner, **shared),
    )


def codec_and_likelihood(
    name: str,
    channels: int,
    *,
    binarise: str = "none",
    sigma: "Sigma" = "fixed",
    log_sigma: float = 0.0,
    components: int = 10,
    noise: bool = False,
) -> "tuple[Codec, Likelihood]":
    """Make a likelihood by name, and the codec that gives images the values it is about.

    Args:
        name: of the likelihood.
        channels: of the images.
        binarise: for ``"bernoulli"``; see :func:`gen_jax.codecs.binary`.
        sigma: for ``"gaussian"``, as log_sigma.
        log_sigma: at the start.
        components: of ``"logistic_mixture"``.
        noise: for ``"gaussian"``: whether grey levels are filled with noise, so that its density
            bounds probabilities of pixels.
    """
    from gen_jax import codecs
    from gen_jax.ops import likelihoods

    if name == "bernoulli":
        return codecs.binary(binarise), likelihoods.bernoulli()
    if name == "gaussian":
        codec = codecs.dequantize() if noise else codecs.rgb()
        return codec, likelihoods.gaussian(sigma, log_sigma)
    if name == "logit_laplace":
        return codecs.unit(), likelihoods.logit_laplace()
    # These give probabilities of grey levels, which no change of units changes.
    codec = codecs.rgb()._replace(log_scale=0.0)
    if name == "discretized_logistic":
        return codec, likelihoods.discretized_logistic()
    return codec, likelihoods.logistic_mixture(channels, components)
