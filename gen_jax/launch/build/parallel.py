"""From a config's ``mesh`` section to a mesh and an engine; every refusal shows its arithmetic."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from gen_jax.errors import ConfigError
from gen_jax.launch.build.experiment import Experiment, abstract_state
from gen_jax.launch.config.common import parse_override
from gen_jax.train.engines import Engine, make_engine
from gen_jax.train.sharding import Rules, check_overrides, make_mesh, state_shardings

__all__ = ["build_engine", "build_mesh"]


def build_mesh(config: Mapping[str, Any], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Make the devices out as a config says, and see that the batch can be shared among them.

    Args:
        config: without faults.
        devices: None for those of this job.

    Raises:
        ConfigError: with the arithmetic.
    """
    devices = jax.devices() if devices is None else devices
    axes = config["mesh"]
    try:
        mesh = make_mesh(axes["data"], axes["fsdp"], axes["tensor"], devices)
    except ValueError as error:
        hosts = len({device.process_index for device in devices})
        where = f" ({hosts} processes x {len(devices) // hosts})" if hosts > 1 else ""
        raise ConfigError(f"{error}{where}") from error
    batch, microbatches = config["data"]["batch_size"], config["train"]["microbatches"]
    parts = mesh.shape["data"] * mesh.shape["fsdp"] * microbatches
    if batch % parts:
        below = batch // parts * parts
        nearest = f"{below} or {below + parts}" if below else f"{parts}"
        raise ConfigError(
            f"data.batch_size: {batch} is not a multiple of {parts} = data {mesh.shape['data']} x "
            f"fsdp {mesh.shape['fsdp']} x {microbatches} microbatches; {nearest} would be"
        )
    return mesh


def build_engine(config: Mapping[str, Any], experiment: Experiment, mesh: Mesh) -> Engine:
    """Make the engine that a config asks for.

    Raises:
        ConfigError: if a rule for an array cannot be followed.
    """
    axes, options = config["mesh"], config["train"]
    rules = Rules(
        tensor_dims=experiment.tensor_dims,
        overrides=dict(parse_override(line) for line in axes["overrides"]),
        min_size=axes["min_size"],
    )
    try:
        if rules.overrides:  # without, no rule can fail, and there is nothing to trace
            state = abstract_state(experiment, tuple(config["data"]["shape"]))
            check_overrides(state, rules)
            state_shardings(state, mesh, rules)
        return make_engine(
            options["engine"],
            experiment.model,
            experiment.optimizers,
            mesh,
            rules,
            ema_decay=options["ema_decay"],
            microbatches=options["microbatches"],
            spike_window=options["spike_window"],
            spike_sigma=options["spike_sigma"],
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
