"""Generative adversarial networks."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import Family, choice, integer, integers, number, prefixed
from gen_jax.models.rules import GAMES
from gen_jax.nn.geometry import alias_free_faults, gan_faults

__all__ = ["FAMILY"]

# How R1 and R2, or WGAN-GP, are named in a config.
PENALTIES = ("r1_r2", "r1", "interpolation", "none")


def _network(values: Mapping[str, Any]) -> dict[str, str]:
    given = {"widths": values["model.widths"], "resolution": values["data.shape"][:2]}
    faults = dict(gan_faults(**given))
    if values["model.network"] == "alias_free":
        number = values["model.num_convolutions"]
        faults |= alias_free_faults(**given, num_convolutions=number)
    if "resolution" in faults:
        return {"data.shape": faults["resolution"]}
    return prefixed("model", faults)


def _turns(values: Mapping[str, Any]) -> dict[str, str]:
    turns, size = values["model.critic_turns"], values["data.batch_size"]
    parts_of = values["train.microbatches"] * turns
    if size % parts_of:
        return {"model.critic_turns": f"{parts_of} parts do not divide data.batch_size {size}"}
    return {}


def _style(values: Mapping[str, Any]) -> dict[str, str]:
    network = values["model.network"]
    if network == "residual":
        return {}
    faults: dict[str, str] = {}
    for name, only in (("game", "non_saturating"), ("critic_turns", 1)):
        if values[f"model.{name}"] != only:
            faults[f"model.{name}"] = (
                f"got {values[f'model.{name}']!r}; a {network!r} network has {only!r}"
            )
    if (
        network == "style"
        and values["model.path_every"]
        and values["data.batch_size"] % (2 * values["train.microbatches"])
    ):
        faults["model.path_every"] = "takes half of a batch, whose size must be even"
    return faults


def _game(values: Mapping[str, Any]) -> dict[str, str]:
    if values["model.game"] == "wasserstein" and values["model.penalty"] == "none":
        return {"model.penalty": "'none'; the wasserstein game's critic has no bound without one"}
    return {}


FAMILY = Family(
    fields={
        "model.network": choice(
            "residual",
            "style",
            "alias_free",
            change="frozen",
            doc="the generator: R3GAN's residual blocks, StyleGAN2's, or StyleGAN3's",
        ),
        "model.style_dim": integer(
            1, default=128, change="frozen", doc="style, alias_free: length of w"
        ),
        "model.mapping_depth": integer(
            1, default=2, change="frozen", doc="style, alias_free: layers between z and w"
        ),
        "model.num_convolutions": integer(
            1,
            default=8,
            change="frozen",
            doc="alias_free: layers between the Fourier features and the colors; they have as many "
            "channels as the first of model.widths at most, and in the end as many as the last",
        ),
        "model.mixing": number(
            0, 1, default=0.9, doc="style: share of images whose finer layers have another style"
        ),
        "model.path_every": integer(
            0, default=4, doc="style: steps between two penalties of path lengths; 0 takes none"
        ),
        "model.path_weight": number(0, default=2.0, doc="style: weight of path lengths' penalty"),
        "model.latent_dim": integer(1, default=64, change="frozen", doc="length of z"),
        "model.widths": integers(
            1,
            default=(96, 96, 64, 32),
            change="frozen",
            doc="channels of each resolution, from the coarsest; each is twice as large",
        ),
        "model.num_blocks": integer(
            1, default=1, change="frozen", doc="residual blocks of each resolution"
        ),
        "model.embedding_dim": integer(
            1, default=64, change="frozen", doc="length of a class's vector"
        ),
        **parts.num_classes(),
        "model.game": choice(
            *GAMES, doc="what the players minimize; 'paired' is R3GAN's relativistic pairing"
        ),
        "model.penalty": choice(
            *PENALTIES, doc="squared gradients at real and fake images, or WGAN-GP's between them"
        ),
        "model.gamma": number(
            0,
            default=1e-3,
            doc="weight of R1 and R2 over the number of pixels: the same at each resolution",
        ),
        "model.gamma_end": number(
            0, default=1e-3, doc="that weight at the last step, reached along half a cosine"
        ),
        "model.interpolation": number(
            0, above=True, default=10.0, doc="interpolation: weight of WGAN-GP's penalty"
        ),
        "model.penalty_every": integer(
            1, default=1, doc="steps between two penalties, each of which counts as many times"
        ),
        "model.critic_turns": integer(
            1, default=1, doc="discriminator's turns in a step; of several each sees its part"
        ),
        "model.augmentation": number(
            0, 1, default=0.0, doc="probability of each augmentation at the first step"
        ),
        "model.augmentation_end": number(
            0, 1, default=0.0, doc="that probability at the last step"
        ),
        "model.adapted_over": integer(
            0,
            default=0,
            change="frozen",
            doc="images in which the probability may go from 0 to 1, adapted (ADA); 0 adapts none",
        ),
        **parts.DTYPE,
    },
    rules=(_network, _turns, _game, _style),
    defaults={
        # Momentum of gradients that the other player moves, and clipping, do harm here.
        "optimizer.learning_rate": 2e-4,
        "optimizer.b1": 0.0,
        "optimizer.b2": 0.99,
        "optimizer.clip_norm": 0.0,
    },
    tiny={
        "model.latent_dim": 8,
        "model.widths": lambda widths: (16, 8)[: len(widths)],
        "model.num_blocks": 1,
        "model.embedding_dim": 4,
        "model.style_dim": 8,
        "model.num_convolutions": 3,
    },
    players=("gen", "disc"),
)
