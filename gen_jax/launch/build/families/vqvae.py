"""VQ-VAE and VQ-VAE-2, with vector, residual or finite scalar quantization."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gen_jax.launch.build import autoencoders
from gen_jax.launch.build.adversary import autoencoding
from gen_jax.launch.build.experiment import Experiment, Stage1
from gen_jax.launch.config.parts import CONV
from gen_jax.models.vqvae import vqvae_model
from gen_jax.nn.autoencoder import ConvDecoder, ConvEncoder, ConvGrid
from gen_jax.nn.hierarchy import Hierarchy
from gen_jax.ops import quantizers
from gen_jax.ops.multi_scale import multi_scale
from gen_jax.ops.quantizers import Quantizer

__all__ = ["build"]


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizers."""
    del stage1
    shape = tuple(values["data.shape"])
    codec, likelihood = autoencoders.codec_and_likelihood(
        values["model.likelihood"],
        shape[2],
        binarize=values["model.binarize"],
        log_sigma=values["model.log_sigma"],
    )
    quantizer = _quantizer(values)
    network = _network(values, quantizer.dim, likelihood.num_outputs(shape[2]))
    model = vqvae_model(
        network,
        (quantizer,) * len(network.dims),
        likelihood,
        shape,
        commitment_cost=values["model.commitment_cost"],
    )
    model = autoencoders.without_false_density(model, values)
    # A density of gray levels without noise bounds no probability of pixels.
    codec = codec._replace(log_scale=None)
    last = f"up/double_{int(math.log2(values['model.factors'][0])) - 1}/phases"
    return autoencoding(
        model,
        codec,
        values,
        last=rf"^{last}$" if isinstance(network, Hierarchy) else r"^decoder/head$",
        mean=likelihood.mean,
        low=0.0 if values["model.likelihood"] == "bernoulli" else -1.0,
    )


def _network(values: Mapping[str, Any], dim: int, outputs: int) -> Hierarchy | ConvGrid:
    dtype, side = jnp.dtype(values["model.dtype"]), values["data.shape"][0]
    if values["model.network"] == "conv":
        conv = {name: values[f"model.{name}"] for name in CONV}
        encoder = ConvEncoder(side, dim, dtype=dtype, **conv)
        return ConvGrid(encoder, ConvDecoder(side, outputs, dtype=dtype, **conv), dim)
    factors = tuple(values["model.factors"])
    names = ("channels", "hidden", "num_blocks")
    return Hierarchy(
        num_outputs=outputs,
        factors=factors,
        dims=(dim,) * len(factors),
        dtype=dtype,
        **{name: values[f"model.{name}"] for name in names},
    )


def _quantizer(values: Mapping[str, Any]) -> Quantizer:
    if values["model.quantizer"] == "finite_scalar":
        return quantizers.finite_scalar(values["model.scalar_levels"], values["model.decay"])
    if values["model.quantizer"] == "multi_scale":
        return multi_scale(
            values["model.scales"],
            values["model.num_embeddings"],
            values["model.embedding_dim"],
            num_phi=values["model.num_phi"],
            decay=values["model.decay"],
            revive_below=values["model.revive_below"],
        )
    names = ("levels", "codebook", "cosine", "decay", "revive_below")
    return quantizers.vector(
        values["model.num_embeddings"],
        values["model.embedding_dim"],
        **{name: values[f"model.{name}"] for name in names},
    )
