"""What a vendor states of a device."""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from gen_jax.errors import ConfigError

__all__ = ["HARDWARE", "Hardware", "choose_hardware", "parse_size"]


class Hardware(NamedTuple):
    """What a vendor states of one device."""

    peak_flops: float  # bfloat16 matrix products, each second
    link: float  # bytes a second that a device sends in a ring within its host or its torus
    network: float  # the same between hosts
    memory: float  # bytes


# From the vendors' data sheets. A ring along one axis of a TPU's torus uses two of its links.
HARDWARE: Mapping[str, Hardware] = {
    "v4": Hardware(275e12, 100e9, 100e9, 32 * 2**30),
    "v5e": Hardware(197e12, 100e9, 100e9, 16 * 2**30),
    "v5p": Hardware(459e12, 200e9, 200e9, 95 * 2**30),
    "v6e": Hardware(918e12, 224e9, 224e9, 32 * 2**30),
    "a100": Hardware(312e12, 300e9, 25e9, 80 * 2**30),
    "h100": Hardware(989e12, 450e9, 50e9, 80 * 2**30),
    "h200": Hardware(989e12, 450e9, 50e9, 141 * 2**30),
    "b200": Hardware(2250e12, 900e9, 50e9, 180 * 2**30),
}


def choose_hardware(
    topology: str, name: str | None, given: Mapping[str, float | None]
) -> Hardware | None:
    """Choose what times are estimated from.

    Args:
        topology: a TPU's says its kind.
        name: one of :data:`HARDWARE`; None for the topology's own.
        given: numbers to use instead, where not None.

    Raises:
        ConfigError: for another name, or a number that is not positive.
    """
    if name and name not in HARDWARE:
        raise ConfigError(f"--hardware: {name!r}; one of {', '.join(HARDWARE)} is required")
    hardware = HARDWARE.get(name or (*topology.split(":"), "")[1])
    known = {field: value for field, value in given.items() if value is not None}
    for field, value in known.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"--{field}: {value}; a number above 0 is required")
    if hardware is None and known:
        if missing := [field for field in given if given[field] is None]:
            raise ConfigError(f"--{' and --'.join(missing)}: missing, without --hardware")
        return Hardware(memory=math.inf, **known)
    return None if hardware is None else hardware._replace(**known)


def parse_size(text: str) -> float:
    """Read ``80GiB``, ``16GB`` or ``512MiB`` as bytes.

    Raises:
        ConfigError: if it is nothing of the kind.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B", text)
    if not found or not float(found[1]):
        raise ConfigError(f"--memory: {text!r}; a size such as 80GiB is required")
    return float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2] or " ")
