"""Errors that end a command, each with the exit code of its resource.

The message is one line: what and where, what is wrong, and what would be accepted or done.
"""

from collections.abc import Mapping

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DamagedError",
    "DataError",
    "DataStalledError",
    "GenJaxError",
    "NonFiniteError",
    "StalledError",
    "StorageError",
    "WorkdirInUseError",
    "check_arguments",
    "one_line",
]


def one_line(error: BaseException, number: int = 0) -> str:
    """Return one line, by default the first, of what an error says; its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[number]


def check_arguments(faults: Mapping[str, str]) -> None:
    """Refuse arguments that rules found fault with.

    Args:
        faults: ``{argument: what is wrong with it}``.

    Raises:
        ValueError: telling all of them; nothing where there are none.
    """
    if faults:
        raise ValueError("; ".join(f"{name}: {fault}" for name, fault in faults.items()))


class GenJaxError(Exception):
    """The base; never raised itself. ``area`` begins the line that a user reads."""

    exit_code = 1
    area = "error"
    everywhere = False  # whether every process of a job raises it


class ConfigError(GenJaxError):
    """What the config and the flags alone decide."""

    exit_code = 2
    area = "config"


class DataError(GenJaxError):
    """A data source, or an example of it, is not what was promised."""

    exit_code = 3
    area = "data"


class CheckpointError(GenJaxError):
    """A checkpoint is missing, damaged, or does not fit the config."""

    exit_code = 4
    area = "checkpoint"


class DamagedError(CheckpointError):
    """A checkpoint is not what was saved; one before it may be."""


class NonFiniteError(GenJaxError):
    """The loss or a gradient stayed infinite or not a number."""

    exit_code = 5
    area = "training"


class WorkdirInUseError(GenJaxError):
    """Another job holds the work directory."""

    exit_code = 6
    area = "workdir"


class StalledError(GenJaxError):
    """Another process of the job did not come, or no longer answers."""

    exit_code = 8
    area = "cluster"


class DataStalledError(StalledError):
    """The next batch does not come."""

    area = "data"


class StorageError(GenJaxError):
    """A disk is full, read-only, or otherwise refuses to keep what it is given."""

    exit_code = 7
    area = "storage"
