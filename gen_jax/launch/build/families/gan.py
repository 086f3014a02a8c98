"""Generative adversarial networks."""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gen_jax.codecs import rgb, with_codec
from gen_jax.launch.build.experiment import Experiment, Stage1, make_optimizer
from gen_jax.models.gan import Augmenting, Penalties, Styles, gan_model, stylegan_model
from gen_jax.nn.alias_free import AliasFreeGenerator
from gen_jax.nn.gan import Discriminator, Generator
from gen_jax.nn.stylegan import StyleBased, StyleGenerator
from gen_jax.ops.ramps import Ramp

__all__ = ["build"]


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizers."""
    del stage1
    shape, steps = tuple(values["data.shape"]), values["train.steps"]
    num_classes = values["model.num_classes"] or None
    shared = {
        "shape": shape,
        "widths": tuple(values["model.widths"]),
        "num_blocks": values["model.num_blocks"],
        "num_classes": num_classes,
        "embedding_dim": values["model.embedding_dim"],
        "dtype": jnp.dtype(values["model.dtype"]),
    }
    pixels, kind = math.prod(shape[:2]), values["model.penalty"]
    penalties = Penalties(
        Ramp(pixels * values["model.gamma"], pixels * values["model.gamma_end"], steps),
        r1=kind in ("r1", "r1_r2"),
        r2=kind == "r1_r2",
        interpolation=values["model.interpolation"] if kind == "interpolation" else 0.0,
        every=values["model.penalty_every"],
    )
    adapted = values["model.adapted_over"]
    augmenting = Augmenting(
        Ramp(values["model.augmentation"], values["model.augmentation_end"], steps),
        ramp_steps=max(1, adapted // values["data.batch_size"]) if adapted else 0,
    )
    if (network := values["model.network"]) != "residual":
        given = {
            "shape": shape,
            "widths": shared["widths"],
            "style_dim": values["model.style_dim"],
            "depth": values["model.mapping_depth"],
            "num_classes": num_classes,
            "dtype": shared["dtype"],
        }
        generator: StyleBased
        if network == "style":
            generator = StyleGenerator(**given)
            names = ("mixing", "path_every", "path_weight")
            styles = {name: values[f"model.{name}"] for name in names}
        else:
            layers = values["model.num_convolutions"]
            generator = AliasFreeGenerator(**given, num_convolutions=layers)
            styles = {"mixing": 0.0, "path_every": 0}  # as the paper does without both
        model = stylegan_model(
            generator,
            Discriminator(**shared),
            values["model.latent_dim"],
            shape,
            styles=Styles(**styles),
            penalties=penalties,
            augmenting=augmenting,
            num_classes=num_classes,
        )
        # The generator is trained in two turns of some steps.
        optimizers = {player: make_optimizer(values, player) for player in ("gen", "disc")}
        return Experiment(with_codec(model, rgb()), optimizers)
    model = gan_model(
        Generator(**shared),
        Discriminator(**shared),
        values["model.latent_dim"],
        shape,
        game=values["model.game"],
        penalties=penalties,
        augmenting=augmenting,
        critic_turns=values["model.critic_turns"],
        num_classes=num_classes,
    )
    turns = values["model.critic_turns"]
    optimizers = {
        "gen": make_optimizer(values, "gen"),
        "disc": make_optimizer(values, "disc", turns=turns),
    }
    return Experiment(with_codec(model, rgb()), optimizers)
