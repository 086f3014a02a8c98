"""JAX's transfer guard, for the steps alone.

Somebody who sets ``jax_transfer_guard`` looks for copies between host and device that a step should
not make. What begins a run, puts a batch on the device and reads a step's numbers copies on
purpose.
"""

import contextlib
import contextvars
import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import jax

__all__ = ["allowed", "guarded"]

_NAMES = tuple(
    f"jax_transfer_guard_{way}" for way in ("host_to_device", "device_to_device", "device_to_host")
)
_ASKED: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar(
    "asked", default=MappingProxyType({})
)


def _settings() -> dict[str, str]:
    found = {name: getattr(jax.config, name) for name in _NAMES}
    return {name: value for name, value in found.items() if value not in (None, "allow")}


def _settings_of_all_threads() -> dict[str, str]:
    """Return what is set for every thread; a new one has no context of its own."""
    found: list[dict[str, str]] = []
    thread = threading.Thread(target=lambda: found.append(_settings()))
    thread.start()
    thread.join()
    return found[0]


@contextlib.contextmanager
def allowed() -> Iterator[None]:
    """Allow all transfers, in all threads, but within :func:`guarded`.

    Example:
        >>> with jax.transfer_guard("disallow"), allowed():
        ...     batch = jnp.asarray(rows)
        ...     with guarded():
        ...         step(state, batch)
    """
    if not (asked := _settings()):
        yield
        return
    everywhere = _settings_of_all_threads()
    token = _ASKED.set(asked)
    for name in everywhere:
        jax.config.update(name, "allow")
    try:
        with jax.transfer_guard("allow"):
            yield
    finally:
        for name, value in everywhere.items():
            jax.config.update(name, value)
        _ASKED.reset(token)


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Guard transfers as JAX was told to outside of the outermost :func:`allowed`."""
    guards = {
        "jax_transfer_guard_host_to_device": jax.transfer_guard_host_to_device,
        "jax_transfer_guard_device_to_device": jax.transfer_guard_device_to_device,
        "jax_transfer_guard_device_to_host": jax.transfer_guard_device_to_host,
    }
    with contextlib.ExitStack() as stack:
        for name, value in _ASKED.get().items():
            stack.enter_context(guards[name](value))
        yield
