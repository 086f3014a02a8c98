"""Reading flags: what several commands share."""

import ast
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from gen_jax.errors import ConfigError, StorageError
from gen_jax.launch.config.fields import elsewhere
from gen_jax.launch.runs.workdir import CLASSES

__all__ = [
    "HelpGiven",
    "check_writable",
    "class_number",
    "define_data",
    "define_sampling",
    "load_alone",
    "model_flags",
    "need",
    "parse",
    "parse_known",
    "read_override",
    "take_overrides",
    "with_data",
]


# What models may be told, so that a flag which this one is not told is no mere slip of the pen.
INPUTS = (
    *("label", "image", "mask", "context", "low_res", "source"),
    *("prompt", "prompts", "negative", "target"),
)


def define_data(values: flags.FlagValues) -> None:
    """Define ``--data`` and ``--split``."""
    flags.DEFINE_string("data", None, "where the data is now, if it has moved", flag_values=values)
    flags.DEFINE_enum(
        "split",
        "test",
        ["test", "validation", "train"],
        "of the data; validation is what data.holdout kept from training",
        flag_values=values,
    )


def with_data(trained: Any, values: flags.FlagValues) -> Any:
    """Let a trained model's data be where ``--data`` says."""
    if not values.data:
        return trained
    kind, _, place = values.data.partition(":")
    where = f"{kind}:{local_place('--data', place)}" if place else kind
    data = {**trained.config["data"], "source": where}
    return trained._replace(config={**trained.config, "data": data})


def check_writable(out: Path) -> None:
    """Find out before an hour of sampling, and leave nothing behind."""
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)) or out.is_dir():
        raise StorageError(f"{out}: cannot be written")


def class_number(workdir: Path, label: str) -> str:
    """Return the number of a class that is given by its name in the training data.

    Raises:
        ConfigError: if there is no class of that name.
    """
    path = workdir / CLASSES
    if label.lstrip("-").isdecimal() or not path.exists():
        return label
    names = json.loads(path.read_text())
    if label not in names:
        near = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise ConfigError(f"--label: got {label!r}; a number, or one of {near} is required")
    return str(names.index(label))


def define_sampling(values: flags.FlagValues, batch_size: int) -> None:
    """Define ``--seed`` and ``--batch_size``."""
    flags.DEFINE_integer(
        "seed", 0, "names the samples", flag_values=values, lower_bound=0, upper_bound=2**32 - 1
    )
    flags.DEFINE_integer(
        "batch_size", batch_size, "samples at once", flag_values=values, lower_bound=1
    )


def load_alone(command: str, workdir: Path, *, whole: bool = False) -> Any:
    """Load a work directory in a command that runs as one process, with all of its stages.

    Raises:
        ConfigError: if it was started as several.
        CheckpointError: as :func:`gen_jax.launch.runs.restore.load_trained`.
    """
    from gen_jax.launch.jobs.processes import find_place
    from gen_jax.launch.runs.chain import with_stages
    from gen_jax.launch.runs.restore import load_trained

    nothing = dict.fromkeys(("coordinator_address", "num_processes", "process_id"))
    if place := find_place(nothing, os.environ):
        raise ConfigError(
            f"{command}: runs as one process, and here are {place.num_processes} ({place.found_in})"
            "; each would write the same file; start it once"
        )
    return with_stages(load_trained(workdir, whole=whole), workdir)


# Flags that name files and folders; ``data`` names them behind its kind.
PLACES = {
    *(
        "classifier",
        "clip",
        "config",
        "from",
        "images",
        "out",
        "stage1",
        "target_config",
        "to",
        "trace",
        "workdir",
    )
}

_DEFINE: Mapping[type, Callable[..., Any]] = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    bool: flags.DEFINE_boolean,
}
_VALUES = {
    "label": "a class",
    "image": "a picture, or an npz with images",
    "mask": "a picture, or an npz with mask: white where pixels are kept",
    "vectors": "an npz",
    "tokens": "words",
}


def model_flags(
    command: str,
    model: Any,
    rest: list[str],
    options: Mapping[str, Any],
    *,
    inputs: bool = False,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Read the flags that follow from a model: options, and what it is told.

    Args:
        command: for errors.
        model: whose flags they are.
        rest: arguments that the command itself does not know.
        options: of its sampler, or its density.
        inputs: whether the model is told something here.

    Returns:
        The options that were chosen, and the flags of inputs that were given.

    Raises:
        ConfigError: for an unknown flag, or a value that is out of range.
        HelpGiven: after ``--help``.
    """
    own = flags.FlagValues()
    for name, option in options.items():
        about = f"{option.help} ({option.accepts})" if option.accepts else option.help
        _DEFINE[option.kind](name, None, about, flag_values=own)
    told = _define_inputs(model, own) if inputs else {}
    for argument in rest:
        name = argument.lstrip("-").partition("=")[0]
        if argument.startswith("-") and name in INPUTS and name not in own:
            known = ", ".join(f"--{name}" for name in told) or "nothing"
            raise ConfigError(f"--{name}: this model is not told it; it is told {known}")
        if argument.startswith("-") and name == "guidance" and name not in own:
            raise ConfigError(
                "--guidance: has a meaning only for models that were trained with "
                "model.class_dropout, or with a context"
            )
    if parse(command, own, rest):
        raise HelpGiven
    chosen: dict[str, Any] = {
        name: own[name].value for name in options if own[name].value is not None
    }
    for name, value in chosen.items():
        if not options[name].ok(value):
            raise ConfigError(f"--{name}: {value!r}; {options[name].accepts} is required")
    given = {
        of: str(own[flag].value)
        if model.inputs[of].kind == "label"
        else local_place(f"--{flag}", str(own[flag].value))
        for flag, of in told.items()
        if own[flag].value and of not in ("prompt", *_OF_ONE_TEXT)
    }
    return chosen, given | _read_texts(told, own)


# Inputs that are one text for all samples.
_OF_ONE_TEXT = ("source_prompt", "target", "toward", "away")


def _read_texts(told: Mapping[str, str], own: flags.FlagValues) -> dict[str, str]:
    """Read prompts, one a line: one of ``--prompt``, or those of the file ``--prompts``."""
    given = {}
    for name in _OF_ONE_TEXT:
        text = own[name].value if name in told else None
        if text is not None:
            given[name] = " ".join(text.split())
    if "prompt" not in told:
        return given
    if own["prompt"].value is not None:
        given["prompt"] = " ".join(own["prompt"].value.split())
    if (path := own["prompts"].value) is not None:
        if "prompt" in given:
            raise ConfigError("--prompts: goes not with --prompt")
        try:
            lines = Path(local_place("--prompts", path)).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError(f"--prompts: {path}: cannot be read: {error}") from error
        given["prompt"] = "\n".join(" ".join(line.split()) for line in lines if line.strip())
        if not given["prompt"]:
            raise ConfigError(f"--prompts: {path}: empty; a prompt in each line is required")
    if "negative" in own and own["negative"].value is not None:
        given["no_prompt"] = " ".join(own["negative"].value.split())
    return given


def _define_inputs(model: Any, own: flags.FlagValues) -> dict[str, str]:
    """Define a flag for each input; gives the input of each flag."""
    # What guidance leads away from, no_X, lies in the file of X.
    away = {f"no_{name}" for name in model.inputs}
    told = {name: name for name in model.inputs if name not in away}
    # What a model makes larger is an image by any name.
    if "low_res" in model.inputs and "image" not in model.inputs:
        told["image"] = "low_res"
    for flag, name in told.items():
        given = model.inputs[name]
        below = f" from 0 to {given.size - 1}" if given.size else ""
        about = f"{given.help}: {_VALUES[given.kind]}{below}"
        flags.DEFINE_string(flag, None, about, flag_values=own)
        if name == "prompt":
            more = {
                "prompts": "a file with a text in each line, for samples in turn",
                "negative": model.inputs[f"no_{name}"].help if f"no_{name}" in model.inputs else "",
            }
            for other, help_of_it in more.items():
                if help_of_it:
                    flags.DEFINE_string(other, None, help_of_it, flag_values=own)
    return told


class HelpGiven(Exception):
    """Raised where a command has told of its flags, and there is nothing more to do."""


def take_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Take out ``--config.a.b=value`` and ``--config.a.b value``, as ``a.b=value``."""
    overrides, rest = [], []
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and name.startswith("config."):
            value = value if equals else next(waiting, "")
            overrides.append(f"{name.removeprefix('config.')}={value}")
        else:
            rest.append(argument)
    return overrides, rest


def read_override(line: str) -> tuple[str, Any]:
    """Read ``a.b=value``, the value as Python would, or else as text."""
    name, _, text = line.partition("=")
    try:
        return name, ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return name, text


def parse(command: str, values: flags.FlagValues, arguments: list[str], more: str = "") -> bool:
    """Parse all arguments; True if help was asked for, and given, with ``more`` below it."""
    rest = parse_known(command, values, arguments)
    if rest is None:
        print(more, end="")
        return True
    if rest:
        raise ConfigError(f"{rest[0]}: not a flag of gen-jax {command}{_hint(rest[0], values)}")
    return False


def _hint(argument: str, values: flags.FlagValues) -> str:
    """Guess the flag that was meant, or the config field."""
    from gen_jax.launch.config.schema import families, fields_of, guess

    name, equals, value = argument.lstrip("-").partition("=")
    if "config" in values and "config." not in name:
        fields = {field for family in families() for field in fields_of(family)}
        exact = [field for field in fields if name in (field, field.rpartition(".")[2])]
        sections = ("", "train", "data", "optimizer", "model", "diffusion", "mesh", "profile")
        rank = {section: number for number, section in enumerate(sections)}
        field = min(exact, key=lambda x: rank.get(x.rpartition(".")[0], 99), default=None)
        field = field or (None if guess(name, values) else guess(name, sorted(fields)))
        if field:
            return f"; --config.{field}{equals}{value} sets that field of the config"
    near = guess(name, values)
    return f"; did you mean {near!r}?" if near else ""


def parse_known(command: str, values: flags.FlagValues, arguments: list[str]) -> list[str] | None:
    """Parse the flags that are defined and give the other arguments; None after ``--help``."""
    if asked := {"--help", "-h"} & {*arguments}:
        print(f"gen-jax {command}\n{values.get_help()}")
        of_model = command in ("sample", "evaluate") and "workdir" in values
        if not of_model or not any(x.lstrip("-").startswith("workdir") for x in arguments):
            if of_model:
                print("with --workdir W also the flags of that model's sampler")
            return None
        arguments = [x for x in arguments if x not in asked]
        return [*(parse_known(command, values, arguments) or ()), "--help"]
    try:
        rest = list(values(["gen-jax", *arguments], known_only=True))[1:]
    except flags.Error as error:
        raise ConfigError(str(error)) from error
    for name in PLACES & set(values):
        if given := values[name].value:
            values[name].value = local_place(f"--{name}", str(given))
    return rest


def local_place(name: str, value: str) -> str:
    """Return a place on this machine's file system, with ``~`` written out.

    Raises:
        ConfigError: for one elsewhere, which would become a folder called ``gs:`` here.
    """
    if scheme := elsewhere(value):
        what = f"a local path is required; {scheme} is not read or written yet"
        raise ConfigError(f"{name}: got {value!r}; {what}")
    return os.path.expanduser(value)  # noqa: PTH111 not a Path: FILE.py:VARIANT stays as it is


def need(values: flags.FlagValues, *names: str) -> None:
    """Check that flags were given."""
    missing = [f"--{name}" for name in names if not values[name].value]
    if missing:
        raise ConfigError(f"{' and '.join(missing)}: missing; see --help")
