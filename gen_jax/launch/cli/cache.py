"""Where compiled programs are kept between runs."""

import hashlib
import os
import platform
import sys
from collections.abc import MutableMapping
from pathlib import Path

__all__ = ["use_compilation_cache"]


def use_compilation_cache(env: MutableMapping[str, str], name: str = "xla") -> Path | None:
    """Have JAX keep what it compiles in a directory that only this user can read or write.

    The files hold machine code that is loaded and run, hence the care, and hence one directory for
    each kind of processor: home directories are shared between machines. It must be called before
    JAX is imported. ``JAX_COMPILATION_CACHE_DIR`` chooses another directory, and
    ``JAX_ENABLE_COMPILATION_CACHE=false`` none.

    Args:
        env: the environment, which is changed.
        name: what the directory's name begins with.

    Returns:
        The directory; None if the choice was the user's, or if none could be made.
    """
    if "JAX_COMPILATION_CACHE_DIR" in env or "JAX_ENABLE_COMPILATION_CACHE" in env:
        return None
    try:
        base = Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        path = base / "gen_jax" / f"{name}-{_processor()}"
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.stat().st_uid != os.getuid():
            print(f"{path}: not yours; compiled programs are not kept", file=sys.stderr)
            return None
        path.chmod(0o700)
    except (OSError, RuntimeError):
        return None  # a home that is missing or read-only costs time and nothing else
    env["JAX_COMPILATION_CACHE_DIR"] = str(path)
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kinds = {line for line in lines if line.startswith(("flags", "model name", "Features"))}
    except OSError:
        kinds = {platform.processor()}
    known = "\n".join([platform.machine(), *sorted(kinds)])
    return hashlib.sha256(known.encode()).hexdigest()[:12]
