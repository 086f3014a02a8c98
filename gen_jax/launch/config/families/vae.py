"""Variational autoencoders: importance-weighted, conditional, and for latent diffusion."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import Family, choice, integer, number, prefixed
from gen_jax.models.rules import vae_faults

__all__ = ["FAMILY"]


def _importance(values: Mapping[str, Any]) -> dict[str, str]:
    names = ("num_importance", "beta", "free_bits", "kl_warmup")
    gaussian = values["model.likelihood"] == "gaussian"
    sigma = values["model.sigma"] if gaussian else "fixed"
    given = {name: values[f"model.{name}"] for name in names}
    return prefixed("model", vae_faults(sigma=sigma, **given))


def _grid(values: Mapping[str, Any]) -> dict[str, str]:
    if values["model.latent"] == "grid" and values["model.num_classes"]:
        return {"model.num_classes": "0 is required for a 'grid', which a second stage models"}
    return {}


def _adversary(values: Mapping[str, Any]) -> dict[str, str]:
    for name in ("adversary", "perceptual"):
        if values[f"model.{name}"] != "none" and values["model.num_importance"] > 1:
            return {f"model.{name}": "'none' is required with model.num_importance above 1"}
    return {}


FAMILY = Family(
    fields={
        **parts.AUTOENCODER,
        **parts.ADVERSARY,
        "model.latent": choice(
            "vector",
            "grid",
            change="frozen",
            doc="shape of a code: one vector, or a grid of them (conv)",
        ),
        "model.likelihood": choice(
            "bernoulli",
            "gaussian",
            "discretized_logistic",
            "logistic_mixture",
            change="frozen",
            doc="p(x | z)",
        ),
        **parts.binarize("stochastic"),
        "model.sigma": choice(
            "fixed",
            "learned",
            "optimal",
            default="optimal",
            change="frozen",
            doc="sigma of a Gaussian likelihood: fixed, learned, or optimal for each batch",
        ),
        **parts.log_sigma(),
        "model.components": integer(
            1, 1000, default=10, change="frozen", doc="logistic_mixture: components of each pixel"
        ),
        "model.beta": number(0, default=1.0, doc="weight of the KL"),
        "model.free_bits": number(
            0, default=0.0, doc="nats of each latent dimension below which its KL is not penalized"
        ),
        "model.kl_warmup": integer(
            0, default=0, doc="steps over which the weight of the KL rises from 0"
        ),
        "model.num_importance": integer(
            1, default=1, doc="importance samples of the loss; above 1 it is the IWAE's"
        ),
        **parts.num_classes(),
    },
    rules=(parts.network_faults, _importance, _grid, parts.adversary_faults, _adversary),
    players=("net", "disc"),
    tiny={
        **parts.TINY_AUTOENCODER,
        "model.num_importance": lambda num: min(num, 3),
    },
)
