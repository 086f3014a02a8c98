"""From images to images: pix2pix and CycleGAN."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gen_jax.codecs import rgb, with_codec
from gen_jax.launch.build.experiment import Experiment, Stage1, make_optimizer
from gen_jax.models.translation import cyclegan_model, pix2pix_model
from gen_jax.nn.gan import PatchDiscriminator
from gen_jax.nn.translation import Translator

__all__ = ["build"]


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizers."""
    del stage1
    shape, dtype = tuple(values["data.shape"]), jnp.dtype(values["model.dtype"])
    names = ("channels", "halvings", "num_blocks", "skips")
    generator = Translator(
        shape[2], dtype=dtype, **{name: values[f"model.{name}"] for name in names}
    )
    discriminator = PatchDiscriminator(
        tuple(values["model.disc_widths"]), values["model.disc_groups"], dtype
    )
    game = values["model.game"]
    if values["model.kind"] == "pairs":
        model = pix2pix_model(
            generator, discriminator, game=game, l1_weight=values["model.l1_weight"]
        )
    else:
        model = cyclegan_model(
            generator,
            discriminator,
            shape,
            batch_size=values["data.batch_size"],
            game=game,
            slots=values["model.pool"],
            cycle_weight=values["model.cycle_weight"],
            identity_weight=values["model.identity_weight"],
        )
    optimizers = {player: make_optimizer(values, player) for player in ("gen", "disc")}
    return Experiment(with_codec(model, rgb()), optimizers)
