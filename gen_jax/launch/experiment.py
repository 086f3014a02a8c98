"""From a config to something that can be trained and sampled."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gen_jax.errors import CheckpointError
from gen_jax.launch.schema import fields_of, flatten
from gen_jax.launch.stage1 import load_codec
from gen_jax.protocols import Batch, Input, Model
from gen_jax.train.optimizers import adamw, learning_rate
from gen_jax.train.state import TrainState, init_state
from gen_jax.typing import PyTree

__all__ = ["Experiment", "abstract_batch", "abstract_state", "build", "make_optimizer"]


class Experiment(NamedTuple):
    """A model of images, one optimizer for each player, and the weights nobody trains.

    ``training_frozen`` loads what only losses need (a perceptual network): ``train`` and
    ``evaluate`` put it beside ``frozen``, and sampling never asks for it.
    """

    model: Model
    optimizers: Mapping[str, optax.GradientTransformation]
    frozen: PyTree
    training_frozen: Callable[[], Mapping[str, PyTree]] | None = None
    tensor_dims: Mapping[str, int] = {}  # see gen_jax.train.sharding.Rules
    stage1_digest: str | None = None  # of a second stage
    num_tokens: int | None = None  # of one x, where x is tokens

    @property
    def num_classes(self) -> int | None:
        """Give the number of classes that the model is told, or None."""
        label = self.model.inputs.get("label")
        return None if label is None else label.size

    def with_training_frozen(self) -> "Experiment":
        """Load what only losses need."""
        if self.training_frozen is None:
            return self
        return self._replace(frozen={**self.frozen, **self.training_frozen()})


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


_KINDS = {
    "label": jnp.int32,
    "tokens": jnp.int32,
    "vectors": jnp.float32,
    "image": jnp.uint8,
    "mask": jnp.float32,
}


def abstract_batch(model: Model, shape: tuple[int, ...], size: int = 1) -> Batch:
    """Give the shapes and types of a batch of what a model is trained on.

    Args:
        model: of images.
        shape: of one image.
        size: of the batch.
    """

    def abstract(given: Input) -> jax.ShapeDtypeStruct:
        own = shape if given.kind == "image" and not given.shape else given.shape
        own = tuple(1 if dim == -1 else dim for dim in own)
        return jax.ShapeDtypeStruct((size, *own), _KINDS[given.kind])

    return {
        "image": jax.ShapeDtypeStruct((size, *shape), jnp.uint8),
        **{
            name: abstract(given)
            for name, given in model.inputs.items()
            if given.needed and given.derive is None
        },
    }


def abstract_state(experiment: Experiment, shape: tuple[int, ...]) -> TrainState:
    """Give the shapes and types of a training state, without making one."""
    model, optimizers = experiment.model, experiment.optimizers
    return jax.eval_shape(
        lambda key, batch, frozen: init_state(model, optimizers, key, batch, frozen),
        jax.eval_shape(lambda: jax.random.key(0)),
        abstract_batch(model, shape),
        experiment.frozen,
    )
