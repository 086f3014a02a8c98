"""How a run goes on: from which step, with what config, data and first stage, or anew."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gen_jax.errors import CheckpointError, DataError, StorageError
from gen_jax.launch.config.fields import flatten
from gen_jax.launch.config.files import from_json
from gen_jax.launch.config.schema import fields_of, frozen_changes, nested
from gen_jax.launch.jobs.processes import agree, is_first, together
from gen_jax.launch.runs.newest import newest_good, set_aside
from gen_jax.launch.runs.workdir import (
    CLASSES,
    LIVES,
    STAGE1,
    STAGES,
    TOKENIZER,
    checkpoint_steps,
    stage_places,
)

__all__ = ["Resuming", "adopted", "check_disk_space", "check_unchanged", "put_away", "resume"]


class Resuming(NamedTuple):
    """How to treat what a work directory holds already."""

    from_scratch: bool = False  # put it away and begin anew
    strict: bool = False  # the newest checkpoint or none
    allowed: tuple[str, ...] = ()  # frozen fields that may change all the same
    other_data: bool = False  # whether the data may be other than it was


def put_away(workdir: Path) -> None:
    """Move what a run has made to ``before-<n>``: to begin anew is not to destroy."""
    # Checkpoints last: until then the rest is known to be unfinished business.
    written = (
        "config.json",
        CLASSES,
        LIVES,
        "metrics.jsonl",
        "tensorboard",
        "images",
        "report.html",
    )
    made = (*written, TOKENIZER, STAGE1, *STAGES, "checkpoints")
    there = [workdir / name for name in made if (workdir / name).exists()]
    if not there:
        return
    number = 1
    while (target := workdir / f"before-{number}").exists():
        number += 1
    try:
        target.mkdir()
        for path in there:
            path.rename(target / path.name)
    except OSError as error:
        raise StorageError(f"{workdir}: cannot be put away: {error.strerror}") from error
    print(f"{workdir}: beginning anew; what was there is in {target}", flush=True)


def adopted(config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """Take over from a run that is there what this config leaves open.

    A frozen field that may be None stands for what other fields, or a version, make of it; a run
    that has once begun keeps its own.
    """
    saved = workdir / "config.json"
    if not saved.exists() or not checkpoint_steps(workdir):
        return dict(config)
    before, now = flatten(from_json(saved)), flatten(config)
    kept = {
        name: before[name]
        for name, field in fields_of(str(config["family"])).items()
        if field.optional and field.change == "frozen" and now[name] is None and name in before
    }
    return nested({**now, **kept})


def check_unchanged(config: Mapping[str, Any], workdir: Path, allowed: tuple[str, ...]) -> None:
    """Compare the config with that of the checkpoints, field by field.

    Args:
        config: without faults.
        workdir: with checkpoints.
        allowed: frozen fields that may differ all the same.

    Raises:
        CheckpointError: naming every other frozen field that differs.
    """
    before = from_json(workdir / "config.json")
    frozen, free = frozen_changes(before, config, allowed)
    # A stage may move, but not come or go.
    moved = set(stage_places(before)) ^ set(stage_places(config))
    begins = tuple(f"{name}:" if name == STAGE1 else f"stages.{name}:" for name in moved)
    frozen += [change for change in free if change.startswith(begins)]
    if frozen:
        names = ",".join(change.partition(":")[0] for change in frozen)
        raise CheckpointError(
            f"{workdir}: its checkpoints were made with another config: {'; '.join(frozen)}; undo "
            f"this, use a new work directory, or --allow_config_change={names}"
        )
    for change in free:
        print(f"config changed: {change}", flush=True)


def resume(
    workdir: Path, target: Any, meta: Mapping[str, Any], resuming: Resuming
) -> tuple[int, Any] | None:
    """Restore the newest step that is what was saved, in all processes of a job alike.

    Args:
        workdir: of the run.
        target: the state's shapes, types and shardings.
        meta: what will be saved beside it: the config, and what data and first stage are.
        resuming: what the flags said.

    Returns:
        The step and the state; None where there is none yet.

    Raises:
        CheckpointError: if none is good, or it does not fit.
        DataError: if the data is not what it was.
    """
    from gen_jax.train import checkpoint

    folder = workdir / "checkpoints"

    def read(step: int) -> tuple[Any, Any]:
        return checkpoint.restore(folder, step, target, together)

    def rename(path: Path) -> None:
        together(lambda: set_aside(path) if is_first() else None)

    # Over a network's file system another process may see others.
    steps = agree(checkpoint_steps(workdir))
    found = newest_good(folder, steps, read, strict=resuming.strict, rename=rename)
    if found is None:
        return None
    step, (state, before) = found
    together(lambda: _check_data(before, meta["data"], resuming.other_data))
    together(lambda: _check_stage1(before, meta["stage1"]))
    together(lambda: _check_stages(before, meta["stages"]))
    together(lambda: _check_tokenizer(before, meta["tokenizer"]))
    together(lambda: _check_skipped(before, meta["config"], step))
    return step, state


def check_disk_space(config: Mapping[str, Any], workdir: Path, size: int) -> None:
    """Check before the first step that the checkpoints which will be kept can be."""
    if not is_first():
        return
    there = len(checkpoint_steps(workdir))
    kept = max(config["train"]["keep"] + 1 - there, 1)  # one more while the next is written
    need, free = int(1.1 * kept * size), shutil.disk_usage(workdir).free
    if free < need:
        raise StorageError(
            f"{workdir}: out of space for {kept} more checkpoints of {size:,} bytes: need "
            f"{need:,}, free {free:,}; make room, or lower train.keep"
        )


# Of a folder: number, names and sizes, names alone (not of earlier versions), what is held out.
_OF_FOLDER = re.compile(r"(\d+)-([0-9a-f]{16})(?::([0-9a-f]{16}))?(.*)")


def _check_data(meta: Mapping[str, Any], fingerprint: str, allowed: bool) -> None:
    before = str(meta.get("data"))
    if before == fingerprint:
        return
    was, now = (_OF_FOLDER.fullmatch(text) for text in (before, fingerprint))
    if was and now:
        if (was[2], was[4]) == (now[2], now[4]):  # an earlier version's
            return
        if was[3] and (was[1], was[3], was[4]) == (now[1], now[3], now[4]):
            if is_first():
                print("data: some pictures have other sizes than before; going on", flush=True)
            return
    if not allowed:
        raise DataError(
            f"the training data is not what the checkpoint was trained on: {fingerprint} instead "
            f"of {before}; --allow_data_change goes on with it all the same, and "
            "--config.train.init_from begins a new run with these weights"
        )
    if is_first():
        print(f"data changed: checkpoint {before}, now {fingerprint}", flush=True)


def _check_stage1(meta: Mapping[str, Any], digest: str | None) -> None:
    if meta.get("stage1") != digest:
        raise CheckpointError(
            f"the first stage in the work directory is not the one that this run began with: "
            f"{digest} instead of {meta.get('stage1')}"
        )


def _check_stages(meta: Mapping[str, Any], digests: Mapping[str, str]) -> None:
    before = meta.get("stages", {})
    for name, digest in digests.items():
        if before.get(name) != digest:
            raise CheckpointError(
                f"stages.{name}: what is in the work directory is not what this run began with: "
                f"{digest} instead of {before.get(name)}"
            )


def _check_tokenizer(meta: Mapping[str, Any], digest: str | None) -> None:
    if meta.get("tokenizer") != digest:
        raise CheckpointError(
            f"the tokenizer in the work directory is not what this run began with: {digest} "
            f"instead of {meta.get('tokenizer')}"
        )


def _check_skipped(meta: Mapping[str, Any], config: Mapping[str, Any], step: int) -> None:
    """Check that a batch which is newly left out, or in, is not among those of the past."""
    from gen_jax.data import batch_of

    try:
        before = set(meta["config"]["data"]["skip_steps"])
    except (KeyError, TypeError):  # not written by this program
        before = set()
    past = [
        n for n in before ^ set(config["data"]["skip_steps"]) if n <= batch_of(step, sorted(before))
    ]
    if past:
        raise CheckpointError(
            f"data.skip_steps: {min(past)}; step {step} is behind it already, and only what comes "
            f"can still be changed; to go back, move checkpoints/{step} and other later ones away"
        )
