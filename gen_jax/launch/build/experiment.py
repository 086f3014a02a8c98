"""From a config to something that can be trained and sampled."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gen_jax.errors import CheckpointError, ConfigError
from gen_jax.launch.config.common import of_player
from gen_jax.launch.config.fields import flatten
from gen_jax.launch.config.schema import family_of, fields_of
from gen_jax.nn.tensor_dims import TENSOR_DIMS
from gen_jax.protocols import Batch, Codec, Input, Model, Weights
from gen_jax.train.optimizers import learning_rate, named
from gen_jax.train.state import TrainState, init_state
from gen_jax.typing import PyTree

__all__ = [
    "Experiment",
    "Stage",
    "Stage1",
    "abstract_batch",
    "abstract_state",
    "build",
    "learning_rates",
    "make_optimizer",
]


class Stage1(NamedTuple):
    """A frozen map between images and codes, and what it was made of."""

    codec: Codec
    weights: Weights  # of the codec, on the host
    image_shape: tuple[int, ...]
    code_shape: Any  # a tuple, or tuples by name of several grids
    digest: str  # of config and weights


class Stage(NamedTuple):
    """Another run, frozen: what a model is built over or sampled with, and what it was made of."""

    config: Mapping[str, Any]
    model: Model  # of images
    weights: Weights  # on the host
    digest: str  # of the weights


class Experiment(NamedTuple):
    """A model of images, one optimizer for each player, and the weights nobody trains.

    ``training_frozen`` loads what only losses need (a perceptual network): ``train`` and
    ``evaluate`` put it beside ``frozen``, and sampling never asks for it.
    """

    model: Model
    optimizers: Mapping[str, optax.GradientTransformation]
    frozen: PyTree = {}  # noqa: RUF012
    training_frozen: Callable[[], Mapping[str, PyTree]] | None = None
    tensor_dims: Mapping[str, int] = {}  # see gen_jax.train.sharding.Rules
    stage1_digest: str | None = None  # of a second stage
    stage_digests: Mapping[str, str] = {}
    num_tokens: int | None = None  # of one x, where x is tokens

    @property
    def num_classes(self) -> int | None:
        """Return the number of classes that the model is told, or None."""
        label = self.model.inputs.get("label")
        return None if label is None else label.size

    def with_training_frozen(self) -> "Experiment":
        """Load what only losses need."""
        if self.training_frozen is None:
            return self
        return self._replace(frozen={**self.frozen, **self.training_frozen()})


NO_STAGES: Mapping[str, Stage] = {}


def build(
    config: Mapping[str, Any],
    stage1: Stage1 | None = None,
    stages: Mapping[str, Stage] = NO_STAGES,
) -> Experiment:
    """Build what a config describes.

    Args:
        config: without faults.
        stage1: the first stage, for a second one.
        stages: the other frozen stages that it is built over, by name.

    Raises:
        CheckpointError: if the first stage was trained on images of another shape.
        ConfigError: if the model cannot be built over it.
    """
    values = flatten(config)
    fields = fields_of(values["family"])
    values = {name: fields[name].read(value) for name, value in values.items()}
    if stage1 is not None and stage1.image_shape != tuple(values["data.shape"]):
        raise CheckpointError(
            f"data.shape: {values['data.shape']}; {stage1.image_shape} is required, which "
            "the first stage was trained on"
        )
    if values.get("stage1") and stage1 is None:
        raise ConfigError(f"stage1: {values['stage1']!r} was not loaded")
    family = importlib.import_module(f"gen_jax.launch.build.families.{values['family']}")
    # Only families whose configs name stages are built over them.
    over = {"stages": stages} if stages else {}
    made = family.build(values, stage1, **over)
    digests = {name: stage.digest for name, stage in stages.items()}
    return made._replace(tensor_dims=TENSOR_DIMS, stage_digests=digests)


_OPTIMIZER = ("b1", "b2", "eps", "weight_decay", "clip_norm")


def make_optimizer(
    values: Mapping[str, Any], player: str = "net", turns: int = 1
) -> optax.GradientTransformation:
    """Make the optimizer that a config's ``optimizer`` section describes.

    Args:
        values: of the config, by dotted name.
        player: whose own values, ``optimizer.<player>.*``, come first where there are any.
        turns: how often a step calls it, so that its schedule still spans the steps.
    """

    def get(name: str) -> Any:
        return of_player(values, player, name)

    rate = learning_rate(
        get("learning_rate"),
        warmup_steps=turns * get("warmup_steps"),
        decay=get("decay"),
        total_steps=turns * values["train.steps"],
    )
    options = {name: get(name) for name in _OPTIMIZER}
    return named(get("name"), rate, moments=values["optimizer.moments"], **options)


def learning_rates(config: Mapping[str, Any]) -> dict[str, optax.Schedule]:
    """Make the learning rates of a config, by name of what is reported, of steps taken before."""
    values = flatten(config)
    players = family_of(values["family"]).players
    rates = {}
    for player in players:
        given = {name: of_player(values, player, name) for name in ("warmup_steps", "decay")}
        peak = of_player(values, player, "learning_rate")
        rate = learning_rate(peak, total_steps=values["train.steps"], **given)
        own = "learning_rate" if len(players) == 1 else f"{player}/learning_rate"
        rates[own] = rate
    return rates


_KINDS = {
    "label": jnp.int32,
    "tokens": jnp.int32,
    "vectors": jnp.float32,
    "image": jnp.uint8,
    "mask": jnp.float32,
}


def abstract_batch(model: Model, shape: tuple[int, ...], size: int = 1) -> Batch:
    """Return the shapes and types of a batch of what a model is trained on.

    Args:
        model: of images.
        shape: of one image.
        size: of the batch.
    """

    def abstract(given: Input) -> jax.ShapeDtypeStruct:
        whole = {"image": shape, "mask": (*shape[:2], 1)}
        own = given.shape or whole.get(given.kind, ())
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
    """Return the shapes and types of a training state, without making one."""
    model, optimizers = experiment.model, experiment.optimizers
    return jax.eval_shape(
        lambda key, batch, frozen: init_state(model, optimizers, key, batch, frozen),
        jax.eval_shape(lambda: jax.random.key(0)),
        abstract_batch(model, shape),
        experiment.frozen,
    )
