"""Deterministic autoencoders: plain, denoising and sparse."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gen_jax.launch import autoencoders
from gen_jax.launch.schema import choice, number

if TYPE_CHECKING:
    from gen_jax.launch.experiment import Experiment

FIELDS = {
    **autoencoders.FIELDS,
    "model.latent": choice("vector", "grid", change="frozen"),
    "model.likelihood": choice("bernoulli", "gaussian", change="frozen"),
    "model.corruption": choice("none", "masking", "gaussian", "salt_and_pepper"),
    "model.corruption_level": number(0),  # a share of the pixels, or sigma
    "model.sparsity": choice("none", "l1", "kl", change="frozen"),
    "model.sparsity_weight": number(0),
    "model.sparsity_target": number(0, 1, above=True, below=True),
}

LATENTS = True  # has encode and decode


def faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong between fields that are each right by themselves."""
    found = autoencoders.network_faults(values)
    corruption, level = values["model.corruption"], values["model.corruption_level"]
    if corruption in ("masking", "salt_and_pepper") and level > 1:
        found.append(
            ("model.corruption_level", f"{level}; a share of the pixels, from 0 to 1, is needed")
        )
    return found


def build(values: Mapping[str, Any]) -> "Experiment":
    """Build the model, its codec and its optimiser."""
    # Here and not above: the schema reads FIELDS before anything heavy may be loaded.
    from gen_jax.codecs import with_codec
    from gen_jax.launch.experiment import Experiment, make_optimizer
    from gen_jax.models.autoencoder import autoencoder_model
    from gen_jax.nn.blocks import TENSOR_DIMS
    from gen_jax.ops import corruptions

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
        standardise=values["model.latent"] == "grid",
        corruption=makers[values["model.corruption"]](),
        **{name: values[f"model.{name}"] for name in names},
    )
    return Experiment(
        model=with_codec(model, codec),
        optimizers={"net": make_optimizer(values)},
        frozen={"codec": {}},
        tensor_dims=TENSOR_DIMS,
    )
