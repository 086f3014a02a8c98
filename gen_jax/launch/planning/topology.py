"""Devices that are not there, to compile for."""

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gen_jax.errors import ConfigError, one_line

__all__ = ["Topology", "open_topology"]


class Topology(NamedTuple):
    """Devices to compile for."""

    name: str
    devices: Sequence[Any]


def open_topology(name: str, target_config: Path | None = None) -> Topology:
    """Open ``cpu:N``, ``tpu:KIND:AxB`` or ``gpu:SLICESxHOSTSxDEVICES``.

    Args:
        name: of the topology.
        target_config: for GPUs, a file that describes the kind (XLA's GpuTargetConfig as text).

    Raises:
        ConfigError: if it cannot be opened, saying what is missing.
    """
    kind, _, rest = name.partition(":")
    if kind == "cpu" and re.fullmatch(r"[1-9]\d*", rest):
        return Topology(name, _cpus(int(rest)))
    # Nothing of the machine itself is used, and JAX must not go and look for a TPU.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if kind == "tpu" and re.fullmatch(r"\w+:\d+(x\d+)*", rest):
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # beside another plan
        chips = math.prod(int(side) for side in rest.partition(":")[2].split("x"))
        hosts = {"chips_per_host_bounds": (1, 1, 1)} if chips == 1 else {}
        return Topology(name, _ahead_of_time("tpu", topology_name=rest, **hosts))
    if kind == "gpu" and re.fullmatch(r"\d+x\d+x\d+", rest):
        if target_config is None:
            raise ConfigError("--target_config: missing; a GpuTargetConfig of XLA is required")
        try:
            text = target_config.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--target_config: {target_config}: cannot be read") from error
        os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
        return Topology(name, _ahead_of_time("cuda", topology=rest, target_config=text))
    raise ConfigError(
        f"--topology: {name!r}; cpu:N, tpu:KIND:AxB (as tpu:v5e:4x4) or "
        "gpu:SLICESxHOSTSxDEVICES (as gpu:1x8x8) is required"
    )


def _cpus(num: int) -> Sequence[Any]:
    import jax

    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", num)
    except RuntimeError:
        pass  # JAX is running already, in a test or a notebook
    if jax.device_count() < num:
        raise ConfigError(f"--topology: cpu:{num}; JAX runs already, with {jax.device_count()}")
    return jax.devices()[:num]


def _ahead_of_time(platform: str, **options: Any) -> Sequence[Any]:
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(platform=platform, **options).devices
    except Exception as error:  # plugins raise whatever they like
        extra = "tpu" if platform == "tpu" else "cuda13"
        raise ConfigError(
            f"--topology: {platform} cannot be compiled for here: {one_line(error)[:200]}; is the "
            f"extra 'gen-jax[{extra}]' installed?"
        ) from error
