"""What a second stage takes over of its first.

A second stage's work directory is complete: at its start it takes over what it needs of the first
stage's, as ``W/stage1/``, laid out like a work directory, and never looks at the original again.
"""

import shutil
import time
from pathlib import Path

from gen_jax.errors import CheckpointError, StorageError
from gen_jax.launch.runs.restore import check_has_codes, load_weights
from gen_jax.launch.runs.workdir import STAGE1, checkpoint_steps

__all__ = ["take_over", "wait_for_stage1"]


def take_over(source: Path, workdir: Path) -> None:
    """Copy a first stage's config and latest weights to ``workdir/stage1``, whole or not at all.

    Does nothing where a run has checkpoints: it keeps the first stage that it began with. Speaks to
    no other process.

    Raises:
        CheckpointError: if the source is of a family without codes, or has no complete checkpoint.
        StorageError: if they cannot be written.
    """
    target = workdir / STAGE1
    if target.is_dir() and checkpoint_steps(workdir):
        return
    for attempt in reversed(range(3)):
        saved = load_weights(source)  # the newest that is what was saved
        check_has_codes(source, saved.config["family"], saved.experiment.model)
        try:
            _copy(source, saved.step, workdir)
        except CheckpointError:  # a running job has deleted it meanwhile
            if not attempt:
                raise
        else:
            return


def _copy(source: Path, step: int, workdir: Path) -> None:
    target, temporary = workdir / STAGE1, workdir / f".{STAGE1}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        shutil.copy(source / "config.json", temporary / "config.json")
        # The optimizer's state, most of a checkpoint, is not needed.
        shutil.copytree(
            source / "checkpoints" / str(step),
            temporary / "checkpoints" / str(step),
            ignore=shutil.ignore_patterns("training"),
        )
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    except (shutil.Error, FileNotFoundError) as error:  # mostly because training removed them
        raise CheckpointError(
            f"{source}: step {step} could not be copied; try again, or after its training"
        ) from error
    except OSError as error:
        raise StorageError(f"{target}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def wait_for_stage1(workdir: Path, patience_s: float = 10.0) -> None:
    """Wait until what the first process took over is seen here too, over a network's file system.

    Raises:
        CheckpointError: if it does not come.
    """
    end = time.monotonic() + patience_s
    while not checkpoint_steps(workdir / STAGE1):
        if time.monotonic() > end:
            raise CheckpointError(f"{workdir / STAGE1}: not there, or without a checkpoint")
        time.sleep(0.2)
