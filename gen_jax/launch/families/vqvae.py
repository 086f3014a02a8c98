"""VQ-VAE and VQ-VAE-2, with vector, residual or finite scalar quantization."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gen_jax.launch import autoencoders
from gen_jax.launch.schema import boolean, choice, integer, integers, number
from gen_jax.nn.geometry import hierarchy_faults

if TYPE_CHECKING:
    from gen_jax.launch.experiment import Experiment
    from gen_jax.ops.quantizers import Quantizer

FIELDS = {
    **autoencoders.CONV_FIELDS,  # conv, but channels, which is of both
    "model.network": choice("hierarchy", "conv", change="frozen"),
    "model.factors": integers(2, change="frozen"),  # one a grid: (4,) VQ-VAE, (4, 2) VQ-VAE-2
    "model.hidden": integer(1, change="frozen"),
    "model.num_blocks": integer(0, change="frozen"),
    "model.likelihood": choice("gaussian", "bernoulli", change="frozen"),
    "model.binarise": choice("stochastic", "threshold", "none", change="frozen"),  # bernoulli
    "model.log_sigma": number(-20, 20),  # gaussian: the weight of squared errors
    "model.quantizer": choice("vector", "finite_scalar", change="frozen"),
    "model.num_embeddings": integer(2, change="frozen"),  # vector, from here
    "model.embedding_dim": integer(1, change="frozen"),
    "model.levels": integer(1, change="frozen"),  # above 1: residual
    "model.codebook": choice("ema", "gradient", change="frozen"),  # gradient: no revival
    "model.cosine": boolean(change="frozen"),
    "model.decay": number(0, 1, below=True),
    "model.revive_below": number(0),  # to here
    "model.scalar_levels": integers(2, change="frozen"),  # finite_scalar
    "model.commitment_cost": number(0),  # vector
    "model.dtype": choice("float32", "bfloat16"),
}

LATENTS = True  # has encode and decode
DISCRETE = True


def faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong between fields that are each right by themselves."""
    height, width, _ = values["data.shape"]
    if values["model.network"] == "conv":
        faults = autoencoders.conv_faults(values)
    else:
        found = hierarchy_faults(
            factors=values["model.factors"],
            channels=values["model.channels"],
            resolution=(height, width),
        )
        faults = [(f"model.{name}", fault) for name, fault in found.items()]
    if values["model.quantizer"] == "finite_scalar":
        levels = values["model.scalar_levels"]
        if not levels:
            faults.append(("model.scalar_levels", "(); with finite_scalar some are needed"))
        elif math.prod(levels) > 2**20:
            total = f"{math.prod(levels):,} codes; at most {2**20:,} can be counted"
            faults.append(("model.scalar_levels", f"{levels} make {total}"))
    elif values["model.cosine"] and values["model.levels"] > 1:
        faults.append(("model.levels", f"{values['model.levels']}; with model.cosine 1 is needed"))
    return faults


def build(values: Mapping[str, Any]) -> "Experiment":
    """Build the model, its codec and its optimiser."""
    # Here and not above: the schema reads FIELDS before anything heavy may be loaded.
    import jax.numpy as jnp

    from gen_jax.codecs import with_codec
    from gen_jax.launch.experiment import Experiment, make_optimizer
    from gen_jax.models.vqvae import vqvae_model
    from gen_jax.nn.autoencoder import ConvDecoder, ConvEncoder, ConvGrid
    from gen_jax.nn.blocks import TENSOR_DIMS
    from gen_jax.nn.hierarchy import Hierarchy

    shape, factors = tuple(values["data.shape"]), tuple(values["model.factors"])
    codec, likelihood = autoencoders.codec_and_likelihood(
        values["model.likelihood"],
        shape[2],
        binarise=values["model.binarise"],
        log_sigma=values["model.log_sigma"],
    )
    quantizer = _quantizer(values)
    dtype, outputs = jnp.dtype(values["model.dtype"]), likelihood.num_outputs(shape[2])
    network: Hierarchy | ConvGrid
    if values["model.network"] == "conv":
        conv = {name: values[f"model.{name}"] for name in autoencoders.CONV}
        encoder = ConvEncoder(shape[0], quantizer.dim, dtype=dtype, **conv)
        network = ConvGrid(
            encoder, ConvDecoder(shape[0], outputs, dtype=dtype, **conv), quantizer.dim
        )
    else:
        names = ("channels", "hidden", "num_blocks")
        network = Hierarchy(
            num_outputs=outputs,
            factors=factors,
            dims=(quantizer.dim,) * len(factors),
            dtype=dtype,
            **{name: values[f"model.{name}"] for name in names},
        )
    model = vqvae_model(
        network,
        (quantizer,) * len(network.dims),
        likelihood,
        shape,
        commitment_cost=values["model.commitment_cost"],
    )
    if (values["model.likelihood"], values["model.binarise"]) == ("bernoulli", "none"):
        # A cross-entropy of grey levels is a loss and no density.
        model = model._replace(density=None)
    return Experiment(
        # A density of grey levels without noise bounds no probability of pixels.
        model=with_codec(model, codec._replace(log_scale=None)),
        optimizers={"net": make_optimizer(values)},
        frozen={"codec": {}},
        tensor_dims=TENSOR_DIMS,
    )


def _quantizer(values: Mapping[str, Any]) -> "Quantizer":
    from gen_jax.ops import quantizers

    if values["model.quantizer"] == "finite_scalar":
        return quantizers.finite_scalar(values["model.scalar_levels"], values["model.decay"])
    return quantizers.vector(
        values["model.num_embeddings"],
        values["model.embedding_dim"],
        **{
            name: values[f"model.{name}"]
            for name in ("levels", "codebook", "cosine", "decay", "revive_below")
        },
    )
