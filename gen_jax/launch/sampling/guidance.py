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

__all__ = ["with_classifier", "with_clip"]

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


def with_clip(trained: Trained, workdir: Path) -> tuple[Trained, str]:
    """Return a diffusion model that a model of images and texts leads toward a text.

    Args:
        trained: the diffusion model, whatever it is told itself.
        workdir: of a model with ``matching``.

    Returns:
        The model, which is then told ``target``, a text, has the option ``clip_scale`` and the
        other's weights among its frozen ones; and the other's digest.

    Raises:
        ConfigError: if it does not match images and texts, or images of another shape.
    """
    import jax

    from gen_jax.launch.runs.restore import load_trained

    if trained.config["family"] != "diffusion":
        raise ConfigError(f"--clip: family {trained.config['family']!r} cannot be guided")
    if trained.config.get("stage1"):
        raise ConfigError("--clip: it looks at pixels, this model at codes")
    clip = load_trained(workdir)
    if clip.experiment.model.matching is None:
        family = clip.config["family"]
        raise ConfigError(f"--clip: {workdir}: family {family!r}; 'clip' is required")
    if tuple(clip.config["data"]["shape"]) != tuple(trained.config["data"]["shape"]):
        raise ConfigError(f"--clip: {workdir}: was trained on images of another shape")
    matching, model = clip.experiment.model.matching, trained.experiment.model
    assert model.sampler is not None

    def judge(weights: Weights, target: Array, x_0: Array) -> Array:
        vectors = matching.text(weights, target)
        products = jax.numpy.sum(matching.image(weights, x_0) * vectors, axis=1)
        return matching.scale(weights) * products

    draw = model.sampler.draw

    def drawn(weights: Weights, keys: Any, cond: Any, **options: Any) -> Any:
        own = options.pop("clip_scale", 1.0)
        return draw(weights, keys, cond, judge=judge, classifier_scale=own, **options)

    scale = Option(
        float, 1.0, "a number from 0", lambda x: 0 <= x < math.inf, False,
        "strength of the guidance by --clip: of log p(text | image), up to a constant",
    )  # fmt: skip
    text = clip.experiment.model.inputs["prompt"]
    guided = model._replace(
        inputs={**model.inputs, "target": text._replace(help="text to guide to, by --clip")},
        sampler=model.sampler._replace(
            draw=drawn,
            options={**model.sampler.options, "clip_scale": scale},
            faults=_asked(model.sampler.faults),
        ),
        latents=None,
    )
    frozen = {**trained.experiment.frozen, "classifier": clip.weights}
    experiment = trained.experiment._replace(model=guided, frozen=frozen)
    made = trained._replace(
        experiment=experiment,
        weights=trained.weights._replace(frozen=frozen),
        target_tokenizer=clip.tokenizer,
    )
    return made, clip.digest


def _asked(faults: Faults) -> Faults:
    """Let rules see that something guides, whose scale need not be said."""

    def found(options: Mapping[str, Any], told: Any) -> Mapping[str, str]:
        own = {name: value for name, value in options.items() if name != "clip_scale"}
        return faults({"classifier_scale": 1.0, **own}, told)

    return found


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
            faults=_asked(sampler.faults),
        ),
        latents=latents._replace(
            decode=functools.partial(latents.decode, classifier=log_prob),
            options={**latents.options, "classifier_scale": scale},
            faults=_asked(latents.faults),
        ),
    )
