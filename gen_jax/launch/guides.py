"""A trained classifier, to guide a diffusion model with."""

from pathlib import Path
from typing import Any

from gen_jax.errors import ConfigError
from gen_jax.launch.workdir import Trained
from gen_jax.typing import Array, PyTree

__all__ = ["with_classifier"]

# What a schedule is made of.
_MEANS = {
    "flow": (),
    "edm": ("sigma_max",),
    "cosine": ("num_steps",),
    "linear": ("num_steps", "beta_start", "beta_end"),
    "scaled_linear": ("num_steps", "beta_start", "beta_end"),
}


def with_classifier(
    trained: Trained, workdir: Path, scale: float
) -> tuple[Trained, int, str, dict[str, Any]]:
    """Give a diffusion model a classifier of noisy images.

    Args:
        trained: the diffusion model.
        workdir: of the classifier.
        scale: strength of its guidance.

    Returns:
        The model with the classifier's weights among its frozen ones, how many classes there are,
        its digest, and the options that the sampler needs.

    Raises:
        ConfigError: if it is no classifier, or was trained on other noise or images.
    """
    import jax
    import jax.numpy as jnp

    from gen_jax.launch.workdir import load_weights
    from gen_jax.train.sharding import replicated

    if trained.config["family"] != "diffusion":
        raise ConfigError(f"--classifier: family {trained.config['family']!r} cannot be guided")
    saved = load_weights(workdir)
    if saved.config["family"] != "classifier":
        family = saved.config["family"]
        raise ConfigError(f"--classifier: {workdir}: family {family!r}; 'classifier' is needed")
    if trained.config.get("stage1"):
        raise ConfigError("--classifier: classifiers look at pixels, this model at codes")
    noise = saved.config["diffusion"]
    if not saved.config["model"]["noisy"]:
        raise ConfigError(
            f"--classifier: {workdir}: was trained on clean images; model.noisy is needed"
        )
    ours = trained.config["diffusion"]
    names = ("schedule", *_MEANS[ours["schedule"]])
    if changed := [name for name in names if noise[name] != ours[name]]:
        raise ConfigError(
            f"--classifier: {workdir}: was trained on another noise ({', '.join(changed)})"
        )
    if tuple(saved.config["data"]["shape"]) != tuple(trained.config["data"]["shape"]):
        raise ConfigError(f"--classifier: {workdir}: was trained on images of another shape")
    predict = saved.experiment.model.predict
    assert predict is not None

    def guide(weights: PyTree, x: Array, t: Array, label: Array) -> Array:
        log_probs = predict(weights, {}, x, t).log_probs
        return jnp.take_along_axis(log_probs, label[:, None], axis=1)[:, 0]

    weights = jax.device_put(saved.params, replicated(trained.mesh))
    frozen = {**trained.experiment.frozen, "classifier": weights}
    experiment = trained.experiment._replace(frozen=frozen)
    options = {"classifier": guide, "classifier_scale": scale}
    trained = trained._replace(experiment=experiment)
    return trained, saved.config["model"]["num_classes"], saved.digest, options
