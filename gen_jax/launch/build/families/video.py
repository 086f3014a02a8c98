"""Films: a diffusion model of images, frozen, and layers over time."""

from collections.abc import Mapping
from typing import Any

from gen_jax.codecs import rgb, with_codec
from gen_jax.errors import ConfigError
from gen_jax.launch.build import processes, texts
from gen_jax.launch.build.experiment import (
    NO_STAGES,
    Experiment,
    Stage,
    Stage1,
    make_optimizer,
)
from gen_jax.launch.build.families.diffusion import make_network
from gen_jax.launch.config.fields import flatten
from gen_jax.launch.config.schema import fields_of
from gen_jax.models.diffusion import diffusion_model
from gen_jax.models.stages import over_frozen

__all__ = ["build"]

# What films of images are not told yet.
_UNTOLD = ("low_res_factor", "context_dim", "pooled_dim")


def build(
    values: Mapping[str, Any],
    stage1: Stage1 | None = None,
    stages: Mapping[str, Stage] = NO_STAGES,
) -> Experiment:
    """Build the model and its optimizer, over a run of images."""
    del stage1
    image = stages["image"]
    fields = fields_of("diffusion")
    given = {name: fields[name].read(x) for name, x in flatten(image.config).items()}
    for name in _UNTOLD:
        if given[f"model.{name}"]:
            raise ConfigError(f"stages.image: model.{name} {given[f'model.{name}']}; 0 is required")
    if given["stage1"] or given["stages.clip"] or given["stages.text"]:
        raise ConfigError("stages.image: a model of pixels, without frozen stages, is required")
    frames, *shape = values["data.shape"]
    given |= {"model.remat": values["model.remat"], "data.shape": tuple(shape)}
    network = make_network(given, tuple(shape)).clone(frames=frames)
    schedule, num_steps = processes.make_schedule(given)
    model = diffusion_model(
        network,
        schedule,
        processes.make_prediction(given),
        shape=(frames, *shape),
        num_steps=num_steps,
        num_classes=given["model.num_classes"] or None,
        clip=given["diffusion.clip"],
        class_dropout=given["model.class_dropout"],
        **texts.make_text(given),
        text_pooled=texts.sees_pooled(given),
        guidance=values["model.guidance"] or None,
        learned_variance=given["diffusion.learned_variance"],
        weighting=processes.make_weighting(given),
        time_sampler=processes.make_times(given, schedule, num_steps),
    )
    return Experiment(
        over_frozen(with_codec(model, rgb()), "image"),
        {"net": make_optimizer(values)},
        frozen={"image": image.weights.params["net"]},
    )
