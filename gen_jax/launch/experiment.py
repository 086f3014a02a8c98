"""From a config to something that can be trained and sampled."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gen_jax.errors import CheckpointError
from gen_jax.launch.schema import fields_of, flatten
from gen_jax.launch.stage1 import load_codec
from gen_jax.protocols import Batch, Model
from gen_jax.train.optimizers import adamw, learning_rate
from gen_jax.train.state import TrainState, init_state
from gen_jax.typing import PyTree

__all__ = ["Experiment", "abstract_state", "build", "make_optimizer"]


class Experiment(NamedTuple):
    """A model of images, one optimiser for each player, and the weights nobody trains."""

    model: Model
    optimizers: Mapping[str, optax.GradientTransformation]
    frozen: PyTree
    num_classes: int | None  # what sampling may be conditioned on
    tensor_dims: Mapping[str, int] = {}  # see gen_jax.train.sharding.Rules
    stage1_digest: str | None = None  # of a second stage
    num_tokens: int | None = None  # of one x, where x is tokens
    extras: Mapping[str, tuple[int, ...]] = {}  # shapes of what else a batch holds, float32


def build(config: Mapping[str, Any], stage1: Path | None = None) -> Experiment:
    """Build what a config describes.

    Args:
        config: without faults.
        stage1: where the first stage is, for a second one; by default where the config says.

    Raises:
        CheckpointError: if the first stage cannot be loaded, or does not fit.
    """
    values = flatten(config)
    fields = fields_of(values["family"])
    # JSON knows no tuples, and 1 is a good float.
    values = {name: fields[name].kind(value) for name, value in values.items()}
    family = importlib.import_module(f"gen_jax.launch.families.{values['family']}")
    if not values.get("stage1"):
        return family.build(values)
    first = load_codec(stage1 or Path(values["stage1"]))
    if first.image_shape != tuple(values["data.shape"]):
        raise CheckpointError(
            f"data.shape: {values['data.shape']}; {first.image_shape} is needed, which the first "
            "stage was trained on"
        )
    return family.build(values, first)


def make_optimizer(values: Mapping[str, Any], turns: int = 1) -> optax.GradientTransformation:
    """Make the optimiser that a config's ``optimizer`` section describes.

    Args:
        values: of the config, by dotted name.
        turns: how often a step calls it, so that its schedule still spans the steps.
    """
    rate = learning_rate(
        values["optimizer.learning_rate"],
        warmup_steps=turns * values["optimizer.warmup_steps"],
        decay=values["optimizer.decay"],
        total_steps=turns * values["train.steps"],
    )
    names = ("b1", "b2", "eps", "weight_decay", "clip_norm", "moments")
    return adamw(rate, **{name: values[f"optimizer.{name}"] for name in names})


def abstract_state(experiment: Experiment, shape: tuple[int, int, int]) -> TrainState:
    """Give the shapes and types of a training state, without making one."""
    batch: Batch = {
        "image": jax.ShapeDtypeStruct((1, *shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((1,), jnp.int32),
        **{
            name: jax.ShapeDtypeStruct((1, *extra), jnp.float32)
            for name, extra in experiment.extras.items()
        },
    }
    return jax.eval_shape(
        lambda key, batch: init_state(experiment.model, experiment.optimizers, key, batch),
        jax.eval_shape(lambda: jax.random.key(0)),
        batch,
    )
