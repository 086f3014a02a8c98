"""Variational autoencoders: importance-weighted, conditional, and for latent diffusion."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gen_jax.launch import autoencoders
from gen_jax.launch.schema import choice, integer, number

if TYPE_CHECKING:
    from gen_jax.launch.experiment import Experiment

FIELDS = {
    **autoencoders.FIELDS,
    "model.latent": choice("vector", "grid", change="frozen"),
    "model.likelihood": choice(
        "bernoulli", "gaussian", "discretized_logistic", "logistic_mixture", change="frozen"
    ),
    "model.binarise": choice("stochastic", "threshold", "none", change="frozen"),  # bernoulli
    "model.sigma": choice("fixed", "learned", "optimal", change="frozen"),  # gaussian
    "model.log_sigma": number(-20, 20, change="frozen"),  # gaussian
    "model.components": integer(1, 1000, change="frozen"),  # logistic_mixture
    "model.beta": number(0),
    "model.free_bits": number(0),  # nats a latent unit
    "model.kl_warmup": integer(0),  # steps
    "model.num_importance": integer(1),
    "model.num_classes": integer(0, change="frozen"),  # 0: unconditional
}

LATENTS = True  # has encode and decode
PRIOR = True  # on its codes, N(0, 1)


def faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong between fields that are each right by themselves."""
    found = autoencoders.network_faults(values)
    if values["model.num_importance"] > 1:
        for name, needed in (("beta", 1), ("free_bits", 0), ("kl_warmup", 0)):
            value = values[f"model.{name}"]
            if value != needed:
                found.append(
                    (f"model.{name}", f"{value}; {needed} is needed with model.num_importance > 1")
                )
        if (values["model.likelihood"], values["model.sigma"]) == ("gaussian", "optimal"):
            found.append(
                ("model.sigma", "'optimal'; 'fixed' or 'learned' with model.num_importance > 1")
            )
    if values["model.latent"] == "grid" and values["model.num_classes"]:
        found.append(("model.num_classes", "0 is needed for a 'grid', which a second stage models"))
    return found


def build(values: Mapping[str, Any]) -> "Experiment":
    """Build the model, its codec and its optimiser."""
    # Here and not above: the schema reads FIELDS before anything heavy may be loaded.
    from gen_jax.codecs import with_codec
    from gen_jax.launch.experiment import Experiment, make_optimizer
    from gen_jax.models.vae import vae_model
    from gen_jax.nn.blocks import TENSOR_DIMS

    num_classes = values["model.num_classes"] or None
    codec, likelihood = autoencoders.codec_and_likelihood(
        values["model.likelihood"],
        values["data.shape"][2],
        noise=True,
        **{
            name: values[f"model.{name}"]
            for name in ("binarise", "sigma", "log_sigma", "components")
        },
    )
    encoder, decoder = autoencoders.halves(values, likelihood, codes=2, num_classes=num_classes)
    names = ("beta", "free_bits", "kl_warmup", "num_importance")
    model = vae_model(
        encoder,
        decoder,
        likelihood,
        autoencoders.latent_shape(values),
        num_classes=num_classes,
        standardise=values["model.latent"] == "grid",
        **{name: values[f"model.{name}"] for name in names},
    )
    if (values["model.likelihood"], values["model.binarise"]) == ("bernoulli", "none"):
        # A cross-entropy of grey levels is a loss and no density.
        model = model._replace(density=None)
    return Experiment(
        model=with_codec(model, codec),
        optimizers={"net": make_optimizer(values)},
        frozen={"codec": {}},
        tensor_dims=TENSOR_DIMS,
    )
