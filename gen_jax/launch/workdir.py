"""The work directory: layout, lock, and the weights a finished or running job has put there."""

import contextlib
import fcntl
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gen_jax.errors import CheckpointError, StorageError, WorkdirInUseError
from gen_jax.launch.configfile import from_json
from gen_jax.launch.resume import checkpoint_steps, newest_good_beside

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from gen_jax.launch.experiment import Experiment
    from gen_jax.protocols import Weights

__all__ = [
    "Saved",
    "Trained",
    "load_trained",
    "load_weights",
    "lock",
    "make_workdir",
]


def make_workdir(workdir: Path) -> None:
    """Make the directory, and see that it can be written to.

    Raises:
        StorageError: naming the directory and the reason.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / f".probe-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise StorageError(f"{workdir}: cannot be written to: {error.strerror}") from error


@contextlib.contextmanager
def lock(workdir: Path) -> Iterator[None]:
    """Hold a work directory for one training job; the lock ends with the process, however it does.

    Raises:
        WorkdirInUseError: at once, naming the holder.
    """
    path = workdir / ".lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = {"host": socket.gethostname(), "pid": os.getpid()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
            os.fsync(descriptor)  # other hosts of the job look at it
        except BlockingIOError as error:
            raise WorkdirInUseError(f"{workdir}: in use by {_holder(descriptor)}") from error
        except OSError as error:
            raise StorageError(f"{path}: cannot be locked: {error.strerror}") from error
        yield
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another job"


class Saved(NamedTuple):
    """What a work directory holds, on the host."""

    config: Mapping[str, Any]
    experiment: "Experiment"
    step: int
    weights: "Weights"  # the averaged ones
    digest: str  # of the weights


class Trained(NamedTuple):
    """What a work directory holds: enough to sample and to evaluate."""

    config: Mapping[str, Any]
    experiment: "Experiment"
    step: int
    weights: "Weights"  # the averaged ones
    digest: str  # of the weights
    mesh: "Mesh"  # of this machine's devices, on all of which the weights are


def load_weights(workdir: Path, *, whole: bool = False) -> Saved:
    """Build the model of a work directory and restore its latest good averaged weights.

    A training job may be running there: what is read is always one whole step, as it was saved.
    With ``whole`` also what only losses need: players that are not averaged, a perceptual network.

    Raises:
        CheckpointError: if there is no config or no checkpoint, or they do not fit.
    """
    from gen_jax.launch.experiment import abstract_state, build
    from gen_jax.launch.stage1 import FOLDER
    from gen_jax.protocols import Weights
    from gen_jax.train.checkpoint import restore_weights

    config = from_json(workdir / "config.json")
    if not checkpoint_steps(workdir):
        raise CheckpointError(f"{workdir}: no checkpoint yet")
    experiment = build(config, workdir / FOLDER)
    if whole:
        experiment = experiment.with_training_frozen()
    abstract = abstract_state(experiment, tuple(config["data"]["shape"]))
    folder = workdir / "checkpoints"

    def read(step: int) -> Any:
        return restore_weights(folder, step, abstract, whole=whole)

    found = newest_good_beside(workdir, read)
    if found is None:
        raise CheckpointError(f"{workdir}: no checkpoint any more")
    step, (arrays_of, meta) = found
    arrays = sorted(meta["spec"].items())
    kept = (".ema_params", ".stats")
    digests = "".join(x[2] for name, x in arrays if name.startswith(kept))
    digest = hashlib.sha256(digests.encode()).hexdigest()[:16]
    weights = Weights(arrays_of["ema_params"], arrays_of["stats"], experiment.frozen)
    return Saved(config, experiment, step, weights, digest)


def load_trained(workdir: Path, *, whole: bool = False) -> Trained:
    """Load a work directory's model onto all of this machine's devices, as :func:`load_weights`.

    Raises:
        CheckpointError: as :func:`load_weights`.
    """
    import jax

    from gen_jax.train.sharding import make_mesh, replicated

    saved = load_weights(workdir, whole=whole)
    mesh = make_mesh()
    weights = jax.device_put(saved.weights, replicated(mesh))
    experiment = saved.experiment._replace(frozen=weights.frozen)
    return Trained(saved.config, experiment, saved.step, weights, saved.digest, mesh)
