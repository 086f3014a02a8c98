"""A trained classifier, to guide a diffusion model with."""

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen_jax.diffusion.rules import beta_range
from gen_jax.errors import ConfigError
from gen_jax.launch.runs.restore import Trained
from gen_jax.protocols import Faults, Input, Model, Option, Weights
from gen_jax.typing import Array

__all__ = ["with_classifier"]

# What a schedule is made of.
_MEANS = {
    "flow": (),
    "edm": ("sigma_max",),
    "cosine": ("num_steps", "zero_terminal_snr"),
    "linear": ("num_steps", "beta_start", "beta_end", "zero_terminal_snr"),
    "scaled_linear": ("num_steps", "beta_start", "beta_end", "zero_terminal_snr"),
}


def with_classifier(trained: Trained, workdir: Path) -> tuple[Trained, str]:
    """Return a diffusion model a classifier of noisy images.

    Args:
        trained: the diffusion model.
        workdir: of the classifier.

    Returns:
        The model, which is then told a label, has the option ``classifier_scale`` and the
        classifier's weights among its frozen ones; and the classifier's digest.

    Raises:
        ConfigError: if it is no classifier, or was trained on other noise or images.
    """
    import jax

    from gen_jax.launch.runs.restore import load_weights
    from gen_jax.train.sharding import replicated

    if trained.config["family"] != "diffusion":
        raise ConfigError(f"--classifier: family {trained.config['family']!r} cannot be guided")
    saved = load_weights(workdir)
    if saved.config["family"] != "classifier":
        family = saved.config["family"]
        raise ConfigError(f"--classifier: {workdir}: family {family!r}; 'classifier' is required")
    if trained.config.get("stage1"):
        raise ConfigError("--classifier: classifiers look at pixels, this model at codes")
    noise = saved.config["diffusion"]
    if not saved.config["model"]["noisy"]:
        raise ConfigError(
            f"--classifier: {workdir}: was trained on clean images; model.noisy is required"
        )
    ours = trained.config["diffusion"]
    names = ("schedule", *_MEANS[ours["schedule"]])
    noise, ours = _with_betas(noise), _with_betas(ours)
    if changed := [name for name in names if noise[name] != ours[name]]:
        raise ConfigError(
            f"--classifier: {workdir}: was trained on another noise ({', '.join(changed)})"
        )
    if tuple(saved.config["data"]["shape"]) != tuple(trained.config["data"]["shape"]):
        raise ConfigError(f"--classifier: {workdir}: was trained on images of another shape")
    classes = saved.config["model"]["num_classes"]
    own = trained.experiment.num_classes
    if own not in (None, classes):
        raise ConfigError(f"--classifier: knows {classes} classes; the model's {own} are required")
    weights = jax.device_put(saved.weights, replicated(trained.mesh))
    frozen = {**trained.experiment.frozen, "classifier": weights}
    model = _guided(trained.experiment.model, saved.experiment.model, classes)
    experiment = trained.experiment._replace(model=model, frozen=frozen)
    trained = trained._replace(
        experiment=experiment, weights=trained.weights._replace(frozen=frozen)
    )
    return trained, saved.digest


def _with_betas(section: Mapping[str, Any]) -> dict[str, Any]:
    """Write out the betas that a config leaves to the number of steps."""
    low, high = beta_range(section["num_steps"], section["beta_start"], section["beta_end"])
    return {**section, "beta_start": low, "beta_end": high}


def _guided(model: Model, classifier: Model, classes: int) -> Model:
    import jax.numpy as jnp

    predict = classifier.predict
    assert predict is not None
    assert model.sampler is not None
    assert model.latents is not None

    def log_prob(weights: Weights, x: Array, t: Array, label: Array) -> Array:
        log_probs = predict(weights, x, {"t": t}).log_probs
        return jnp.take_along_axis(log_probs, label[:, None], axis=1)[:, 0]

    def asked(faults: Faults) -> Faults:
        """Let rules see that there is a classifier, whose scale need not be said."""
        return lambda options, told: faults({"classifier_scale": 1.0, **options}, told)

    scale = Option(
        float, 1.0, "a number from 0", lambda x: 0 <= x < math.inf, False,
        "strength of the classifier's guidance",
    )  # fmt: skip
    sampler, latents = model.sampler, model.latents
    return model._replace(
        inputs={**model.inputs, "label": Input("label", size=classes, help="class to guide to")},
        sampler=sampler._replace(
            draw=functools.partial(sampler.draw, classifier=log_prob),
            options={**sampler.options, "classifier_scale": scale},
            faults=asked(sampler.faults),
        ),
        latents=latents._replace(
            decode=functools.partial(latents.decode, classifier=log_prob),
            options={**latents.options, "classifier_scale": scale},
            faults=asked(latents.faults),
        ),
    )
