"""Boltzmann machines."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import Family, choice, integer, integers, prefixed
from gen_jax.models.rules import NEGATIVES, boltzmann_faults

__all__ = ["FAMILY"]


def _machine(values: Mapping[str, Any]) -> dict[str, str]:
    names = ("hidden", "negative", "chains", "temperatures")
    faults = boltzmann_faults(
        steps=values["model.gibbs_steps"],
        layers=2 if values["model.kind"] == "dbm" else 1,
        **{name: values[f"model.{name}"] for name in names},
    )
    return prefixed("model", faults)


def _deep(values: Mapping[str, Any]) -> dict[str, str]:
    if values["model.kind"] == "rbm":
        return {}
    faults = {}
    for name, only in (("negative", "pcd"), ("visible", "binary")):
        if values[f"model.{name}"] != only:
            faults[f"model.{name}"] = f"got {values[f'model.{name}']!r}; a dbm has {only!r}"
    return faults


_frozen: Any = {"change": "frozen"}

FAMILY = Family(
    fields={
        "model.kind": choice(
            "rbm", "dbm", **_frozen, doc="a restricted machine, or a deep one of two hidden layers"
        ),
        "model.visible": choice(
            "binary", "gaussian", **_frozen, doc="what pixels are: bits, or real numbers"
        ),
        **parts.binarize("stochastic"),
        "model.hidden": integers(
            1, default=(500,), **_frozen, doc="hidden units; of a dbm those of both layers"
        ),
        "model.negative": choice(
            *NEGATIVES,
            **_frozen,
            doc="where the machine's own draws come from: chains that go on, the data, or chains "
            "at several temperatures",
        ),
        "model.gibbs_steps": integer(1, default=1, doc="Gibbs steps of each of these draws"),
        "model.chains": integer(1, default=100, **_frozen, doc="number of chains"),
        "model.temperatures": integer(
            1, default=10, **_frozen, doc="tempering: number of temperatures"
        ),
        "model.mean_field_rounds": integer(
            1, default=10, doc="dbm: rounds in which the posterior of data is found"
        ),
    },
    rules=(_machine, _deep),
    defaults={"optimizer.clip_norm": 0.0},
    tiny={
        "model.hidden": lambda hidden: tuple(12 for _ in hidden),
        "model.chains": 8,
        "model.temperatures": 3,
    },
)
