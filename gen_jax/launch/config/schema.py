"""What a config may say: fields, their defaults, and the rules between them.

Loads no JAX, so that a mistyped config is answered at once. All faults are told together.
"""

import copy
import difflib
import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gen_jax.launch.config.common import COMMON, RULES, own_optimizer
from gen_jax.launch.config.fields import Family, Fault, Field, Rule, flatten

__all__ = [
    "completed",
    "defaults_of",
    "families",
    "family_of",
    "fields_of",
    "find_faults",
    "frozen_changes",
    "nearest",
    "nested",
    "renamed",
]

# Fields that had another name once, by their old names: what a run saved keeps loading.
RENAMED = {
    "model.binarise": "model.binarize",
    "model.centred": "model.centered",
    "stages.codec": "stage1",
}


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields, by dotted name, the names that they have today."""
    return {RENAMED.get(name, name): value for name, value in values.items()}


@functools.cache
def families() -> tuple[str, ...]:
    """List the model families that can be built."""
    package = importlib.import_module("gen_jax.launch.config.families")
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__)))


def family_of(name: str) -> Family:
    """Return what a config of a family may say.

    Raises:
        KeyError: for an unknown family.
    """
    if name not in families():
        raise KeyError(name)
    return importlib.import_module(f"gen_jax.launch.config.families.{name}").FAMILY


@functools.cache
def fields_of(family: str) -> Mapping[str, Field]:
    """Return every field of a family's config by dotted name; the common ones alone if unknown."""
    if family not in families():
        return COMMON
    own = family_of(family)
    common = {
        name: field._replace(default=own.defaults.get(name, field.default))
        for name, field in COMMON.items()
    }
    optimizers = (
        {}
        if len(own.players) < 2
        else {
            name: field for player in own.players for name, field in own_optimizer(player).items()
        }
    )
    return {**common, **optimizers, **own.fields}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Make nested dicts of values by dotted name.

    What lies below a value, of a malformed config, keeps its dotted name, for its faults to be
    found.
    """
    config: dict[str, Any] = {}
    for name, value in values.items():
        *sections, leaf = name.split(".")
        place: Any = config
        for section in sections:
            place = place.setdefault(section, {}) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place[leaf] = copy.copy(value)
        else:
            config[name] = copy.copy(value)
    return config


def defaults_of(family: str) -> dict[str, Any]:
    """Return a config of a family in which nobody has said anything.

    Raises:
        KeyError: for an unknown family.
    """
    family_of(family)
    values = {name: field.default for name, field in fields_of(family).items()}
    return nested({**values, "family": family})


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Add the fields that a config leaves out, each with its default, and rename old ones."""
    values = renamed(flatten(config))
    family = values.get("family")
    if not isinstance(family, str) or family not in families():
        return nested(values)
    return nested({**flatten(defaults_of(family)), **values})


class _UnknownError(Exception):
    """A rule asked for a field that is not right."""


class _Known(dict[str, Any]):
    """Values that are right by themselves; asking for one that is not ends a rule."""

    def __init__(self, values: Mapping[str, Any], wrong: Iterable[str]) -> None:
        super().__init__(values)
        self._wrong = set(wrong)

    def __missing__(self, name: str) -> Any:
        raise _UnknownError(name)

    def get(self, name: str, default: Any = None) -> Any:
        if name in self._wrong:
            raise _UnknownError(name)
        return super().get(name, default)


def find_faults(
    config: Mapping[str, Any], bad: Iterable[str] = (), *, new: bool = False
) -> list[Fault]:
    """Find everything that is wrong with a config.

    Args:
        config: nested mappings.
        bad: fields, by dotted name, that are known to be wrong already.
        new: whether an experiment begins, and must follow what older runs need not.

    Returns:
        Faults in the order of the fields; empty if the config can be built.
    """
    values, bad = flatten(config), set(bad)
    family = values.get("family")
    known = isinstance(family, str) and family in families()
    fields = fields_of(str(family))
    faults = []
    if isinstance(family, str) and not known:
        faults.append(
            Fault("family", f"got {family!r}; one of {', '.join(families())} is required")
        )
        # Without a family its fields cannot be told from misspelled ones.
        values = {name: value for name, value in values.items() if name in COMMON}
    faults += [
        Fault(name, f"missing; {field.accepts} is required")
        for name, field in fields.items()
        if name not in values and name.rpartition(".")[0] not in values
    ]
    for name, value in values.items():
        if name in bad:
            continue
        if name not in fields:
            faults.append(Fault(name, f"unknown field{nearest(name, fields)}"))
        elif not fields[name].takes(value):
            faults.append(Fault(name, f"got {value!r}; {fields[name].accepts} is required"))
    wrong = bad | {fault.field for fault in faults}
    right = {name: value for name, value in values.items() if name in fields and name not in wrong}
    rules: Sequence[Rule] = RULES
    if known:
        own = family_of(str(family))
        rules = (*RULES, *own.rules, *(own.rules_for_new if new else ()))
    return faults + _related(_Known(right, wrong), rules)


def _related(values: _Known, rules: Sequence[Rule]) -> list[Fault]:
    """Follow the rules as far as what they ask for is right."""
    faults: dict[str, Fault] = {}
    for rule in rules:
        try:
            found = rule(values)
        except _UnknownError:
            continue
        for name, problem in found.items():
            faults.setdefault(name, Fault(name, problem))
    return list(faults.values())


# What people call a field elsewhere.
_MEANINGS = {
    "accumulation": "train.microbatches",
    "attention": "model.attention_resolutions",
    "batch": "data.batch_size",
    "batchsize": "data.batch_size",
    "bs": "data.batch_size",
    "bf16": "model.dtype",
    "checkpoint_every": "train.save_every",
    "classes": "model.num_classes",
    "cond_drop": "model.class_dropout",
    "dataset": "data.source",
    "ema": "train.ema_decay",
    "epochs": "train.steps",
    "eval_every": "train.sample_every",
    "grad_accum": "train.microbatches",
    "grad_clip": "optimizer.clip_norm",
    "gradient_checkpointing": "model.remat",
    "image_size": "data.shape",
    "iterations": "train.steps",
    "layers": "model.depth",
    "lr": "optimizer.learning_rate",
    "max_steps": "train.steps",
    "mixed_precision": "model.dtype",
    "num_epochs": "train.steps",
    "num_train_steps": "train.steps",
    "parameterization": "diffusion.prediction",
    "precision": "model.dtype",
    "resolution": "data.shape",
    "save_steps": "train.save_every",
    "timesteps": "diffusion.num_steps",
    "warmup": "optimizer.warmup_steps",
    "wd": "optimizer.weight_decay",
    "workers": "data.num_workers",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest what a misspelled name may have meant: ``; did you mean 'x'?``, or nothing."""
    found = guess(name, known)
    return f"; did you mean {found!r}?" if found else ""


def guess(name: str, known: Iterable[str]) -> str | None:
    """Guess which of the known names was meant, by its spelling or by its meaning."""
    known = list(known)
    last = name.rpartition(".")[2]
    close = [field for field in known if field.rpartition(".")[2] == last]  # in another section
    meant = _MEANINGS.get(last.lower())
    if not close and meant in known:
        close = [str(meant)]
    close = close or difflib.get_close_matches(name, known, 1, 0.6)
    if not close:  # the spelling of the leaf alone
        leaves = {field.rpartition(".")[2]: field for field in known}
        close = [leaves[leaf] for leaf in difflib.get_close_matches(last, leaves, 1, 0.7)]
    return close[0] if close else None


def frozen_changes(
    old: Mapping[str, Any], new: Mapping[str, Any], allowed: Sequence[str] = ()
) -> tuple[list[str], list[str]]:
    """Compare two configs of one family, the checkpoint's and the one at hand.

    Args:
        old: the checkpoint's; fields that are newer than it have their defaults.
        new: the one at hand.
        allowed: frozen fields that count as free.

    Returns:
        Changes of frozen fields and of free ones, each as ``field: checkpoint 1, config 2``.
    """
    before, after = flatten(completed(old)), flatten(new)
    fields = fields_of(str(after.get("family")))
    frozen: list[str] = []
    free: list[str] = []
    for name in sorted({*before, *after}):
        was, now = before.get(name), after.get(name)
        if _plain(was) == _plain(now):
            continue
        line = f"{name}: checkpoint {_plain(was)!r}, config {_plain(now)!r}"
        change = "free" if name in allowed else fields[name].change if name in fields else "frozen"
        (free if change == "free" else frozen).append(line)
    return frozen, free


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
