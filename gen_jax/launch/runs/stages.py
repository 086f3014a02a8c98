"""What a run takes over of others: frozen stages, by name.

A work directory is complete: at its start a run takes over what it needs of other runs', each as
``W/<name>/``, laid out like a work directory, and never looks at the originals again. A stage that
is of several stages itself brings its own along, inside.
"""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen_jax.errors import CheckpointError, StorageError
from gen_jax.launch.config.parts import STAGE_FAMILIES
from gen_jax.launch.runs.restore import check_has_codes, load_weights
from gen_jax.launch.runs.workdir import STAGE1, STAGES, TOKENIZER, checkpoint_steps, stage_places

__all__ = ["take_over", "take_over_stages", "wait_for_stages"]


def take_over_stages(config: Mapping[str, Any], workdir: Path) -> None:
    """Take over all that a config names; speaks to no other process.

    Raises:
        CheckpointError: naming the stage, if it cannot be used.
        StorageError: if it cannot be written.
    """
    for name, source in stage_places(config).items():
        take_over(Path(source), workdir, name, config)


def take_over(
    source: Path, workdir: Path, name: str = STAGE1, config: Mapping[str, Any] | None = None
) -> None:
    """Copy another run's config and latest weights to ``workdir/<name>``, whole or not at all.

    Does nothing where a run has checkpoints: it keeps the stages that it began with. Speaks to no
    other process.

    Args:
        source: work directory of the other run.
        workdir: of this one.
        name: of the stage.
        config: of this run.

    Raises:
        CheckpointError: if the source is of a family that cannot be this, or has no complete
            checkpoint.
        StorageError: if they cannot be written.
    """
    target = workdir / name
    if target.is_dir() and checkpoint_steps(workdir):
        return
    for attempt in reversed(range(3)):
        saved = load_weights(source)  # the newest that is what was saved
        if name == STAGE1:
            check_has_codes(source, saved.config["family"], saved.experiment.model)
        else:
            _check(name, source, saved.config, config or {})
        try:
            _copy(source, saved.step, target)
        except CheckpointError:  # a running job has deleted it meanwhile
            if not attempt:
                raise
        else:
            return


def _check(name: str, source: Path, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    family, needed = theirs["family"], STAGE_FAMILIES[name]
    if family not in needed:
        what = " or ".join(map(repr, needed))
        raise CheckpointError(f"stages.{name}: {source}: family {family!r}; {what} is required")
    if name == "text":  # which looks at no image
        return
    height, width, channels = ours["data"]["shape"][-3:]
    factor = ours["model"]["low_res_factor"] if name == "base" else 1
    shape, wanted = theirs["data"]["shape"], (height // factor, width // factor, channels)
    if tuple(shape) != wanted:
        raise CheckpointError(
            f"stages.{name}: {source}: is of images of {tuple(shape)}; {wanted} is required"
        )


def _copy(source: Path, step: int, target: Path) -> None:
    temporary = target.parent / f".{target.name}.tmp"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        shutil.copy(source / "config.json", temporary / "config.json")
        if (source / TOKENIZER).exists():
            shutil.copy(source / TOKENIZER, temporary / TOKENIZER)
        # The optimizer's state, most of a checkpoint, is not needed.
        shutil.copytree(
            source / "checkpoints" / str(step),
            temporary / "checkpoints" / str(step),
            ignore=shutil.ignore_patterns("training"),
        )
        for inner in (STAGE1, *STAGES):
            if (source / inner).is_dir():
                shutil.copytree(source / inner, temporary / inner)
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


def wait_for_stages(config: Mapping[str, Any], workdir: Path, patience_s: float = 10.0) -> None:
    """Wait until what the first process took over is seen here too, over a network's file system.

    Raises:
        CheckpointError: if it does not come.
    """
    end = time.monotonic() + patience_s
    for name in stage_places(config):
        while not checkpoint_steps(workdir / name):
            if time.monotonic() > end:
                raise CheckpointError(f"{workdir / name}: not there, or without a checkpoint")
            time.sleep(0.2)
