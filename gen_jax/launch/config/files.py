"""Reading configs: Python files with overrides from the command line, and saved JSON."""

import contextlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_dict, config_flags

from gen_jax.errors import CheckpointError, ConfigError, one_line
from gen_jax.launch.config.fields import Fault, flatten
from gen_jax.launch.config.schema import (
    RENAMED,
    completed,
    fields_of,
    find_faults,
    nearest,
    nested,
)
from gen_jax.reading import parse_json, read_file

__all__ = [
    "find_config",
    "finish_config",
    "from_json",
    "load_config",
    "reader_of",
    "shipped_configs",
    "to_json",
    "told_by_stage",
]


def load_config(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Load a config file, apply overrides, and check the whole.

    A config file is a program and is run; give only files that you would run.

    Args:
        path: ``FILE.py`` or ``FILE.py:VARIANT``, or the name of a config that comes with the
            package; the folder above the file's own is put at the end of ``sys.path``, so that
            configs may import one another wherever they lie.
        overrides: ``section.field=value``, in order.

    Returns:
        Nested dicts: no one further in sees a ConfigDict.

    Raises:
        ConfigError: telling all faults, one a line.
    """
    if path.endswith(".json"):
        return finish_config(_saved_config(Path(path).expanduser()), overrides, path)
    return finish_config(_run_config_file(path), overrides, path)


def _saved_config(path: Path) -> config_dict.ConfigDict:
    """Read the config that a run has saved; of a first stage, and others, its own copies.

    Raises:
        ConfigError: if it cannot be read.
    """
    try:
        values = flatten(from_json(path))
    except CheckpointError as error:
        raise ConfigError(f"--config: {error}") from error
    for name in values:  # where they were copied from may be gone
        own, stage = path.parent / name.rpartition(".")[2], name.startswith(("stage1", "stages."))
        if stage and values[name] and own.is_dir() and not Path(values[name]).is_dir():
            values[name] = str(own)
    fields = fields_of(str(values["family"]))
    read = {name: fields[name].read(x) if name in fields else x for name, x in values.items()}
    return config_dict.ConfigDict(nested(read))


def finish_config(
    config: config_dict.ConfigDict, overrides: Sequence[str], where: str = "config"
) -> dict[str, Any]:
    """Complete a config with the defaults of its family, apply overrides, and check the whole.

    Args:
        config: what it says itself.
        overrides: ``section.field=value``, in order.
        where: it comes from, for errors.

    Returns:
        Nested dicts.

    Raises:
        ConfigError: telling all faults, one a line.
    """
    config = _completed(config)
    fields = fields_of(str(config.get("family", "")))
    names = flatten(config.to_dict())
    faults = []
    for override in overrides:
        name, equals, value = override.partition("=")
        name = RENAMED.get(name, name)
        if name not in names:
            faults.append(Fault(name, f"unknown field{nearest(name, fields)}"))
        elif not equals or not _apply(config, name, value):
            accepts = fields[name].accepts if name in fields else "another type"
            faults.append(Fault(name, f"got {value!r}; {accepts} is required"))
    values = _with_homes(config.to_dict())
    faults += find_faults(values, bad={fault.field for fault in faults}, new=True)
    if faults:
        raise ConfigError(_report(where, faults))
    return values


def find_config(name: str) -> Path:
    """Find a config file, or one that comes with the package by its name.

    Args:
        name: ``FILE.py``, or ``ddpm_digits``.

    Raises:
        ConfigError: if there is none.
    """
    file = Path(name)
    if file.is_file():
        return file
    shipped = shipped_configs()
    if file.suffix != ".py" and len(file.parts) == 1:
        if name in shipped:
            return shipped[name]
        raise ConfigError(
            f"--config: got {name!r}; FILE.py, or one of these is required: {', '.join(shipped)}"
            f"{nearest(name, shipped)}"
        )
    hint = f"; --config {file.stem} comes with gen_jax" if file.stem in shipped else ""
    raise ConfigError(f"{file}: no such file{hint}")


def shipped_configs() -> dict[str, Path]:
    """List the experiments that come with the package, by name."""
    package = Path(__file__).parent.parent.parent
    # In a wheel they lie inside the package, in a checkout beside it.
    folders = (package / "shipped" / "configs", package.parent / "configs")
    found = next((sorted(x.glob("[!_]*.py")) for x in folders if x.is_dir()), [])
    return {path.stem: path for path in found}


def _completed(config: config_dict.ConfigDict) -> config_dict.ConfigDict:
    """Add what the file leaves out, and give each value the type of its field for overrides."""
    values = flatten(completed(config.to_dict()))
    for name, field in fields_of(str(values.get("family", ""))).items():
        value = values.get(name)
        if value is not None and field.takes(value):
            values[name] = field.read(value)
        elif name in values and value is None and field.optional:
            values[name] = config_dict.placeholder(field.kind)
    return config_dict.ConfigDict(nested(values))


def _with_homes(config: dict[str, Any]) -> dict[str, Any]:
    """Write out ``~``, which a shell leaves as it is behind ``=``."""
    values = flatten(config)
    for name in ("stage1", "train.init_from", *(n for n in values if n.startswith("stages."))):
        if isinstance(values.get(name), str) and values[name].startswith("~"):
            values[name] = str(Path(values[name]).expanduser())
    return nested(values)


def _report(where: str, faults: Sequence[Fault]) -> str:
    if len(faults) == 1:
        return f"{where}: {faults[0]}"
    return f"{where}: {len(faults)} faults\n" + "\n".join(f"  {fault}" for fault in faults)


def _run_config_file(path: str) -> config_dict.ConfigDict:
    name, colon, variant = path.partition(":")
    file = find_config(name)
    path = f"{file}{colon}{variant}"
    # Behind everything else: a file called optax.py there must not take the library's place.
    root = str(file.resolve().parent.parent)
    if root not in sys.path:
        sys.path.append(root)
    holder = flags.FlagValues()
    argv = ["gen-jax", f"--config={path}"]
    config_flags.DEFINE_config_file("config", flag_values=holder, sys_argv=argv)
    try:
        holder(argv)
        config = holder.config
        # ml_collections keeps an OSError for whoever reads the config.
        if (kept := getattr(config, "_error", None)) is not None:
            raise kept
    except Exception as error:  # the file is a program: anything may come out of it
        raise ConfigError(f"{path}: {one_line(error, -1)}") from error
    if not isinstance(config, config_dict.ConfigDict):
        raise ConfigError(f"{path}: get_config() must return a ConfigDict")
    return config


def _apply(config: config_dict.ConfigDict, name: str, value: str) -> bool:
    """Let ml_collections parse one override by the type of the field; False if it cannot."""
    holder = flags.FlagValues()
    argv = ["gen-jax", f"--config.{name}={value}"]
    config_flags.DEFINE_config_dict("config", config, flag_values=holder, sys_argv=argv)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            holder(argv)
    except (flags.Error, ValueError, TypeError):
        return False
    return True


def to_json(config: Mapping[str, Any]) -> str:
    """Write a config as data."""
    return json.dumps(config, indent=2) + "\n"


def from_json(path: Path) -> dict[str, Any]:
    """Read a saved config, and check it; what an earlier version did not know has its default.

    Raises:
        CheckpointError: if it is not there, not JSON, or not a config of this version.
    """
    try:
        config = parse_json(read_file(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    config = completed(config) if isinstance(config, dict) else config
    faults = find_faults(config) if isinstance(config, dict) else [Fault("config", "no object")]
    if faults:
        raise CheckpointError(f"{path}: {'; '.join(map(str, faults))}")
    return config


def reader_of(config: Mapping[str, Any]) -> str:
    """Name the stage that reads texts, if there is one."""
    return {"embedding_prior": "clip", "video": "image"}.get(str(config["family"]), "text")


def told_by_stage(config: Mapping[str, Any], places: Mapping[str, Path]) -> Mapping[str, Any]:
    """Let a config say of texts what the frozen stage says that reads them.

    Args:
        config: without faults.
        places: work directories, by the names of stages.

    Raises:
        CheckpointError: if it cannot be read, or reads no texts.
    """
    if (name := reader_of(config)) not in places:
        return config
    theirs = from_json(places[name] / "config.json")
    if "text" not in theirs:
        family = theirs["family"]
        raise CheckpointError(f"stages.{name}: {places[name]}: family {family!r} reads no texts")
    return {**config, "text": theirs["text"]}
