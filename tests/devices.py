"""Fewer devices than the suite's eight, where what is tried has nothing to do with their number."""

import contextlib

import jax
import pytest


@contextlib.contextmanager
def one_device():
    """Let commands see one device: programs for eight take twice as long to compile."""
    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: first)
        patch.setattr(jax, "device_count", lambda *_: 1)
        yield
