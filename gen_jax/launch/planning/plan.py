"""``gen-jax plan``: compile the real training step for devices that are not there, and count."""

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.launch.build.experiment import abstract_batch, build
from gen_jax.launch.build.parallel import build_engine, build_mesh
from gen_jax.launch.config.files import told_by_stage
from gen_jax.launch.config.schema import find_faults
from gen_jax.launch.planning.cost import collectives, count_flops, wire_bytes
from gen_jax.launch.planning.hardware import Hardware
from gen_jax.launch.planning.topology import Topology
from gen_jax.launch.runs.restore import load_stages
from gen_jax.launch.runs.workdir import stage_places
from gen_jax.nn.lowering import target
from gen_jax.train.sharding import axis_sizes
from gen_jax.train.step import make_train_step

__all__ = ["Plan", "make_plan", "run_plan", "smaller_changes"]


class Plan(NamedTuple):
    """What one training step costs; bytes are of one device."""

    topology: str
    devices: int
    mesh: Mapping[str, int]
    microbatches: int
    remat: str
    batch_size: int
    parameters: int
    memory: Mapping[str, int]  # weights, averaged_weights, optimizer, ..., activations, peak
    flops_per_step: float  # of the whole job
    flops_per_image: float
    flops_per_device: float
    collectives: Sequence[Mapping[str, Any]]
    wire_bytes: float  # that a device sends in a step
    seconds: Mapping[str, float] | None  # compute, communication, step_overlapped, step_serial
    compile_seconds: float


def make_plan(
    config: Mapping[str, Any], topology: Topology, hardware: Hardware | None = None
) -> Plan:
    """Compile the training step of a config for a topology, and count.

    Args:
        config: without faults.
        topology: of :func:`open_topology`.
        hardware: for the estimate of time; None for none.

    Raises:
        ConfigError: if the batch cannot be shared among the devices.
    """
    with target(topology.devices[0].platform):
        return _make_plan(config, topology, hardware)


def _make_plan(config: Mapping[str, Any], topology: Topology, hardware: Hardware | None) -> Plan:
    experiment, engine, arguments = _arguments(config, topology)
    state, size = arguments[0], config["data"]["batch_size"]

    # One traced step on one device has the arithmetic of the whole job.
    step = make_train_step(experiment.model, experiment.optimizers)
    plain = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), arguments)
    flops = count_flops(jax.make_jaxpr(step)(*plain).jaxpr)

    start = time.perf_counter()
    # Of a CPU's machine code only the plan of its memory matters here.
    on_cpu = topology.name.startswith("cpu")
    options = {"xla_backend_optimization_level": 0} if on_cpu else None
    compiled = engine.compile(*arguments, options=options)
    took = time.perf_counter() - start

    memory = _state_memory(*arguments[:3])
    analysis = compiled.memory_analysis()
    memory["activations"] = int(analysis.temp_size_in_bytes)
    memory["peak"] = int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )
    mesh = jax.tree.leaves(state)[0].sharding.mesh
    found = collectives(compiled.as_text(), [d.process_index for d in mesh.devices.flat])
    uses_tensor = any("tensor" in x.sharding.spec for x in jax.tree.leaves(state.params))
    shares = mesh.size if uses_tensor else mesh.size // mesh.shape.get("tensor", 1)
    seconds = None
    if hardware is not None:
        compute = flops / shares / hardware.peak_flops
        talk = sum(
            wire_bytes(one) / (hardware.network if one.crosses_hosts else hardware.link)
            for one in found
        )
        seconds = {
            "compute": compute,
            "communication": talk,
            "step_overlapped": max(compute, talk),
            "step_serial": compute + talk,
        }
    return Plan(
        topology=topology.name,
        devices=mesh.size,
        mesh=dict(mesh.shape),
        microbatches=config["train"]["microbatches"],
        remat=config["model"].get("remat", "none"),
        batch_size=size,
        parameters=sum(x.size for x in jax.tree.leaves(state.params)),
        memory=memory,
        flops_per_step=flops,
        flops_per_image=flops / size,
        flops_per_device=flops / shares,
        collectives=[{**one._asdict(), "wire_bytes": wire_bytes(one)} for one in found],
        wire_bytes=sum(map(wire_bytes, found)),
        seconds=seconds,
        compile_seconds=took,
    )


def _arguments(config: Mapping[str, Any], topology: Topology) -> tuple[Any, Any, tuple[Any, ...]]:
    """Make the experiment, its engine, and the shapes of what the step takes."""
    places = {name: Path(place) for name, place in stage_places(config).items()}
    config = told_by_stage(config, places)
    stage1, stages = load_stages(places)
    experiment = build(config, stage1, stages).with_training_frozen()
    engine = build_engine(config, experiment, build_mesh(config, topology.devices))
    size, shape = config["data"]["batch_size"], tuple(config["data"]["shape"])
    whole = dict(abstract_batch(experiment.model, shape, size))
    if config["data"]["source"].startswith("codes:"):  # the encoder does not run
        assert stage1 is not None
        kind = jnp.float32 if stage1.codec.num_categories is None else jnp.int32
        del whole["image"]
        whole["codes"] = jax.tree.map(
            lambda grid: jax.ShapeDtypeStruct((size, *grid), kind),
            stage1.code_shape,
            is_leaf=lambda grid: isinstance(grid, tuple),
        )
    batch, key = engine.inputs(whole)
    frozen = jax.eval_shape(lambda: experiment.frozen)
    return experiment, engine, (engine.abstract(batch, frozen), frozen, batch, key)


def _bytes(tree: Any) -> int:
    """Count the bytes of a tree on one device."""
    total = 0
    for x in jax.tree.leaves(tree):
        sharding = getattr(x, "sharding", None)
        shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
        total += math.prod(shape) * x.dtype.itemsize
    return total


def run_plan(
    config: Mapping[str, Any],
    topology: Topology,
    hardware: Hardware | None,
    memory: float | None,
    *,
    as_json: bool,
) -> None:
    """Print the plan of a config, and if it does not fit, the smallest change that would.

    Args:
        config: without faults.
        topology: of :func:`open_topology`.
        hardware: of :func:`choose_hardware`.
        memory: bytes of each device; None for what the hardware has, if that is known.
        as_json: whether to print JSON instead of a table.
    """
    if memory is None and hardware is not None and hardware.memory < math.inf:
        memory = hardware.memory
    plan = make_plan(config, topology, hardware)
    result = {**plan._asdict(), "memory_limit": memory}
    if not as_json:
        print(_table(plan, memory), flush=True)
    result["fits"] = fits = memory is None or plan.memory["peak"] <= memory
    result["change"] = None
    if memory is not None and not fits:
        result["change"] = _find_change(config, topology, memory, quiet=as_json)
    if as_json:
        print(json.dumps(result, indent=2))
    elif not fits and result["change"] is None:
        print("nothing that was tried fits; more devices, or a smaller model, are required")


def _find_change(
    config: Mapping[str, Any], topology: Topology, memory: float, *, quiet: bool
) -> dict[str, Any] | None:
    """Try changes, smallest first, until one fits."""
    for change in smaller_changes(config, len(topology.devices)):
        changed = _changed(config, change)
        flags = " ".join(f"--config.{name}={value}" for name, value in change.items())
        state = sum(_state_memory(*_arguments(changed, topology)[2][:3]).values())
        if state > memory:  # seen without compiling
            verdict = f"the state alone takes {_size(state)}"
            peak = state
        else:
            peak = make_plan(changed, topology).memory["peak"]
            verdict = f"peak {_size(peak)}, {'fits' if peak <= memory else 'does not fit'}"
        if not quiet:
            print(f"tried {flags}: {verdict}", flush=True)
        if peak <= memory:
            return {"fields": change, "flags": flags, "peak": peak}
    return None


def _state_memory(state: Any, frozen: Any, batch: Any) -> dict[str, int]:
    return {
        "weights": _bytes(state.params),
        "averaged_weights": _bytes(state.ema_params),
        "optimizer": _bytes(state.opt_state),
        "statistics": _bytes(state.stats),
        "frozen": _bytes(frozen),
        "batch": _bytes(batch),
    }


# More than this would take longer than renting the machine and looking.
_MOST_CHANGES = 24


def smaller_changes(config: Mapping[str, Any], devices: int) -> Iterator[dict[str, Any]]:
    """List changes that save memory, smallest first.

    Doubling ``mesh.fsdp`` is one unit of change, and so is doubling ``train.microbatches``;
    rematerializing all but matrix products is one and a half, all of it three: it costs arithmetic.
    """
    options = config["train"]
    _, now, tensor = _axes(config, devices)
    remats = {"none": 0.0}
    if "remat" in config["model"] and config["model"]["remat"] == "none":
        remats = {"none": 0.0, "matmuls": 1.5, "full": 3.0}
    changes: list[tuple[float, int, int, dict[str, Any]]] = []
    for more_fsdp in range(devices.bit_length()):
        for more_parts in range(config["data"]["batch_size"].bit_length()):
            for remat, cost in remats.items():
                change: dict[str, Any] = {}
                if more_fsdp:
                    change["mesh.data"], change["mesh.fsdp"] = -1, now * 2**more_fsdp
                    if config["mesh"]["tensor"] == -1:
                        change["mesh.tensor"] = tensor
                if more_parts:
                    change["train.microbatches"] = options["microbatches"] * 2**more_parts
                if remat != "none":
                    change["model.remat"] = remat
                if change and _is_possible(_changed(config, change), devices):
                    size = more_fsdp + more_parts + cost
                    changes.append((size, len(change), len(changes), change))
    for *_, change in sorted(changes, key=lambda entry: entry[:3])[:_MOST_CHANGES]:
        yield change


def _changed(config: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in config.items()
    }
    for name, value in change.items():
        section, _, field = name.partition(".")
        changed[section][field] = value
    return changed


def _is_possible(config: Mapping[str, Any], devices: int) -> bool:
    if find_faults(config):
        return False
    try:
        data, fsdp, _ = _axes(config, devices)
    except ValueError:
        return False
    return config["data"]["batch_size"] % (data * fsdp * config["train"]["microbatches"]) == 0


def _axes(config: Mapping[str, Any], devices: int) -> tuple[int, ...]:
    axes = config["mesh"]
    return axis_sizes(devices, axes["data"], axes["fsdp"], axes["tensor"])


def _size(num: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(num) < 1024 or unit == "GiB":
            return f"{num:.0f} {unit}" if unit == "B" else f"{num:.2f} {unit}"
        num /= 1024
    raise AssertionError


def _count(num: float) -> str:
    for unit, scale in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if num >= scale:
            return f"{num / scale:.2f} {unit}"
    return f"{num:.0f} "


def _table(plan: Plan, memory: float | None) -> str:
    axes = " x ".join(f"{name} {size}" for name, size in plan.mesh.items())
    lines = [
        f"{plan.topology}: {plan.devices} devices ({axes}), {plan.parameters:,} parameters, batch "
        f"{plan.batch_size} in {plan.microbatches} microbatch(es), remat {plan.remat}; compiled in "
        f"{plan.compile_seconds:.1f} s",
        "",
        "memory of each device",
    ]
    lines += [f"  {name.replace('_', ' '):<18}{_size(n):>14}" for name, n in plan.memory.items()]
    if memory is not None:
        share = plan.memory["peak"] / memory
        verdict = "fits" if share <= 1 else "does not fit"
        lines.append(f"  {verdict} into {_size(memory)} ({share:.1%})")
    if plan.topology.startswith("cpu"):
        lines.append(
            "  (activations and peak are a CPU's; an accelerator's differ, the rest does not)"
        )
    lines += [
        "",
        f"arithmetic           {_count(plan.flops_per_step)}FLOP a step, "
        f"{_count(plan.flops_per_image)}FLOP an image, "
        f"{_count(plan.flops_per_device)}FLOP a device",
        "",
        "communication of each device in a step",
    ]
    for one in plan.collectives:
        where = "between hosts" if one["crosses_hosts"] else "within a host"
        lines.append(
            f"  {one['kind']:<20}{one['times']:>8.0f}  {_size(one['bytes']):>12}  among "
            f"{one['group']} {where}, sends {_size(one['wire_bytes'])}"
        )
    if not plan.collectives:
        lines.append("  none")
    if plan.seconds is not None:
        t = plan.seconds
        lines += [
            "",
            "time of a step, from the vendor's peaks: no kernel reaches them, so this is a bound",
            f"  compute         {t['compute'] * 1e3:9.3f} ms = FLOP of a device / peak FLOP/s",
            f"  communication   {t['communication'] * 1e3:9.3f} ms = sum of bytes sent / link: "
            "2(n-1)/n of the bytes for all-reduce, (n-1)/n for the others",
            f"  step            {t['step_overlapped'] * 1e3:9.3f} ms fully overlapped to "
            f"{t['step_serial'] * 1e3:.3f} ms one after the other; "
            f"{plan.batch_size / t['step_serial']:,.0f} to "
            f"{plan.batch_size / t['step_overlapped']:,.0f} images/s",
        ]
    return "\n".join(lines)
