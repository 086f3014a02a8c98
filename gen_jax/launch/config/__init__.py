"""Configs: what they may say, where they are read, and what their files begin from. JAX-free."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from gen_jax.launch.config.fields import flatten
from gen_jax.launch.config.schema import defaults_of, family_of

__all__ = ["defaults", "variant_of"]


def defaults(family: str) -> ConfigDict:
    """Make a config of a family in which nobody has said anything yet.

    Args:
        family: its name; ``gen-jax help-config`` lists them, and the fields of each.

    Raises:
        ValueError: for an unknown family.

    Example:
        >>> config = defaults("vae")
        >>> config.model.latent_dim = 8
    """
    try:
        return ConfigDict(defaults_of(family))
    except KeyError as error:
        raise ValueError(f"family: {family!r} is unknown") from error


def variant_of(
    config: ConfigDict,
    variant: str,
    *,
    source: str,
    shape: tuple[int, ...],
    **more: Any,
) -> ConfigDict:
    """Finish a config: as it is, or one of its variants.

    ``tiny`` runs anywhere within seconds; a family may have presets beside it, as ``adm``.

    Args:
        config: the experiment.
        variant: what stands behind the colon of ``--config FILE.py:VARIANT``.
        source: of tiny's data, which is always there.
        shape: of its images.
        more: fields of tiny beside those of the family, ``model__channels=8`` for example.

    Raises:
        ValueError: for another variant.
    """
    if not variant:
        return config
    family = family_of(config.family)
    now = flatten(config.to_dict())
    if variant in family.presets:
        return _with(config, now, family.presets[variant])
    if variant != "tiny":
        known = "".join(f", {name!r}" for name in family.presets)
        raise ValueError(f"variant: got {variant!r}; 'tiny'{known} or none is required")
    small: Mapping[str, Any] = {
        "data.source": source,
        "data.shape": shape,
        "data.batch_size": 8,
        "train.steps": 2,
        "train.log_every": 1,
        "train.sample_every": 0,
        "train.save_every": 2,
        "train.microbatches": 1,
        "optimizer.warmup_steps": lambda steps: min(steps, 1),
        **family.tiny,
        **{name.replace("__", "."): value for name, value in more.items()},
    }
    return _with(config, now, small)


def _with(config: ConfigDict, now: Mapping[str, Any], changes: Mapping[str, Any]) -> ConfigDict:
    for name, value in changes.items():
        section, _, leaf = name.partition(".")
        config[section][leaf] = value(now[name]) if callable(value) else value
    return config
