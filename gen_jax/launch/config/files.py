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
    completed,
    fields_of,
    find_faults,
    nearest,
    nested,
)
from gen_jax.reading import parse_json, read_file

__all__ = ["from_json", "load_config", "to_json"]


def load_config(path: str, overrides: Sequence[str]) -> dict[str, Any]:
    """Load a config file, apply overrides, and check the whole.

    A config file is a program and is run; give only files that you would run.

    Args:
        path: ``FILE.py`` or ``FILE.py:VARIANT``; the folder above the file's own is put on
            ``sys.path``, so that configs may import one another wherever they lie.
        overrides: ``section.field=value``, in order.

    Returns:
        Nested dicts: no one further in sees a ConfigDict.

    Raises:
        ConfigError: telling all faults, one a line.
    """
    config = _completed(_run_config_file(path))
    fields = fields_of(str(config.get("family", "")))
    names = flatten(config.to_dict())
    faults = []
    for override in overrides:
        name, equals, value = override.partition("=")
        if name not in names:
            faults.append(Fault(name, f"unknown field{nearest(name, fields)}"))
        elif not equals or not _apply(config, name, value):
            accepts = fields[name].accepts if name in fields else "another type"
            faults.append(Fault(name, f"got {value!r}; {accepts} is required"))
    values = config.to_dict()
    faults += find_faults(values, bad={fault.field for fault in faults})
    if faults:
        raise ConfigError(_report(path, faults))
    return values


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


def _report(where: str, faults: Sequence[Fault]) -> str:
    if len(faults) == 1:
        return f"{where}: {faults[0]}"
    return f"{where}: {len(faults)} faults\n" + "\n".join(f"  {fault}" for fault in faults)


def _run_config_file(path: str) -> config_dict.ConfigDict:
    file = Path(path.partition(":")[0])
    if not file.is_file():
        raise ConfigError(f"{file}: no such file")
    root = str(file.resolve().parent.parent)
    if root not in sys.path:
        sys.path.insert(0, root)
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
