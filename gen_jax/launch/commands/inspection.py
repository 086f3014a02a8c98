"""Looking at a model on the way: samples, and reconstructions where it has codes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from gen_jax.data import ordered_batches, read_in_time, spread_indices
from gen_jax.evals.losses import mean_losses
from gen_jax.launch.build.sources import check_source, open_split
from gen_jax.launch.runs.tokens import with_text
from gen_jax.launch.sampling.draw import Draw, conditions_from_data, draw_samples
from gen_jax.pictures import grid, pairs, strips, titled
from gen_jax.protocols import Weights
from gen_jax.train.sharding import replicated

__all__ = ["make_inspect", "make_validate"]


NUM, FILMS = 64, 16


def make_inspect(
    config: Mapping[str, Any], experiment: Any, source: Any, mesh: Any, tokenizer: Any = None
) -> Callable[..., Any]:
    """Make the look at a model on the way: samples, and reconstructions where it has codes."""
    model, wanted = experiment.model, config["train"]["sample_every"]
    codes = model.latents if model.latents is not None and model.latents.cost == 1 else None
    reconstruct = None
    if wanted and codes is not None and codes.encode is not None:
        reconstruct = _make_reconstruct(config, experiment, source, mesh, tokenizer)
    draw, texts = None, []
    if wanted and model.sampler is not None and model.sampler.gives == "images":
        # Classes in turn; of what else the model is told, that of examples.
        told = [given for given in model.inputs.values() if given.needed]
        examples: Mapping[str, Any] = {"image": np.zeros(NUM)}
        if any(given.kind != "label" for given in told):
            examples = _examples(config, source)
        cond = conditions_from_data(model, examples, every_class=True)
        draw = Draw(config["seed"], {}, cond)
        if tokenizer is not None and "prompt" in cond:
            texts = [tokenizer.decode(row) for row in cond["prompt"]]

    def inspect(state: Any) -> tuple[Mapping[str, float], Mapping[str, Any]]:
        weights = Weights(state.ema_params, state.stats, experiment.frozen)
        pictures = {}
        if draw is not None:
            samples = draw_samples(model, weights, draw, mesh, NUM)
            if samples.ndim == 5:
                pictures["samples"] = strips(samples[:FILMS])
            else:
                pictures["samples"] = titled(samples, texts) if texts else grid(samples)
        if reconstruct is not None:
            pictures["reconstructions"] = reconstruct(weights)
        return {}, pictures

    return inspect


def _examples(config: Mapping[str, Any], source: Any) -> Mapping[str, Any]:
    data = config["data"]
    indices = np.resize(spread_indices(source, NUM), NUM)
    return read_in_time(source, indices, data["on_bad"], data["timeout_s"])


def _make_reconstruct(
    config: Mapping[str, Any], experiment: Any, source: Any, mesh: Any, tokenizer: Any
) -> Callable[[Weights], np.ndarray]:
    model, data = experiment.model, config["data"]
    held_out = source
    if data["holdout"]:
        held_out = with_text(open_split(config, "validation"), tokenizer, config)
    indices = spread_indices(held_out, NUM)
    batch = read_in_time(held_out, indices, data["on_bad"], data["timeout_s"])
    cond = conditions_from_data(model, batch, every_class=False)

    def again(weights: Weights, image: Any, cond: Any) -> Any:
        return model.latents.decode(weights, model.latents.encode(weights, image, cond), cond)

    compiled = jax.jit(again, out_shardings=replicated(mesh))

    def reconstruct(weights: Weights) -> np.ndarray:
        return pairs(batch["image"], np.asarray(compiled(weights, batch["image"], cond)))

    return reconstruct


_VALIDATED = 1024  # held-out examples, at most


def make_validate(
    config: Mapping[str, Any], experiment: Any, tokenizer: Any = None
) -> Callable[..., Mapping[str, float]]:
    """Make the measurement of held-out losses: of the validation split, or of the test split."""
    if not config["train"]["validate_every"]:
        return lambda state: {}
    data, seed = config["data"], config["seed"]
    split = "validation" if data["holdout"] else "test"
    source = with_text(open_split(config, split), tokenizer, config)
    check_source(source, experiment, config)
    size = min(source.size, _VALIDATED)
    batch_size = min(data["batch_size"], size)

    def validate(state: Any) -> Mapping[str, float]:
        # What is not averaged, a discriminator, is as it is.
        params = {**state.params, **state.ema_params}
        losses = mean_losses(
            experiment.model,
            Weights(params, state.stats, experiment.frozen),
            ordered_batches(source, batch_size, size),
            jax.random.key(seed),
        )
        return {f"validation/{name}": value for name, value in losses.items()}

    return validate
