"""Writing pages beside a run: now and then while it trains, and when it is measured."""

import contextlib
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from gen_jax.errors import ConfigError, StorageError
from gen_jax.files import write_file
from gen_jax.launch.report.page import comparison_page, report_page
from gen_jax.launch.report.reading import look_at

__all__ = ["REPORT", "life", "make_reporter", "write_comparison", "write_report"]

REPORT = "report.html"
_EVERY_S = 30.0


def write_report(workdir: Path) -> Path | None:
    """Write ``W/report.html``; None where there is nothing to tell."""
    look = look_at(workdir)
    if look is None:
        return None
    command = str(look.lives[-1].get("command", "")) if look.lives else ""
    write_file(workdir / REPORT, report_page(look, command).encode())
    return workdir / REPORT


def make_reporter(workdir: Path) -> Callable[..., None]:
    """Make what writes the page of a run, at most once in half a minute unless ``now=True``."""
    last = 0.0

    def report(*, now: bool = False) -> None:
        nonlocal last
        if now or time.monotonic() - last > _EVERY_S:
            with contextlib.suppress(StorageError):  # whoever writes what matters will say so
                write_report(workdir)
            last = time.monotonic()

    return report


def write_comparison(workdirs: Sequence[Path], out: Path) -> None:
    """Write a page that lays runs side by side.

    Raises:
        ConfigError: if one of them is no run.
    """
    looks = []
    for workdir in workdirs:
        look = look_at(workdir)
        if look is None:
            raise ConfigError(f"{workdir}: no run: it has no config.json")
        looks.append(look)
    write_file(out, comparison_page(looks).encode())


def life(step: int) -> dict[str, Any]:
    """Tell what a process is that trains from a step on: versions, command, machine, time."""
    packages = ("gen_jax", "jax", "jaxlib", "flax", "optax", "numpy")
    return {
        "from_step": step,
        "began": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "command": " ".join(["gen-jax", *sys.argv[1:]]),
        "folder": str(Path.cwd()),
        "commit": _commit(),
        "host": socket.gethostname(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def _commit() -> str:
    """Return the git commit of the folder that training was started in, if it has one."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True, text=True, check=False, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
