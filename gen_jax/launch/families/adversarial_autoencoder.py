"""Adversarial autoencoders."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gen_jax.launch import autoencoders
from gen_jax.launch.schema import choice, integers

if TYPE_CHECKING:
    from gen_jax.launch.experiment import Experiment

FIELDS = {
    **autoencoders.FIELDS,
    "model.likelihood": choice("bernoulli", "gaussian", change="frozen"),
    "model.disc_widths": integers(1, change="frozen"),
}

LATENTS = True  # has encode and decode
PRIOR = True  # on its codes, N(0, 1)


def faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong between fields that are each right by themselves."""
    return autoencoders.network_faults(values)


def build(values: Mapping[str, Any]) -> "Experiment":
    """Build the model, its codec and its optimisers."""
    # Here and not above: the schema reads FIELDS before anything heavy may be loaded.
    import jax.numpy as jnp

    from gen_jax.codecs import with_codec
    from gen_jax.launch.experiment import Experiment, make_optimizer
    from gen_jax.models.adversarial_autoencoder import adversarial_autoencoder_model
    from gen_jax.nn.autoencoder import CodeDiscriminator
    from gen_jax.nn.blocks import TENSOR_DIMS
    from gen_jax.train.optimizers import by_subtree

    codec, likelihood = autoencoders.codec_and_likelihood(
        values["model.likelihood"], values["data.shape"][2]
    )
    encoder, decoder = autoencoders.halves(values, likelihood)
    discriminator = CodeDiscriminator(
        tuple(values["model.disc_widths"]), dtype=jnp.dtype(values["model.dtype"])
    )
    model = adversarial_autoencoder_model(
        encoder, decoder, discriminator, likelihood, values["model.latent_dim"]
    )
    return Experiment(
        model=with_codec(model, codec),
        optimizers={
            # The encoder is trained in two turns of a step; the decoder sits out the second.
            "net": by_subtree(
                {"encoder": make_optimizer(values, turns=2), "decoder": make_optimizer(values)}
            ),
            "disc": make_optimizer(values),
        },
        frozen={"codec": {}},
        tensor_dims=TENSOR_DIMS,
    )
