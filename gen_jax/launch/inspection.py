"""Looking at a model on the way: samples, and reconstructions where it has codes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gen_jax.data import read_in_time, spread_indices
from gen_jax.launch.pictures import grid, pairs
from gen_jax.launch.sampling import condition_of, draw_samples
from gen_jax.launch.sources import open_checked
from gen_jax.train.sharding import replicated

__all__ = ["make_inspect"]


def make_inspect(
    config: Mapping[str, Any], experiment: Any, source: Any, mesh: Any
) -> Callable[..., Any]:
    """Make the look at a model on the way: samples, and reconstructions where it has codes."""
    reconstruct = _make_reconstruct(config, experiment, source, mesh)
    num = 64
    labels = None
    if experiment.num_classes:
        labels = np.arange(num) % experiment.num_classes

    if experiment.model.sample is None:
        return lambda state: ({}, reconstruct(state))

    condition: Mapping[str, np.ndarray] = {}
    if config["train"]["sample_every"]:
        condition = _condition(config, source, num)

    def inspect(state: Any) -> tuple[Mapping[str, float], Mapping[str, Any]]:
        images = draw_samples(
            experiment,
            state.ema_params,
            state.stats,
            num=num,
            seed=config["seed"],
            options={},
            labels=labels,
            condition=condition,
            mesh=mesh,
        )
        return {}, {"samples": grid(images), **reconstruct(state)}

    return inspect


def _condition(config: Mapping[str, Any], source: Any, num: int) -> Mapping[str, np.ndarray]:
    """Take what samples are told beside labels from the data."""
    model, data = config["model"], config["data"]
    if not (model.get("context_dim") or model.get("low_res_factor")):
        return {}
    indices = np.resize(spread_indices(source, num), num)
    return condition_of(config, read_in_time(source, indices, data["on_bad"], data["timeout_s"]))


def _make_reconstruct(
    config: Mapping[str, Any], experiment: Any, source: Any, mesh: Any
) -> Callable[..., Any]:
    model = experiment.model
    if model.encode is None or not config["train"]["sample_every"]:
        return lambda state: {}
    held_out = open_checked(config, "validation") if config["data"]["holdout"] else source
    batch = read_in_time(
        held_out,
        spread_indices(held_out, 64),
        config["data"]["on_bad"],
        config["data"]["timeout_s"],
    )
    label = batch["label"] if experiment.num_classes else None

    def again(params: Any, stats: Any, image: Any, label: Any) -> Any:
        z = model.encode(params, stats, image, None, label)
        return model.decode(params, stats, z, label)

    compiled = jax.jit(again, out_shardings=replicated(mesh))

    def reconstruct(state: Any) -> Mapping[str, Any]:
        images = np.asarray(compiled(state.ema_params, state.stats, batch["image"], label))
        return {"reconstructions": pairs(batch["image"], images)}

    return reconstruct
