"""A foreign model in our terms, and reading its config without missing anything."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gen_jax.errors import CheckpointError
from gen_jax.interop.keys import Entry

__all__ = [
    "Foreign",
    "check_understood",
    "read_attending",
    "read_levels",
    "read_same",
    "read_shape",
]


class Foreign(NamedTuple):
    """A foreign model in our terms."""

    family: str
    shape: tuple[int, int, int]  # of what it models
    values: Mapping[str, Any]  # arguments of the family's network and process, by name
    entries: Sequence[Entry]  # of all weights, below the player's subtree


def check_understood(
    config: Mapping[str, Any], accepted: Mapping[str, Any], known: set[str]
) -> None:
    """Check that a config says nothing that would change the forward pass unseen."""
    for key, values in accepted.items():
        if key in config and config[key] not in values:
            shown = " or ".join(map(repr, values))
            raise CheckpointError(f"{key}: {config[key]!r}; {shown} is required")
    for key, value in config.items():
        if key.startswith("_") or key in accepted or key in known or value is None:
            continue
        raise CheckpointError(f"{key}: {value!r}; this option is not understood")


def read_levels(config: Mapping[str, Any]) -> tuple[int, tuple[float, ...]]:
    """Read the channels of the first level, and each level's as multiples of them."""
    widths = config["block_out_channels"]
    first = widths[0]
    return first, tuple(width / first if width % first else width // first for width in widths)


def read_shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Read the shape of what a model takes: a square with channels last."""
    size = config.get("sample_size")
    if isinstance(size, list) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise CheckpointError(f"sample_size: {size!r}; one whole number is required")
    return size, size, config.get("in_channels", 4)


def read_same(config: Mapping[str, Any], key: str) -> int:
    """Read a number that must be the same at all levels."""
    value = config[key]
    values = value if isinstance(value, list) else [value]
    if len(set(values)) != 1 or not isinstance(values[0], int):
        raise CheckpointError(f"{key}: {value!r}; one whole number for all levels is required")
    return values[0]


def read_attending(
    config: Mapping[str, Any], down: str, plain: str, up: str, plain_up: str
) -> list[bool]:
    """Return which levels have attention, the same on the way down and up."""
    kinds = config["down_block_types"], config["up_block_types"]
    for key, kind, accepted in (
        ("down_block_types", kinds[0], (down, plain)),
        ("up_block_types", kinds[1], (up, plain_up)),
    ):
        if wrong := [name for name in kind if name not in accepted]:
            raise CheckpointError(f"{key}: {wrong[0]!r}; {' or '.join(accepted)} is required")
    flags = [name == down for name in kinds[0]]
    if [name == up for name in reversed(kinds[1])] != flags:
        raise CheckpointError(
            f"up_block_types: {list(kinds[1])}; attention at the same levels as in "
            f"down_block_types {list(kinds[0])} is required"
        )
    return flags
