"""Who am I, among how many processes? And doing things together.

Finding the place loads no JAX, so that a job with a wrong flag ends at once.
"""

import contextlib
import os
import re
import signal
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple, TypeVar

from gen_jax import errors
from gen_jax.errors import ConfigError, GenJaxError, StalledError, one_line

__all__ = [
    "STOP_SIGNALS",
    "Place",
    "agree",
    "connected",
    "find_place",
    "is_alone",
    "is_first",
    "stop_numbers",
    "stop_signals",
    "together",
    "visible_gpus",
]

T = TypeVar("T")

# What asks a process to end, of which most do so by themselves, with nothing saved.
STOP_SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)

_NAMES = ("coordinator_address", "num_processes", "process_id")

# Where this process is while it is connected; asking JAX instead would load it, and its devices.
_here: list["Place"] = []


def stop_numbers() -> tuple[int, ...]:
    """List the signals to catch: all, but a hang-up that ``nohup`` lets be ignored."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is signal.SIG_IGN:
        return tuple(number for number in STOP_SIGNALS if number != hangup)
    return STOP_SIGNALS


class Place(NamedTuple):
    """One process's place in a job of several."""

    coordinator_address: str | None  # None where JAX finds all three by itself
    num_processes: int
    process_id: int
    found_in: str  # flags, environment, Slurm, ...
    local_device_ids: tuple[int, ...] | None = None  # None for those that JAX takes by default


def find_place(given: Mapping[str, str | int | None], env: Mapping[str, str]) -> Place | None:
    """Find out which process of how many this is.

    Asked in this order: the flags, the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
    JAX_PROCESS_ID (JAX itself reads only the first of them), Slurm, Open MPI, TPU pods. Of flags
    and of variables all three are required.

    Args:
        given: the flags ``coordinator_address``, ``num_processes`` and ``process_id``; None where
            not given.
        env: the environment.

    Returns:
        The place, or None for a process that is alone; no port is opened for it.

    Raises:
        ConfigError: if some of the three are missing or impossible.
    """
    variables = {name: env.get(f"JAX_{name.upper()}") for name in _NAMES}
    place = (
        _explicit(given, "flags", "--{}".format)
        or _explicit(variables, "environment", lambda name: f"JAX_{name.upper()}")
        or _slurm(env)
        or _open_mpi(env)
        or _tpu_pod(env)
    )
    if place is None:
        _other_launchers(env)
    return None if place is None or place.num_processes == 1 else place


def _explicit(
    values: Mapping[str, str | int | None], where: str, spell: Callable[[str], str]
) -> Place | None:
    missing = [spell(name) for name in _NAMES if values.get(name) in (None, "")]
    if len(missing) == 3:
        return None
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)}: missing; of "
            f"{', '.join(map(spell, _NAMES))} all three are required, or none"
        )
    address, count, index = (str(values[name]) for name in _NAMES)
    if not re.fullmatch(r".+:\d+", address):
        raise ConfigError(f"{spell(_NAMES[0])}: {address!r}; HOST:PORT is required")
    if not count.isdecimal() or int(count) < 1:
        raise ConfigError(f"{spell(_NAMES[1])}: {count!r}; a whole number from 1 is required")
    if not index.isdecimal() or int(index) >= int(count):
        raise ConfigError(
            f"{spell(_NAMES[2])}: {index!r}; a whole number from 0 to {int(count) - 1} is required"
        )
    return Place(address, int(count), int(index), where)


def _slurm(env: Mapping[str, str]) -> Place | None:
    """Find a task that srun started; a batch script's own shell has no step, and is alone."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if any(name not in env for name in names):
        return None
    # JAX would give each task the GPU of its local number: wrong for one task a node, and for
    # tasks that Slurm already shows one GPU each.
    gpus = visible_gpus(env)
    per_node = env.get("SLURM_STEP_TASKS_PER_NODE", env.get("SLURM_TASKS_PER_NODE", ""))
    devices = None
    if gpus == 1 or (gpus and re.fullmatch(r"1(\(x\d+\))?", per_node)):
        devices = tuple(range(gpus))
    return Place(None, int(env["SLURM_NTASKS"]), int(env["SLURM_PROCID"]), "Slurm", devices)


def visible_gpus(env: Mapping[str, str]) -> int:
    """Count the GPUs that a process started in ``env`` may use."""
    shown = env.get("CUDA_VISIBLE_DEVICES")
    if shown is not None:
        return len([name for name in shown.split(",") if name])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _open_mpi(env: Mapping[str, str]) -> Place | None:
    if "OMPI_COMM_WORLD_SIZE" not in env:
        return None
    size, rank = int(env["OMPI_COMM_WORLD_SIZE"]), int(env["OMPI_COMM_WORLD_RANK"])
    if size > 1 and "OMPI_MCA_orte_hnp_uri" not in env:
        raise ConfigError(
            "Open MPI from version 5 on names no coordinator; start each rank with "
            "--coordinator_address HOST:PORT --num_processes $OMPI_COMM_WORLD_SIZE --process_id "
            "$OMPI_COMM_WORLD_RANK, where HOST is rank 0's"
        )
    return Place(None, size, rank, "Open MPI")


def _other_launchers(env: Mapping[str, str]) -> None:
    """Refuse launchers whose ranks would each take themselves for a job of one.

    Raises:
        ConfigError: saying how to hand their numbers on.
    """
    for launcher, size, rank in (
        ("torchrun", "WORLD_SIZE", "RANK"),
        ("PMIx", "PMIX_SIZE", "PMIX_RANK"),
        ("PMI", "PMI_SIZE", "PMI_RANK"),
    ):
        if launcher == "torchrun" and "TORCHELASTIC_RUN_ID" not in env:
            continue  # WORLD_SIZE alone may be anybody's
        if env.get(size, "1").isdecimal() and int(env.get(size, "1")) > 1 and rank in env:
            raise ConfigError(
                f"started by {launcher}, which names no coordinator to JAX; give each rank "
                f"--coordinator_address HOST:PORT --num_processes ${size} --process_id ${rank}, "
                "where HOST is rank 0's"
            )


def _tpu_pod(env: Mapping[str, str]) -> Place | None:
    """Find a TPU slice of several hosts, or several slices."""
    if not _has_tpu():
        return None
    hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
    index = env.get("TPU_WORKER_ID", "0")
    if hosts is None and "TPU_SKIP_MDS_QUERY" not in env:
        server = env.get("GCE_METADATA_IP", "metadata.google.internal")
        hosts = _metadata(server, "worker-network-endpoints")
        index = _metadata(server, "agent-worker-number") or "0"
    slices = int(env.get("MEGASCALE_NUM_SLICES") or 1)
    in_slice = len((hosts or "").split(","))
    index_of_all = int(index) + int(env.get("MEGASCALE_SLICE_ID") or 0) * in_slice
    return Place(None, in_slice * slices, index_of_all, "TPU pod")


def _has_tpu() -> bool:
    devices = Path("/dev")
    return any((*devices.glob("accel*"), *devices.glob("vfio/[0-9]*")))


def _metadata(server: str, key: str) -> str | None:
    """Ask the virtual machine's own metadata server, as JAX does."""
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/{key}",
        headers={"Metadata-Flavor": "Google"},
    )
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.read().decode()
    except OSError:
        return None


@contextlib.contextmanager
def connected(place: Place | None, timeout_s: int, heartbeat_timeout_s: int = 60) -> Iterator[None]:
    """Join the other processes of a job, and leave together with them.

    All but the first process print nothing but errors.

    Args:
        place: None for a process that is alone: nothing happens.
        timeout_s: how long to wait for all of them.
        heartbeat_timeout_s: after so long without a sign of one, JAX ends all the others.

    Raises:
        StalledError: if not all came in time, saying what is known about why.
    """
    if place is None:
        yield
        return
    import jax

    _initialize(place, timeout_s, heartbeat_timeout_s)
    own = contextlib.ExitStack()
    if place.process_id:
        silence = own.enter_context(Path(os.devnull).open("w"))  # noqa: SIM115
        own.enter_context(contextlib.redirect_stdout(silence))
    print(f"{place.num_processes} processes (by {place.found_in})", flush=True)
    with own:
        _here.append(place)
        try:
            yield
        except GenJaxError as error:
            # If all end for the same reason, all can say goodbye. If only this one does, waiting
            # for the others would take minutes: it goes, and JAX ends them.
            if error.everywhere:
                jax.distributed.shutdown()
            raise
        finally:
            _here.pop()
        jax.distributed.shutdown()


def _initialize(place: Place, timeout_s: int, heartbeat_timeout_s: int) -> None:
    import jax

    address = place.coordinator_address
    host = address.rpartition(":")[0] if address else ""
    # By default the coordinator would listen on every interface, even for a job of one machine.
    bind = address if host in ("localhost", "127.0.0.1", "[::1]") else None

    def give_up() -> None:
        # JAX aborts the process, with pages of C++; this comes before it, from a thread.
        error = StalledError(
            f"process {place.process_id} of {place.num_processes}: not all processes came within "
            f"{timeout_s} s; {_diagnosis(address, place)}"
        )
        print(f"gen_jax: {error.area}: {error}", file=sys.stderr, flush=True)
        os._exit(error.exit_code)

    # It would take SIGTERM for itself; see stop_signals.
    jax.config.update("jax_enable_preemption_service", False)
    alarm = threading.Timer(timeout_s, give_up)
    alarm.daemon = True
    alarm.start()
    try:
        if place.found_in in ("flags", "environment"):
            jax.distributed.initialize(
                address,
                place.num_processes,
                place.process_id,
                coordinator_bind_address=bind,
                cluster_detection_method="deactivate",
                initialization_timeout=timeout_s + 60,
                heartbeat_timeout_seconds=heartbeat_timeout_s,
            )
        else:
            jax.distributed.initialize(
                local_device_ids=place.local_device_ids,
                initialization_timeout=timeout_s + 60,
                heartbeat_timeout_seconds=heartbeat_timeout_s,
            )
    except Exception as error:
        raise StalledError(one_line(error)) from error
    finally:
        alarm.cancel()


def _diagnosis(address: str | None, place: Place) -> str:
    """Say what can be said about why somebody is missing."""
    if address is None:
        return f"{place.found_in} names the coordinator; see whether its host can be reached"
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=2).close()
    except socket.gaierror:
        return f"the coordinator's name {host!r} does not resolve"
    except OSError:
        return f"nothing answers at {address}: process 0 is not there, or a firewall is"
    if place.process_id == 0:
        return f"this process listens at {address}; see whether the others were started"
    return f"process 0 answers at {address}, so another process is missing"


def is_alone() -> bool:
    """Return whether this process is a whole job."""
    return not _here


def is_first() -> bool:
    """Return whether this process is the one that writes."""
    return is_alone() or _here[0].process_id == 0


def agree(numbers: Sequence[int]) -> list[int]:
    """Return every process the first one's whole numbers from 0, the last 64 of them."""
    if is_alone():
        return list(numbers)
    import numpy as np
    from jax.experimental import multihost_utils

    mine = np.full(64, -1, np.int32)
    last = list(numbers)[-64:]
    mine[: len(last)] = last
    return [int(x) for x in multihost_utils.broadcast_one_to_all(mine) if x >= 0]


def together(action: Callable[[], T]) -> T:
    """Do on every process what may fail on one of them; it then fails on all, alike.

    Nobody is left waiting for a process that has ended. Alone, this only calls ``action``, which
    must not itself speak to the others before it may fail.

    Raises:
        GenJaxError: the error of the first process that had one.
    """
    if is_alone():
        return action()
    import numpy as np
    from jax.experimental import multihost_utils

    result, mine = None, b""
    try:
        result = action()
    except GenJaxError as error:
        mine = f"{type(error).__name__}\n{error}".encode()[:2000]
    row = np.zeros(2000, np.uint8)
    row[: len(mine)] = np.frombuffer(mine, np.uint8)
    for process, line in enumerate(multihost_utils.process_allgather(row)):
        if line.any():
            kind, _, message = bytes(line).rstrip(b"\0").decode(errors="replace").partition("\n")
            error = getattr(errors, kind)(f"{message} (process {process})")
            error.everywhere = True
            raise error
    return result  # type: ignore[return-value]


@contextlib.contextmanager
def stop_signals() -> Iterator[tuple[list[int], Callable[[int], bool]]]:
    """Collect signals that ask for an end, and agree with the other processes on a step to stop at.

    Beside SIGTERM and SIGINT these are SIGUSR1 (Slurm's ``--signal=USR1@90``), SIGHUP (a terminal
    that closes; under nohup it stays ignored), SIGUSR2 and SIGXCPU, which would end a run without a
    checkpoint. Outside of the main thread no signal arrives, and none is collected.

    Yields:
        The signals received, and ``stop(step)``, to be asked before every step by all processes.
        The second signal ends a process on the spot.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if received:
            os._exit(128 + number)
        received.append(number)
        # Not print(): the signal may have come in the middle of one.
        with contextlib.suppress(OSError):
            os.write(1, f"{signal.Signals(number).name}: saving, then ending\n".encode())

    stop = (lambda step: bool(received)) if is_alone() else _agreeing(received)
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in stop_numbers()}
    try:
        yield received, stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _agreeing(received: list[int]) -> Callable[[int], bool]:
    """Let all processes stop at one step when any of them has received a signal.

    Before each step the largest signal number is taken over all devices, and looked at before the
    next one: by then it is there, so that nobody waits, and all look at the same number.
    (JAX's own preemption service agrees on a number of calls that a job which resumes, or which
    is signaled while it compiles, may already have passed.)
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array(jax.devices()), ("devices",))
    each, everywhere = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("devices",), ()))
    largest = jax.jit(jnp.max, out_shardings=everywhere)
    asked: list[jax.Array] = []

    def stop(step: int) -> bool:
        del step
        answer = int(asked.pop()) if asked else 0
        mine = np.full(1, received[0] if received else 0, np.int32)
        asked.append(largest(jax.make_array_from_callback((mesh.size,), each, lambda index: mine)))
        if answer:
            received[:] = [answer]
        return bool(answer)

    return stop
