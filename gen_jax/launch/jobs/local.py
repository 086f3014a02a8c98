"""``gen-jax launch local``: a job of several processes on one machine."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import IO

from gen_jax.launch.jobs.processes import stop_numbers, visible_gpus

__all__ = ["environments", "launch_local"]

# What a process that has lost a peer is given to end by itself: less than the 30 s, beyond the
# heartbeat, within which all are promised to be gone.
_GRACE_S = 25


def launch_local(num: int, command: Sequence[str]) -> int:
    """Start ``gen-jax command`` as ``num`` processes, and wait for them.

    Each line they print is preceded by the number of its process. Signals that ask for an end are
    passed on to all of them. When one fails, the others are ended.

    Args:
        num: how many processes.
        command: arguments of gen-jax.

    Returns:
        0, or the code of the first process that ended with another.
    """
    address = f"127.0.0.1:{_free_port()}"
    program = [sys.executable, "-m", "gen_jax", *command]
    processes: list[subprocess.Popen[bytes]] = []
    readers = []
    with _passing_on(processes):
        for index, env in enumerate(environments(num, address, os.environ)):
            # In a group of its own: a terminal's Ctrl-C must reach it once, through here.
            process = subprocess.Popen(
                program,
                env=env,
                start_new_session=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            processes.append(process)
            assert process.stdout is not None
            reader = threading.Thread(target=_repeat, args=(index, process.stdout), daemon=True)
            reader.start()
            readers.append(reader)
        code = _wait(processes)
    for reader in readers:
        reader.join(timeout=5)
    return code


def environments(num: int, address: str, env: Mapping[str, str]) -> list[dict[str, str]]:
    """Make the environment of each process: its place, and its share of the GPUs if there are any.

    Args:
        num: how many processes.
        address: of the coordinator.
        env: of the launcher.
    """
    gpus = [str(index) for index in range(visible_gpus(env))]
    result = []
    for index in range(num):
        own = {
            **env,
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": str(num),
            "JAX_PROCESS_ID": str(index),
            "PYTHONUNBUFFERED": "1",
        }
        if len(gpus) >= num:
            share = len(gpus) // num
            own["JAX_LOCAL_DEVICE_IDS"] = ",".join(gpus[index * share : (index + 1) * share])
        result.append(own)
    return result


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _passing_on(processes: Sequence[subprocess.Popen]) -> Iterator[None]:
    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, pass_on) for number in stop_numbers()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: Sequence[subprocess.Popen]) -> int:
    """Wait for all; after the first failure only for a while."""
    first_failure, deadline = 0, None
    while True:
        codes = [process.poll() for process in processes]
        failures = [code for code in codes if code]
        if failures and deadline is None:
            code = failures[0]
            first_failure = 128 - code if code < 0 else code
            deadline = time.monotonic() + _GRACE_S
        if None not in codes:
            return first_failure
        if deadline is not None and time.monotonic() > deadline:
            for process in processes:
                if process.poll() is None:
                    process.kill()
        time.sleep(0.05)


def _repeat(index: int, lines: IO[bytes]) -> None:
    for line in lines:
        # Gloo tells of every pair of processes that found each other.
        if not re.match(rb"\[Gloo\]", line):
            os.write(1, b"[%d] " % index + line)
