"""What a compiled step costs: arithmetic, communication, and an estimate of its time.

Arithmetic is counted in the traced program, where a scan's length is known, and communication in
the compiled one, where the compiler has decided on it.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import numpy as np

__all__ = ["Collective", "collectives", "count_flops", "wire_bytes"]

Jaxpr = jax.extend.core.Jaxpr


def count_flops(jaxpr: Jaxpr) -> float:
    """Count the floating-point operations of matrix products and convolutions.

    A multiplication and an addition are two. What else there is (normalizations, nonlinearities)
    is bound by memory and not counted. Scans count as often as they run, branches as the dearest,
    and loops whose length is not known (``while_loop``) once.

    Args:
        jaxpr: a traced program.
    """
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracting, _), _ = params["dimension_numbers"]
        depth = math.prod(equation.invars[0].aval.shape[dim] for dim in contracting)
        return 2.0 * equation.outvars[0].aval.size * depth
    if name == "conv_general_dilated":
        return _convolution_flops(equation)
    inner = [count_flops(jaxpr) for jaxpr in _jaxprs(params)]
    if name == "cond":
        return max(inner)
    if name == "shard_map":
        return sum(inner) * params["mesh"].size
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _convolution_flops(equation: Any) -> float:
    """Count products of kernel and input elements; those with padding or dilation are none."""
    lhs, rhs = (variable.aval.shape for variable in equation.invars)
    out = equation.outvars[0].aval.shape
    params = equation.params
    numbers = params["dimension_numbers"]
    spatial = zip(
        (lhs[dim] for dim in numbers.lhs_spec[2:]),
        (rhs[dim] for dim in numbers.rhs_spec[2:]),
        (out[dim] for dim in numbers.out_spec[2:]),
        params["window_strides"],
        params["padding"],
        params["lhs_dilation"],
        params["rhs_dilation"],
        strict=True,
    )
    products = math.prod(_products(*dim) for dim in spatial)
    channels = rhs[numbers.rhs_spec[0]] * rhs[numbers.rhs_spec[1]]
    return 2.0 * products * channels * out[numbers.out_spec[0]]


def _products(
    size: int,
    kernel: int,
    out: int,
    stride: int,
    padding: tuple[int, int],
    lhs_dilation: int,
    rhs_dilation: int,
) -> int:
    """Count along one dimension the pairs of kernel and output places that meet a real input."""
    places = np.arange(out)[:, None] * stride + np.arange(kernel)[None] * rhs_dilation - padding[0]
    inside = (places >= 0) & (places <= (size - 1) * lhs_dilation) & (places % lhs_dilation == 0)
    return int(inside.sum())


def _jaxprs(params: Any) -> Iterator[Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(item, "jaxpr", item)
            if isinstance(inner, Jaxpr):
                yield inner


class Collective(NamedTuple):
    """One kind of communication in a step, as one device sees it."""

    kind: str
    times: float  # how often in a step
    bytes: float  # of the whole array it makes or consumes, over all times
    group: int  # how many devices take part
    crosses_hosts: bool


_KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_OPERATION = re.compile(
    rf"= (?P<result>.+?) (?P<kind>{'|'.join(_KINDS)}|ragged-all-to-all)(?P<start>-start)?\("
)
_CALLS = re.compile(
    r"(?:to_apply|calls|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
    r"|branch_computations=\{([^}]*)\}|called_computations=\{([^}]*)\}"
)
_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16}


def collectives(text: str, hosts: Sequence[int]) -> list[Collective]:
    """Find the communication in a compiled program.

    Args:
        text: of the optimized HLO, as ``Compiled.as_text()`` gives it.
        hosts: the process of each device of the mesh, in its order.

    Returns:
        One entry for each kind, size of group, and whether it leaves a host.
    """
    bodies, entry = _computations(text)
    runs = _multiplicities(bodies, entry)
    # A compiler that overlaps a collective with arithmetic writes it several times, as its
    # beginning, middle and end; the channel tells that it is one.
    seen: dict[tuple[str, str], tuple[float, float, int, bool]] = {}
    for name, lines in bodies.items():
        for line in lines:
            found = _OPERATION.search(line)
            if found is None or not runs[name]:
                continue
            kind, sizes = found["kind"], [_size(x) for x in _shapes(found["result"])]
            group, crosses = _group(line, hosts, kind)
            size = float(sum(sizes))
            if found["start"] and kind == "all-gather":
                size *= group / (group + 1)  # operand and result stand in one tuple
            elif found["start"] and kind in ("collective-permute", "reduce-scatter"):
                size = float(sizes[0])
            if kind == "reduce-scatter" and not found["start"]:
                size *= group  # what goes in, not the part that comes out
            channel = re.search(r"channel_id=(\d+)", line)
            key = (kind, channel[1] if channel else f"{name} {line.split(' = ')[0]}")
            if key not in seen or runs[name] > seen[key][0]:
                seen[key] = (runs[name], size, group, crosses)
    totals: dict[tuple[str, int, bool], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for (kind, _), (count, size, group, crosses) in seen.items():
        if group > 1:
            total = totals[kind, group, crosses]
            total[0] += count
            total[1] += count * size
    return [
        Collective(kind, times, size, group, crosses)
        for (kind, group, crosses), (times, size) in sorted(totals.items())
    ]


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    bodies: dict[str, list[str]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head and not line.startswith(" "):
            current = head[2]
            bodies[current] = []
            entry = current if head[1] else entry
        elif line == "}":
            current = None
        elif current is not None:
            bodies[current].append(line)
    return bodies, entry


def _multiplicities(bodies: dict[str, list[str]], entry: str) -> dict[str, float]:
    """Find how often each computation runs in a step."""
    times = dict.fromkeys(bodies, 0.0)

    def visit(name: str, count: float) -> None:
        times[name] += count
        for line in bodies[name]:
            repeat = _trips(line, bodies) if " while(" in line else 1
            for single, *several in _CALLS.findall(line):
                names = [single] if single else re.findall(r"[\w.\-]+", " ".join(several))
                for callee in names:
                    if callee in bodies:
                        visit(callee, count * repeat)

    visit(entry, 1.0)
    return times


def _trips(line: str, bodies: dict[str, list[str]]) -> int:
    """Find how often a loop runs; 1 where the compiler does not say."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', line)
    if known:
        return int(known[1])
    # Otherwise a scan's condition compares a counter from zero with a constant.
    condition = re.search(r"condition=%?([\w.\-]+)", line)
    text = "\n".join(bodies.get(condition[1], [])) if condition else ""
    limits = re.findall(r"= s32\[\]\S* constant\((\d+)\)", text)
    return int(limits[0]) if len(limits) == 1 and "direction=LT" in text else 1


def _shapes(text: str) -> list[tuple[str, str]]:
    return re.findall(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]", text)


def _size(shape: tuple[str, str]) -> int:
    kind, dims = shape
    width = _BYTES.get(kind)
    if width is None:
        bits = re.search(r"\d+", kind)
        width = max(int(bits[0]) // 8, 1) if bits else 1
    return width * math.prod(int(dim) for dim in dims.split(",") if dim)


def _group(line: str, hosts: Sequence[int], kind: str) -> tuple[int, bool]:
    """Find how many devices talk to each other, and whether any of them are on two hosts."""
    if kind == "collective-permute":
        pairs = re.findall(r"\{(\d+),(\d+)\}", line.partition("source_target_pairs=")[2])
        return max(len(pairs), 2), any(hosts[int(a)] != hosts[int(b)] for a, b in pairs)
    groups = _replica_groups(line.partition("replica_groups=")[2], len(hosts))
    return groups.shape[1], any(len({hosts[i] for i in group}) > 1 for group in groups)


def _replica_groups(text: str, num_devices: int) -> np.ndarray:
    everyone = np.arange(num_devices)[None]
    listed = re.match(r"\{((?:\{[\d,]*\},?)+)\}", text)
    if listed:
        rows = re.findall(r"\{([\d,]+)\}", listed[1])
        return np.array([[int(i) for i in row.split(",")] for row in rows])
    iota = re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    if iota:
        shape, dims, order = (
            [int(i) for i in part.split(",")] if part else None for part in iota.groups()
        )
        ids = np.arange(math.prod(dims or [])).reshape(dims or [])
        return ids.transpose(order).reshape(shape or [])
    mesh = re.match(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", text)
    if mesh:
        return _mesh_groups(mesh[1], mesh[2], mesh[3])
    return everyone  # one group of all, which is also the most that it could be


def _mesh_groups(sizes: str, order: str | None, along: str) -> np.ndarray:
    """Read groups along axes of a mesh, or along a part of an axis: ``'a':(before)size``."""
    axes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", sizes)}
    num = math.prod(axes.values())
    ids = np.arange(num)
    if order:
        iota = re.match(r"\[([\d,]+)\](?:T\(([\d,]+))?", order)
        if iota:
            ids = ids.reshape([int(i) for i in iota[1].split(",")])
            ids = ids.transpose([int(i) for i in iota[2].split(",")] if iota[2] else None)
        else:
            ids = np.array([int(i) for i in re.findall(r"\d+", order)])
    parts = {
        name: (int(before or 1), int(size) if size else axes[name])
        for name, before, size in re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", along)
    }
    shape: list[int] = []
    chosen = []
    for name, size in axes.items():
        before, inside = parts.get(name, (size, 1))
        shape += [before, inside, size // before // inside]
        if name in parts:
            chosen.append(len(shape) - 2)
    rest = [axis for axis in range(len(shape)) if axis not in chosen]
    group = math.prod(shape[axis] for axis in chosen)
    return ids.reshape(shape).transpose(rest + chosen).reshape(-1, group)


def wire_bytes(collective: Collective) -> float:
    """Return the bytes that each device must send, with the ring algorithms.

    2 (n - 1) / n of the array for an all-reduce among n devices, (n - 1) / n for an all-gather, a
    reduce-scatter or an all-to-all, and all of it for a permutation.
    """
    n = collective.group
    factor = {"all-reduce": 2 * (n - 1) / n, "collective-permute": 1.0}
    return collective.bytes * factor.get(collective.kind, (n - 1) / n)
