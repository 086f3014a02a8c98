"""What a work directory says of its run, for whoever looks at it from outside."""

import base64
import json
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gen_jax.launch.config.fields import flatten
from gen_jax.launch.config.schema import defaults_of, families
from gen_jax.launch.runs.workdir import LIVES

__all__ = ["Look", "look_at"]

# Of each kind of picture so many are kept, spread over the run, the first and the last among them.
_MOST_PICTURES = 24
_MOST_POINTS = 600  # of a curve
_ALIVE_S = 300.0  # a run that wrote nothing for so long is not waited for
_CURVES = re.compile(r"(?!guard/)(?!time/(seconds|images_seen|steps_per_second)$).+")


class Look(NamedTuple):
    """A run as its work directory shows it."""

    workdir: Path
    config: Mapping[str, Any]
    changed: Mapping[str, Any]  # fields that differ from the family's defaults, by dotted name
    steps: tuple[int, int]  # taken, and to take
    rate: float  # steps a second
    alive: bool
    curves: Mapping[str, list[tuple[int, float]]]
    pictures: Mapping[str, list[tuple[int, str]]]  # by kind: step, and a data URL
    evaluations: Mapping[str, Mapping[str, Any]]
    lives: list[Mapping[str, Any]]  # of the process that trained, each time it began


def look_at(workdir: Path) -> Look | None:
    """Read a work directory; None where nothing has been written yet.

    What is torn, because it is just being written, is left out.
    """
    config = _json(workdir / "config.json")
    if not isinstance(config, dict):
        return None
    lines = [x for x in map(_line, _text(workdir / "metrics.jsonl").splitlines()) if x]
    last = lines[-1] if lines else {}
    total = int(config.get("train", {}).get("steps", 0))
    step = int(last.get("step", 0))
    written = (workdir / "metrics.jsonl").stat().st_mtime if lines else 0.0
    return Look(
        workdir=workdir,
        config=config,
        changed=_changed(config),
        steps=(step, total),
        rate=float(last.get("time/steps_per_second") or 0.0),
        alive=step < total and time.time() - written < _ALIVE_S,
        curves=_curves(lines),
        pictures=_pictures(workdir / "images"),
        evaluations=_evaluations(workdir / "eval"),
        lives=[x for x in map(_line, _text(workdir / LIVES).splitlines()) if x],
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except ValueError:
        return None


def _line(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _changed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Find what a config says that its family's defaults do not."""
    family = config.get("family")
    values = flatten(config)
    if family not in families():
        return values
    usual = flatten(defaults_of(str(family)))

    def plain(x: Any) -> Any:
        return list(x) if isinstance(x, tuple) else x

    return {
        name: value
        for name, value in values.items()
        if name not in usual or plain(usual[name]) != plain(value)
    }


def _curves(lines: list[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name, value in line.items():
            number = isinstance(value, int | float) and math.isfinite(value)
            if name != "step" and number and _CURVES.fullmatch(name):
                curves.setdefault(name, []).append((int(line["step"]), float(value)))
    # What is minimized first, and the machine's speed last.
    order = sorted(curves, key=lambda n: (n.startswith("time/"), not n.endswith("/loss"), n))
    return {name: _thinned(curves[name], _MOST_POINTS) for name in order}


def _thinned(items: list[Any], most: int) -> list[Any]:
    """Keep so many, spread evenly, the first and the last among them."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _pictures(folder: Path) -> dict[str, list[tuple[int, str]]]:
    found: dict[str, list[tuple[int, Path]]] = {}
    for path in sorted(folder.glob("*.png")):
        if match := re.fullmatch(r"(\d+)_(\w+)", path.stem):
            found.setdefault(match[2], []).append((int(match[1]), path))
    return {
        kind: [(step, _url(path)) for step, path in _thinned(items, _MOST_PICTURES)]
        for kind, items in found.items()
    }


def _url(path: Path) -> str:
    try:
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
    except OSError:
        return ""


def _evaluations(folder: Path) -> dict[str, Mapping[str, Any]]:
    files = [path for path in sorted(folder.glob("*.json")) if "bound" not in path.stem]
    read = {path.stem: _json(path) for path in files}
    return {name: found for name, found in read.items() if isinstance(found, dict)}
