"""What a config may say: the type, the range and the weight of every field.

Loads no JAX, so that a mistyped config is answered at once. All faults are told together.
"""

import difflib
import importlib
import math
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from gen_jax.launch.defaults import completed

__all__ = [
    "COMMON",
    "Fault",
    "Field",
    "boolean",
    "choice",
    "families",
    "families_with",
    "fields_of",
    "find_faults",
    "flatten",
    "frozen_changes",
    "integer",
    "integers",
    "nearest",
    "number",
    "parse_override",
    "text",
    "texts",
]

Change = Literal["frozen", "free"]


class Field(NamedTuple):
    """One leaf of a config. ``frozen`` fields may not change once a run has a checkpoint."""

    kind: type
    accepts: str
    ok: Callable[[Any], bool]
    change: Change


class Fault(NamedTuple):
    """What is wrong with one field; ``str`` gives the line that a user reads."""

    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


def integer(low: int, high: int | None = None, *, change: Change = "free") -> Field:
    """Make a field for whole numbers in [low, high]."""
    accepts = f"a whole number from {low}" + ("" if high is None else f" to {high}")
    return Field(int, accepts, lambda x: x >= low and (high is None or x <= high), change)


def number(
    low: float,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
    change: Change = "free",
) -> Field:
    """Make a field for finite numbers from low to high; ``above``, ``below``: without the bound."""
    accepts = f"a number {'above' if above else 'from'} {low:g}"
    if high < math.inf:
        accepts += f" {'to below' if below else 'to'} {high:g}"

    def ok(x: float) -> bool:
        inside = (x > low if above else x >= low) and (x < high if below else x <= high)
        return math.isfinite(x) and inside

    return Field(float, accepts, ok, change)


def boolean(*, change: Change = "free") -> Field:
    """Make a field for True and False."""
    return Field(bool, "True or False", lambda x: True, change)


def choice(*values: str, change: Change = "free") -> Field:
    """Make a field for one of some words."""
    return Field(str, " or ".join(map(repr, values)), values.__contains__, change)


def text(pattern: str, accepts: str, *, change: Change = "free") -> Field:
    """Make a field for text that matches a whole regular expression."""
    return Field(str, accepts, lambda x: re.fullmatch(pattern, x) is not None, change)


def integers(low: int, *, length: int | None = None, change: Change = "free") -> Field:
    """Make a field for a tuple of whole numbers from low."""
    accepts = f"a tuple of {length or 'some'} whole numbers from {low}"

    def ok(x: Sequence[int]) -> bool:
        whole = all(type(item) is int and item >= low for item in x)
        return whole and (length is None or len(x) == length)

    return Field(tuple, accepts, ok, change)


def texts(pattern: str, accepts: str, *, change: Change = "free") -> Field:
    """Make a field for a tuple of texts that each match a whole regular expression."""

    def ok(x: Sequence[str]) -> bool:
        return all(type(item) is str and re.fullmatch(pattern, item) for item in x)

    return Field(tuple, f"a tuple of {accepts}", ok, change)


_OVERRIDE = r".+=(-|data|fsdp|tensor)(,(-|data|fsdp|tensor))*"
_SOURCE = r"digits|(npz|folder|tfds|codes):.+|synthetic:\d+x\d+x[13]"

COMMON: Mapping[str, Field] = {
    "family": text(r"\w+", "the name of a model family", change="frozen"),
    "seed": integer(0, 2**32 - 1, change="frozen"),
    # Free, because data may move; its fingerprint, kept with each checkpoint, may not change.
    "data.source": text(
        _SOURCE, "digits, npz:PATH, folder:PATH, tfds:NAME, synthetic:HxWxC or codes:PATH"
    ),
    "data.dir": text(".*", "a folder of prepared TFDS datasets, or nothing for its default"),
    "data.shape": integers(1, length=3, change="frozen"),
    "data.batch_size": integer(1, change="frozen"),
    "data.holdout": integer(0, change="frozen"),
    "data.flip": boolean(change="frozen"),
    "data.crop": integer(0, change="frozen"),
    "data.num_workers": integer(0, 256),
    "data.timeout_s": number(0, above=True),
    "data.on_bad": choice("error", "skip"),
    "data.max_bad_fraction": number(0, 1),
    "data.skip_steps": integers(1),
    "optimizer.learning_rate": number(0, above=True),
    "optimizer.warmup_steps": integer(0),
    "optimizer.decay": choice("constant", "cosine"),
    "optimizer.b1": number(0, 1, below=True),
    "optimizer.b2": number(0, 1, below=True),
    "optimizer.eps": number(0, above=True),
    "optimizer.weight_decay": number(0),
    "optimizer.clip_norm": number(0),
    "optimizer.moments": choice("float32", "16bit", change="frozen"),
    "profile.start": integer(0),  # 0: never
    "profile.steps": integer(1),
    # Where the weights of step 0 come from: another run's work directory, or nowhere.
    "train.init_from": text(".*", "a work directory, or nothing"),
    "train.steps": integer(1),
    "train.microbatches": integer(1),
    "train.ema_decay": number(0, 1, below=True),
    "train.log_every": integer(1),
    "train.sample_every": integer(0),
    "train.save_every": integer(1),
    "train.keep": integer(1),
    "train.max_bad_steps": integer(1),
    "train.spike_window": integer(2),
    "train.spike_sigma": number(0),
    "train.engine": choice("jit", "pmap", "shard_map"),
    "mesh.data": integer(-1),
    "mesh.fsdp": integer(-1),
    "mesh.tensor": integer(-1),
    "mesh.min_size": integer(1),
    "mesh.overrides": texts(
        _OVERRIDE, "texts like 'conv_in/kernel=-,-,-,fsdp' (a pattern; an axis or - a dimension)"
    ),
}


def families() -> tuple[str, ...]:
    """List the model families that can be built."""
    package = importlib.import_module("gen_jax.launch.families")
    return tuple(sorted(module.name for module in pkgutil.iter_modules(package.__path__)))


def families_with(feature: str) -> tuple[str, ...]:
    """List the families whose module sets a feature.

    ``LATENTS``: codes; ``DISCRETE``: codes that are whole numbers; ``PRIOR``: N(0, 1) on them.
    """
    modules = {
        name: importlib.import_module(f"gen_jax.launch.families.{name}") for name in families()
    }
    return tuple(name for name, module in modules.items() if getattr(module, feature, False))


def fields_of(family: str) -> Mapping[str, Field]:
    """Give every field of a family's config by dotted name; the common ones alone if unknown."""
    if family not in families():
        return COMMON
    return {**COMMON, **importlib.import_module(f"gen_jax.launch.families.{family}").FIELDS}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give the leaves of nested mappings by dotted name."""
    leaves: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def find_faults(config: Mapping[str, Any]) -> list[Fault]:
    """Find everything that is wrong with a config.

    Args:
        config: nested mappings.

    Returns:
        Faults in the order of the fields; empty if the config can be built.
    """
    values = flatten(config)
    family = values.get("family")
    fields = fields_of(family) if isinstance(family, str) else COMMON
    faults = []
    if isinstance(family, str) and family not in families():
        faults.append(Fault("family", f"{family!r}; one of {', '.join(families())} is needed"))
        # Without a family its fields cannot be told from misspelt ones.
        values = {name: value for name, value in values.items() if name in COMMON}
    faults += [
        Fault(name, f"missing; {field.accepts} is needed")
        for name, field in fields.items()
        if name not in values
    ]
    for name, value in values.items():
        if name not in fields:
            faults.append(Fault(name, f"unknown field{nearest(name, fields)}"))
        elif not _fits(fields[name], value):
            faults.append(Fault(name, f"{value!r}; {fields[name].accepts} is needed"))
    # Relations between fields mean something only where each by itself is right.
    return faults or _relations(values, str(family))


def _fits(field: Field, value: Any) -> bool:
    if field.kind is float and type(value) is int:
        value = float(value)
    if field.kind is tuple and isinstance(value, list):
        value = tuple(value)
    return type(value) is field.kind and bool(field.ok(value))


def _relations(values: Mapping[str, Any], family: str) -> list[Fault]:
    faults = []
    batch, micro = values["data.batch_size"], values["train.microbatches"]
    if batch % micro:
        faults.append(
            Fault("train.microbatches", f"{micro} does not divide data.batch_size {batch}")
        )
    faults += _mesh_faults(values)
    height, width, channels = values["data.shape"]
    if channels not in (1, 3):
        faults.append(Fault("data.shape", f"{channels} channels; 1 or 3 are needed"))
    if values["data.crop"] >= min(height, width):
        crop = values["data.crop"]
        faults.append(
            Fault("data.crop", f"{crop}; less than the image's {min(height, width)} pixels")
        )
    if values["data.source"].startswith("codes:"):
        if not values.get("stage1"):
            what = "holds codes of a first stage, which this config has not"
            faults.append(Fault("data.source", f"{values['data.source']!r} {what}"))
        faults += [
            Fault(f"data.{name}", f"{values[f'data.{name}']}; codes made beforehand are not moved")
            for name in ("flip", "crop")
            if values[f"data.{name}"]
        ]
    steps, warmup = values["train.steps"], values["optimizer.warmup_steps"]
    if values["optimizer.decay"] == "cosine" and warmup >= steps:
        faults.append(
            Fault("optimizer.warmup_steps", f"{warmup}; less than train.steps {steps} is needed")
        )
    module = importlib.import_module(f"gen_jax.launch.families.{family}")
    return faults + [Fault(*fault) for fault in module.faults(values)]


def _mesh_faults(values: Mapping[str, Any]) -> list[Fault]:
    """Find what is wrong with a mesh whatever the number of devices; the rest needs JAX."""
    axes = {name: values[f"mesh.{name}"] for name in ("data", "fsdp", "tensor")}
    zeros = [name for name, size in axes.items() if size == 0]
    if zeros:
        return [Fault(f"mesh.{zeros[0]}", "0; -1 or a whole number from 1 is needed")]
    product = " x ".join(f"{name} {size}" for name, size in axes.items())
    open_axes = [name for name, size in axes.items() if size == -1]
    if len(open_axes) > 1:
        return [Fault(f"mesh.{open_axes[1]}", f"-1 in {product}; it may stand for one axis only")]
    faults = []
    batch, micro = values["data.batch_size"], values["train.microbatches"]
    parts = math.prod(size for size in (axes["data"], axes["fsdp"], micro) if size > 0)
    if batch % micro == 0 and batch % parts:
        terms = " x ".join(f"{name} {axes[name]}" for name in ("data", "fsdp") if axes[name] > 0)
        faults.append(
            Fault(
                "mesh.fsdp" if axes["fsdp"] > 1 else "mesh.data",
                f"{terms} x {micro} microbatches = {parts} parts, which do not divide "
                f"data.batch_size {batch}",
            )
        )
    engine = values["train.engine"]
    if engine != "jit" and (axes["fsdp"], axes["tensor"]) != (1, 1):
        faults.append(
            Fault(
                "train.engine",
                f"{engine!r} keeps a copy of the state on each device, but the mesh is {product}; "
                "'jit', or fsdp 1 and tensor 1, is needed",
            )
        )
    if engine != "jit" and values["mesh.overrides"]:
        faults.append(
            Fault("mesh.overrides", f"has a meaning only with train.engine 'jit', not {engine!r}")
        )
    patterns = [line.rpartition("=")[0] for line in values["mesh.overrides"]]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            faults.append(Fault("mesh.overrides", f"{pattern!r}: no regular expression: {error}"))
    return faults


def parse_override(line: str) -> tuple[str, tuple[str | None, ...]]:
    """Read ``"pattern=axis,-,axis"`` as a pattern and an axis, or None, for each dimension."""
    pattern, _, axes = line.rpartition("=")
    return pattern, tuple(None if axis == "-" else axis for axis in axes.split(","))


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest what a misspelt name may have meant: ``; did you mean 'x'?``, or nothing."""
    known = list(known)
    last = name.rpartition(".")[2]
    close = [field for field in known if field.rpartition(".")[2] == last]  # in another section
    close = close or difflib.get_close_matches(name, known, 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


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
