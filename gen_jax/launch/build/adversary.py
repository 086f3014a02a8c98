"""The adversary and the perceptual loss that an autoencoder's config may ask for."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from gen_jax.codecs import with_codec
from gen_jax.interop.pretrained import load_pretrained
from gen_jax.launch.build.experiment import Experiment, make_optimizer
from gen_jax.models.adversary import Adversary, with_adversary
from gen_jax.nn.gan import PatchDiscriminator
from gen_jax.protocols import Codec, Model
from gen_jax.typing import Array, PyTree

__all__ = ["autoencoding"]


def autoencoding(
    model: Model,
    codec: Codec,
    values: Mapping[str, Any],
    *,
    last: str,
    mean: Callable[[Array], Array],
    low: float,
) -> Experiment:
    """Make the experiment of an autoencoder, with an adversary where there is to be one.

    Args:
        model: of x.
        codec: between images and x.
        values: of the config, by dotted name.
        last: pattern of the path of the network's last layer.
        mean: from that layer's outputs to x.
        low: the least value of x; the largest is 1.
    """
    steps, name = values["train.steps"], values["model.perceptual"]
    perceptual = None if name == "none" else name
    optimizers: dict[str, optax.GradientTransformation] = {"net": make_optimizer(values)}
    alone = values["model.adversary"] == "none"
    if alone and perceptual is None:
        return Experiment(with_codec(model, codec), optimizers)
    adversary = Adversary(
        last,
        mean,
        low,
        game=values["model.adversarial_game"],
        weight=values["model.disc_weight"],
        adaptive=values["model.adaptive"],
        disc_from=round(steps * values["model.disc_from"]),
        gen_from=round(steps * values["model.adversarial_from"]),
        ramp=max(1, round(steps * values["model.adversarial_ramp"])),
        lecam=values["model.lecam"],
        perceptual=perceptual,
        perceptual_weight=values["model.perceptual_weight"],
    )
    discriminator = None
    if not alone:
        discriminator = PatchDiscriminator(
            tuple(values["model.disc_widths"]),
            values["model.disc_groups"],
            jnp.dtype(values["model.dtype"]),
        )
        optimizers["disc"] = make_optimizer(values, "disc")
    model = with_codec(with_adversary(model, discriminator, adversary), codec)

    def load() -> Mapping[str, PyTree]:
        return {} if perceptual is None else {"perceptual": load_pretrained(perceptual)}

    return Experiment(model, optimizers, training_frozen=load)
