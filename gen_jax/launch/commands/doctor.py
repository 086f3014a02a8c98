"""``gen-jax doctor``: what this machine is, and what would make it faster."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

__all__ = ["run_doctor"]

_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
# A U-Net's step takes 1.36 times as long with 0.10.2 (experiments/performance).
_FAST_JAX = (0, 12)
_SHARED = Path("/dev/shm")


def run_doctor(env: Mapping[str, str], allocator: str) -> None:
    """Print versions, devices, allocator and cache, and advice.

    Args:
        env: the environment.
        allocator: what it is, in words.
    """
    advice: list[str] = []
    for name, value in _facts(env, allocator, advice):
        print(f"{name:<11} {value}")
    print()
    for line in advice or ["Nothing that gen_jax knows of would make this machine faster."]:
        print(f"- {line}" if advice else line)


def _facts(env: Mapping[str, str], allocator: str, advice: list[str]) -> Iterator[tuple[str, str]]:
    import jax

    yield "gen_jax", metadata.version("gen_jax")
    yield "Python", f"{platform.python_version()}, {sys.executable}"
    yield "libraries", ", ".join(f"{name} {metadata.version(name)}" for name in _LIBRARIES)
    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    yield "devices", f"{len(devices)} {devices[0].platform} ({', '.join(kinds)})"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "processor", f"{_processor()}, {cores} cores for this process"
    yield "allocator", allocator
    folder = jax.config.jax_compilation_cache_dir
    enabled = jax.config.jax_enable_compilation_cache and folder
    yield "cache", _folder(Path(folder)) if enabled else "none: every process compiles anew"
    if _SHARED.is_dir():
        usage = shutil.disk_usage(_SHARED)
        yield "/dev/shm", f"{usage.free / 2**30:.1f} of {usage.total / 2**30:.1f} GiB free"
        if usage.total < 2**30:
            advice.append(
                "/dev/shm is small: data.num_workers needs it (docker run --shm-size=8g)."
            )
    on_cpu = devices[0].platform == "cpu"
    version = tuple(int(part) for part in jax.__version__.split(".")[:2])
    if on_cpu and version < _FAST_JAX:
        advice.append(
            f"jax {jax.__version__} is slower on a CPU than 0.12, which needs Python 3.12 or newer."
        )
    if on_cpu and "system" in allocator:
        advice.append("The allocator has no huge pages: training takes a fifth to a third longer.")
    if on_cpu and (graphics := shutil.which("nvidia-smi")):
        advice.append(
            f"{graphics} is there, and JAX sees no GPU: pip install -e '.[cuda13]' (or cuda12)."
        )
    if not enabled:
        advice.append("Without a compilation cache each start compiles: set XDG_CACHE_HOME.")
    if env.get("JAX_DISABLE_JIT"):
        advice.append("JAX_DISABLE_JIT is set: nothing is compiled.")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    wide = next((kind for kind in ("avx512f", "avx2") if kind in flags.split()), "")
    return f"{names[0] if names else platform.machine()}{f' ({wide})' if wide else ''}"


def _folder(path: Path) -> str:
    sizes = [file.stat().st_size for file in path.glob("*") if file.is_file()]
    return f"{path}, {len(sizes)} files, {sum(sizes) / 2**20:.0f} MiB"
