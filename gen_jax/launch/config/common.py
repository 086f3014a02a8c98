"""The fields of every config, and the rules between them."""

import math
import re
from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config.fields import (
    Field,
    Rule,
    boolean,
    choice,
    elsewhere,
    integer,
    integers,
    number,
    text,
    texts,
)
from gen_jax.train.rules import OPTIMIZERS, learning_rate_faults, optimizer_faults

__all__ = ["COMMON", "OPTIMIZER", "RULES", "of_player", "own_optimizer", "parse_override"]

_OVERRIDE = r".+=(-|data|fsdp|tensor)(,(-|data|fsdp|tensor))*"
_SOURCE = (
    r"digits|mnist|fashion_mnist|kmnist|cifar10|cifar100|svhn|(npz|folder|tars|tfds|glyphs|films|codes):.+|synthetic:\d+x\d+x[13]"
    r"|(edit_)?scenes:\d+x\d+x3|moving_scenes:(\d+x)?\d+x\d+x3"
)

OPTIMIZER: Mapping[str, Field] = {
    "name": choice(*OPTIMIZERS, change="frozen", doc="optimizer, as optax has it"),
    "learning_rate": number(
        0, above=True, default=1e-3, doc="peak learning rate, reached after the warm-up"
    ),
    "warmup_steps": integer(
        0, default=0, doc="steps over which the learning rate rises linearly to its peak"
    ),
    "decay": choice(
        "constant",
        "cosine",
        doc="learning rate after the warm-up; 'cosine' falls to 0 at the last step",
    ),
    "b1": number(
        0, 1, below=True, default=0.9, doc="Adam's decay of the running mean of gradients"
    ),
    "b2": number(
        0, 1, below=True, default=0.999, doc="Adam's decay of the running mean of squared gradients"
    ),
    "eps": number(0, above=True, default=1e-8, doc="added to the denominator of Adam's update"),
    "weight_decay": number(
        0, default=0.0, doc="decoupled weight decay of kernels, relative to the learning rate"
    ),
    "clip_norm": number(0, default=1.0, doc="largest global norm of a gradient; 0 clips nothing"),
    "moments": choice(
        "float32",
        "16bit",
        change="frozen",
        doc="how Adam's moments are stored; '16bit' takes half the memory",
    ),
}

COMMON: Mapping[str, Field] = {
    "family": text(r"\w+", "the name of a model family", change="frozen", doc="model family"),
    "seed": integer(0, 2**32 - 1, default=0, change="frozen", doc="seed of all randomness"),
    # Free, because data may move; its fingerprint, kept with each checkpoint, may not change.
    "data.source": text(
        _SOURCE,
        "digits, mnist, fashion_mnist, kmnist, cifar10, cifar100, svhn, npz:PATH, folder:PATH, "
        "tars:PATH, tfds:NAME, synthetic:HxWxC, scenes:HxWx3, "
        "edit_scenes:HxWx3, moving_scenes:FxHxWx3, films:PATH, glyphs:PATH or codes:PATH",
        default="digits",
        doc="dataset",
    ),
    "data.other": text(
        f"|{_SOURCE}",
        "a source of images as data.source, or nothing",
        doc="images of another kind, without pairs, for a model that translates between both",
    ),
    "data.captions": text(
        r"|.*\{\}.*",
        "a sentence with {} where the name of a class stands, or nothing for the data's own texts",
        change="frozen",
        doc="captions of labeled images, as 'a photo of a {}'",
    ),
    "data.dir": text(
        ".*",
        "a folder of prepared TFDS datasets, or nothing for its default",
        doc="where prepared TFDS datasets are, for tfds:NAME",
    ),
    "data.shape": integers(
        1,
        length=3,
        default=(8, 8, 1),
        change="frozen",
        doc="height, width and channels of an image",
    ),
    "data.batch_size": integer(
        1, default=128, change="frozen", doc="examples in a step, over all devices"
    ),
    "data.holdout": integer(
        0, default=0, change="frozen", doc="training examples set aside for validation"
    ),
    "data.flip": boolean(
        default=False, change="frozen", doc="mirror images left to right, at random"
    ),
    "data.crop": integer(
        0, default=0, change="frozen", doc="shift images by up to so many pixels, at random"
    ),
    "data.num_workers": integer(
        0, 256, default=0, doc="processes that read data; 0 reads in the main process"
    ),
    "data.timeout_s": number(
        0, above=True, default=300.0, doc="seconds to wait for a batch before giving up"
    ),
    "data.on_bad": choice(
        "error", "skip", doc="what to do about an unreadable example: stop, or take another"
    ),
    "data.max_bad_fraction": number(
        0, 1, default=0.001, doc="share of examples that may be unreadable with on_bad 'skip'"
    ),
    "data.max_pixels": integer(
        1, default=50_000_000, doc="largest number of pixels of a picture in a folder"
    ),
    "data.sixteen_bit": boolean(
        default=False, doc="take gray pictures of 16 bits too, brought to the 8 that models see"
    ),
    "data.skip_steps": integers(1, doc="numbers of the batches to leave out, after a rollback"),
    **{f"optimizer.{name}": field for name, field in OPTIMIZER.items()},
    "profile.start": integer(0, default=0, doc="first step to profile; 0 profiles none"),
    "profile.steps": integer(1, default=5, doc="number of steps to profile"),
    "train.init_from": text(
        ".*",
        "a work directory, or nothing",
        doc="work directory whose averaged weights training starts from",
    ),
    "train.steps": integer(1, default=1000, doc="number of training steps"),
    "train.microbatches": integer(
        1, default=1, doc="parts a batch is split into, one after another, to save memory"
    ),
    "train.ema_decay": number(
        0,
        1,
        below=True,
        default=0.999,
        doc="decay of the exponential moving average of the weights",
    ),
    "train.log_every": integer(1, default=50, doc="steps between two lines of metrics"),
    "train.validate_every": integer(
        0, default=0, doc="steps between measurements of held-out losses; 0: none"
    ),
    "train.sample_every": integer(
        0, default=500, doc="steps between two sets of pictures; 0 draws none"
    ),
    "train.save_every": integer(1, default=500, doc="steps between two checkpoints"),
    "train.keep": integer(1, default=2, doc="number of checkpoints kept"),
    "train.max_bad_steps": integer(
        1, default=5, doc="consecutive steps without a finite loss that end the run"
    ),
    "train.spike_window": integer(
        2, default=128, doc="steps over which the usual level of a loss is measured"
    ),
    "train.spike_sigma": number(
        0,
        default=0.0,
        doc="standard deviations above that level at which a step is refused; 0 refuses none",
    ),
    "train.engine": choice(
        "jit",
        "pmap",
        "shard_map",
        doc="how a step runs on several devices; 'jit' alone splits weights",
    ),
    "mesh.data": integer(
        -1, default=-1, doc="devices that split the batch; -1 takes all that are left"
    ),
    "mesh.fsdp": integer(-1, default=1, doc="devices that split both the batch and the weights"),
    "mesh.tensor": integer(-1, default=1, doc="devices that split attention heads and channels"),
    "mesh.min_size": integer(1, default=2**16, doc="smallest array, in elements, that is split"),
    "mesh.overrides": texts(
        _OVERRIDE,
        "texts like 'conv_in/kernel=-,-,-,fsdp' (a pattern; an axis or - a dimension)",
        doc="how arrays whose path matches a pattern are split",
    ),
}


def own_optimizer(player: str) -> dict[str, Field]:
    """List the fields with which a player may differ from the common optimizer."""
    return {
        f"optimizer.{player}.{name}": field._replace(
            default=None, optional=True, doc=f"{player}'s own; None takes optimizer.{name}"
        )
        for name, field in OPTIMIZER.items()
        if field.change == "free"
    }


def of_player(values: Mapping[str, Any], player: str, name: str) -> Any:
    """Return what holds for a player's optimizer: its own value, or else the common one."""
    own = values.get(f"optimizer.{player}.{name}")
    return values[f"optimizer.{name}"] if own is None else own


def parse_override(line: str) -> tuple[str, tuple[str | None, ...]]:
    """Read ``"pattern=axis,-,axis"`` as a pattern and an axis, or None, for each dimension."""
    pattern, _, axes = line.rpartition("=")
    return pattern, tuple(None if axis == "-" else axis for axis in axes.split(","))


def _microbatches(values: Mapping[str, Any]) -> dict[str, str]:
    batch, micro = values["data.batch_size"], values["train.microbatches"]
    if batch % micro:
        return {"train.microbatches": f"{micro} does not divide data.batch_size {batch}"}
    return {}


def _channels(values: Mapping[str, Any]) -> dict[str, str]:
    channels = values["data.shape"][-1]
    if channels in (1, 3, 4):  # the fourth is opacity
        return {}
    return {"data.shape": f"{channels} channels; 1, 3 or 4 are required"}


def _crop(values: Mapping[str, Any]) -> dict[str, str]:
    crop, side = values["data.crop"], min(values["data.shape"][-3:-1])
    return {"data.crop": f"got {crop}; less than the image's {side} pixels"} if crop >= side else {}


def _places(values: Mapping[str, Any]) -> dict[str, str]:
    """Refuse other machines' files, which would become folders called ``gs:`` here."""
    given = {name: values.get(name, "") for name in ("stage1", "train.init_from")}
    given |= {name: values[name] for name in values if name.startswith("stages.")}
    kind, _, place = values["data.source"].partition(":")
    if kind in ("npz", "folder", "codes"):
        given["data.source"] = place
    kind, _, place = values["data.other"].partition(":")
    if kind in ("npz", "folder"):
        given["data.other"] = place
    return {
        name: f"got {values[name]!r}; a local path is required; {scheme} is not read yet"
        for name, place in given.items()
        if (scheme := elsewhere(place))
    }


def _codes(values: Mapping[str, Any]) -> dict[str, str]:
    if not values["data.source"].startswith("codes:"):
        return {}
    faults = {
        f"data.{name}": f"got {values[f'data.{name}']}; codes made beforehand are not moved"
        for name in ("flip", "crop")
        if values[f"data.{name}"]
    }
    if not values.get("stage1"):
        what = "holds codes of a first stage, which this config has not"
        faults["data.source"] = f"{values['data.source']!r} {what}"
    return faults


def _optimizer(values: Mapping[str, Any]) -> dict[str, str]:
    given = {name: values[f"optimizer.{name}"] for name in ("name", "moments")}
    return {f"optimizer.{name}": fault for name, fault in optimizer_faults(**given).items()}


def _decay(values: Mapping[str, Any]) -> dict[str, str]:
    faults = _decay_of(values, "optimizer")
    for name in values:
        section = name.removesuffix(".learning_rate")
        if name != section != "optimizer" and not faults:
            faults |= _decay_of(values, section)
    return faults


def _decay_of(values: Mapping[str, Any], section: str) -> dict[str, str]:
    player = section.removeprefix("optimizer").removeprefix(".")
    given = {name: of_player(values, player, name) for name in ("decay", "warmup_steps")}
    faults = learning_rate_faults(total_steps=values["train.steps"], **given)
    return {f"{section}.{name}": fault for name, fault in faults.items()}


_AXES = ("data", "fsdp", "tensor")


def _axes(values: Mapping[str, Any]) -> tuple[dict[str, int], str]:
    axes = {name: values[f"mesh.{name}"] for name in _AXES}
    return axes, " x ".join(f"{name} {size}" for name, size in axes.items())


def _axis_sizes(values: Mapping[str, Any]) -> dict[str, str]:
    """Find sizes that are wrong whatever the number of devices; the rest needs JAX."""
    axes, product = _axes(values)
    faults = {
        f"mesh.{name}": "got 0; -1 or a whole number from 1 is required"
        for name, size in axes.items()
        if size == 0
    }
    open_axes = [name for name, size in axes.items() if size == -1]
    if len(open_axes) > 1:
        faults[f"mesh.{open_axes[1]}"] = f"-1 in {product}; it may stand for one axis only"
    return faults


def _shares(values: Mapping[str, Any]) -> dict[str, str]:
    axes, _ = _axes(values)
    batch, micro = values["data.batch_size"], values["train.microbatches"]
    parts = math.prod(size for size in (axes["data"], axes["fsdp"], micro) if size > 0)
    if batch % micro or not batch % parts:
        return {}
    terms = " x ".join(f"{name} {axes[name]}" for name in ("data", "fsdp") if axes[name] > 0)
    what = f"{terms} x {micro} microbatches = {parts} parts, which do not divide"
    name = "mesh.fsdp" if axes["fsdp"] > 1 else "mesh.data"
    return {name: f"{what} data.batch_size {batch}"}


def _engine(values: Mapping[str, Any]) -> dict[str, str]:
    engine = values["train.engine"]
    if engine == "jit":
        return {}
    axes, product = _axes(values)
    faults = {}
    if (axes["fsdp"], axes["tensor"]) != (1, 1):
        faults["train.engine"] = (
            f"{engine!r} keeps a copy of the state on each device, but the mesh is {product}; "
            "'jit', or fsdp 1 and tensor 1, is required"
        )
    if values["mesh.overrides"]:
        faults["mesh.overrides"] = f"has a meaning only with train.engine 'jit', not {engine!r}"
    return faults


def _overrides(values: Mapping[str, Any]) -> dict[str, str]:
    for line in values["mesh.overrides"]:
        pattern, _ = parse_override(line)
        try:
            re.compile(pattern)
        except re.error as error:
            return {"mesh.overrides": f"{pattern!r}: no regular expression: {error}"}
    return {}


def _other(values: Mapping[str, Any]) -> dict[str, str]:
    if values["data.other"] and values["family"] != "translation":
        family = values["family"]
        return {"data.other": f"got {values['data.other']!r}; a {family} model sees no other kind"}
    return {}


RULES: tuple[Rule, ...] = (
    _other,
    _microbatches,
    _axis_sizes,
    _shares,
    _engine,
    _overrides,
    _channels,
    _optimizer,
    _crop,
    _codes,
    _places,
    _decay,
)
