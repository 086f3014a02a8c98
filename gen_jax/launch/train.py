"""``gen-jax train``."""

import contextlib
import itertools
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen_jax.errors import CheckpointError, DataError, NonFiniteError, StorageError
from gen_jax.files import write_file
from gen_jax.launch.cluster import agree, is_alone, is_first, stop_signals, together
from gen_jax.launch.configfile import from_json, to_json
from gen_jax.launch.schema import frozen_changes
from gen_jax.launch.workdir import checkpoint_steps, lock, make_workdir

__all__ = ["run_training"]


def run_training(config: Mapping[str, Any], workdir: Path) -> int:
    """Train as a config says, from the last checkpoint in the work directory if there is one.

    Of many processes all call this; the first of them writes.

    Args:
        config: without faults.
        workdir: made if it is not there; the same, on a shared file system, for all processes.

    Returns:
        0, or 128 plus the number of the signal that ended training after a last checkpoint.

    Raises:
        GenJaxError: see the subclasses.
    """
    with contextlib.ExitStack() as held, stop_signals() as (received, stop):
        together(lambda: _take(config, workdir, held))
        together(lambda: _see_that_it_is_shared(workdir))
        _train(config, workdir, stop)
        return 128 + received[0] if received else 0


def _take(config: Mapping[str, Any], workdir: Path, held: contextlib.ExitStack) -> None:
    """Make and lock the work directory, in the first process."""
    if not is_first():
        return
    make_workdir(workdir)
    held.enter_context(lock(workdir))
    if checkpoint_steps(workdir):
        _check_unchanged(config, workdir)


def _see_that_it_is_shared(workdir: Path) -> None:
    # The lock names the process that holds it, and so tells this directory from any other.
    path = workdir / ".lock"

    def digest() -> int:
        return zlib.crc32(path.read_bytes() if path.exists() else b"") >> 1

    first = agree(digest())
    patience = time.monotonic() + 10  # a network's file system may take a moment to show it
    while digest() != first and time.monotonic() < patience:
        time.sleep(0.5)
    if digest() != first:
        raise StorageError(
            f"{workdir}: not the first process's directory; all need one on a shared file system"
        )


def _check_unchanged(config: Mapping[str, Any], workdir: Path) -> None:
    before = from_json(workdir / "config.json")
    frozen, free = frozen_changes(before, config)
    # A first stage may move, but not come or go.
    if bool(before.get("stage1")) != bool(config.get("stage1")):
        frozen += [change for change in free if change.startswith("stage1:")]
    if frozen:
        raise CheckpointError(
            f"{workdir}: its checkpoints were made with another config; use a new work directory, "
            f"or undo: {'; '.join(frozen)}"
        )
    for change in free:
        print(f"config changed: {change}", flush=True)


def _train(config: Mapping[str, Any], workdir: Path, stop: Callable[[int], bool]) -> None:
    # Here and not above, so that what needs no JAX is refused before it is loaded.
    from gen_jax.launch.experiment import build
    from gen_jax.launch.parallel import build_engine, build_mesh
    from gen_jax.launch.stage1 import FOLDER, see_that_it_is_there, take_over
    from gen_jax.train import checkpoint
    from gen_jax.train.loop import train

    mesh = together(lambda: build_mesh(config))
    source = together(lambda: open_checked(config, "train"))
    if config.get("stage1"):
        together(lambda: take_over(Path(config["stage1"]), workdir) if is_first() else None)
        together(lambda: see_that_it_is_there(workdir))
    experiment = build(config, workdir / FOLDER)  # the same on all, also where it fails
    together(lambda: check_codes(source, experiment.stage1_digest))
    engine = together(lambda: build_engine(config, experiment, mesh))
    experiment = experiment._replace(frozen=engine.place(experiment.frozen))
    key = engine.key(config["seed"])
    folder = workdir / "checkpoints"
    with checkpoint.open_checkpoints(folder, keep=config["train"]["keep"]) as manager:
        step = agree(together(lambda: _step_to_resume(manager, workdir)))
        rows = engine.rows(config["data"]["batch_size"])
        batches = together(lambda: _batches(config, source, step or 0, rows))
        first = together(lambda: next(batches))
        batch = engine.put(first)
        if step is None:
            state = engine.init(key, batch)
        else:
            target = engine.abstract(batch)
            # Not together(): orbax itself makes the processes wait for each other in these. One
            # that fails ends, and JAX ends the others.
            state = checkpoint.restore(manager, step, target)
            meta = checkpoint.read_meta(manager, step)
            together(lambda: _check_data(meta, source.fingerprint))
            together(lambda: _check_stage1(meta, experiment.stage1_digest))
        _introduce(config, source, experiment, state, mesh, workdir)
        meta = {"config": config, "data": source.fingerprint}
        meta |= {"stage1": experiment.stage1_digest} if experiment.stage1_digest else {}
        with contextlib.ExitStack() as opened:
            outputs = together(lambda: _outputs(config, workdir, step or 0, opened))

            def rescue(state: Any) -> None:
                # Alone only: saving takes all processes, and the others have not failed.
                if is_alone():
                    checkpoint.save(manager, state, meta, wait=True)

            loop = _make_loop(
                config,
                **outputs,
                save=lambda state, wait: checkpoint.save(manager, state, meta, wait=wait),
                rescue=rescue,
                inspect=_make_inspect(config, experiment, source, mesh),
                stop=stop,
                window=_window(config, workdir),
            )
            start = time.perf_counter()
            batches = itertools.chain([first], batches)
            try:
                state = train(engine, state, experiment.frozen, batches, key, loop)
            except NonFiniteError as error:
                error.everywhere = True  # all processes see the same numbers
                raise
            print(
                f"step {int(state.step)} of {loop.steps} after "
                f"{time.perf_counter() - start:.1f} s; checkpoints in {folder}",
                flush=True,
            )


def _step_to_resume(manager: Any, workdir: Path) -> int | None:
    from gen_jax.train.checkpoint import latest_step

    step = latest_step(manager)
    if step is None and checkpoint_steps(workdir):
        raise CheckpointError(
            f"{workdir / 'checkpoints'}: no complete checkpoint among those that are there"
        )
    return step


def _outputs(
    config: Mapping[str, Any], workdir: Path, step: int, opened: contextlib.ExitStack
) -> Mapping[str, Callable]:
    """Open what the first process writes, until ``opened`` closes; the others write nothing."""
    from gen_jax.train.writer import close, open_writer, write_images, write_metrics

    if not is_first():
        return {"report": lambda step, metrics: None, "show": lambda step, images: None}
    write_file(workdir / "config.json", to_json(config).encode())
    writer = open_writer(workdir, step)
    opened.callback(close, writer)
    return {
        "report": lambda step, metrics: write_metrics(writer, step, metrics),
        "show": lambda step, images: write_images(writer, step, images),
    }


def _batches(
    config: Mapping[str, Any], source: Any, step: int, rows: np.ndarray
) -> Iterator[Mapping[str, Any]]:
    from gen_jax.data import train_batches

    data = config["data"]
    return train_batches(
        source,
        seed=config["seed"],
        batch_size=data["batch_size"],
        first_step=step,
        flip=data["flip"],
        crop=data["crop"],
        rows=rows,
        num_workers=data["num_workers"],
    )


def _make_loop(config: Mapping[str, Any], **actions: Any) -> Any:
    from gen_jax.train.loop import Loop

    options = config["train"]
    return Loop(
        steps=options["steps"],
        log_every=options["log_every"],
        inspect_every=options["sample_every"],
        save_every=options["save_every"],
        max_bad_steps=options["max_bad_steps"],
        batch_size=config["data"]["batch_size"],
        **actions,
    )


def _window(config: Mapping[str, Any], workdir: Path) -> Any:
    from gen_jax.train.profiling import Window

    options = config["profile"]
    first = options["start"] if is_first() else 0
    return Window(workdir / "profile", first, options["steps"])


def open_checked(config: Mapping[str, Any], split: str) -> Any:
    """Open the config's source, and see that its labels are those the model is conditioned on.

    Args:
        config: without faults.
        split: ``"train"``, ``"validation"`` (what was held out of it) or ``"test"``.

    Raises:
        DataError: if the source cannot be opened, or has no labels, or too many.
    """
    from gen_jax.data import hold_out, open_source

    data = config["data"]
    name = "train" if split == "validation" else split
    source = open_source(data["source"], name, tuple(data["shape"]), data["dir"] or None)
    if name == "train" and data["holdout"]:
        source = hold_out(source, data["holdout"])[split == "validation"]
    elif split == "validation":
        raise DataError(f"{source.name}: nothing was held out for validation (data.holdout is 0)")
    wanted = config["model"].get("num_classes", 0)
    if wanted and (source.num_classes is None or source.num_classes > wanted):
        raise DataError(
            f"{source.name}: {source.num_classes or 'no'} classes, but model.num_classes is "
            f"{wanted}"
        )
    return source


def check_codes(source: Any, digest: str | None) -> None:
    """See that codes made beforehand are those of the first stage at hand.

    Raises:
        DataError: if they are not.
    """
    if source.stage1 is not None and source.stage1 != digest:
        raise DataError(
            f"{source.name}: made by another first stage than stage1: {source.stage1[:12]} instead "
            f"of {digest[:12] if digest else 'none'}; run `gen-jax encode` with this one"
        )


def _check_data(meta: Mapping[str, Any], fingerprint: str) -> None:
    if meta.get("data") != fingerprint:
        raise DataError(
            f"the training data is not what the checkpoint was trained on: {fingerprint} instead "
            f"of {meta.get('data')}"
        )


def _check_stage1(meta: Mapping[str, Any], digest: str | None) -> None:
    if meta.get("stage1") != digest:
        raise CheckpointError(
            f"the first stage in the work directory is not the one that this run began with: "
            f"{digest} instead of {meta.get('stage1')}"
        )


def _introduce(
    config: Mapping[str, Any], source: Any, experiment: Any, state: Any, mesh: Any, workdir: Path
) -> None:
    import jax

    num_params = sum(x.size for x in jax.tree.leaves(state.params))
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items() if size > 1)
    print(
        f"{config['family']}: {num_params:,} parameters; {source.name}: {source.size:,} "
        f"{'codes of images' if source.stage1 else 'images'} of "
        f"{'x'.join(map(str, source.image_shape))}; {mesh.size} "
        f"{jax.devices()[0].platform} device(s){f' ({axes})' if axes else ''}; {workdir}: "
        + (f"resuming at step {int(state.step)}" if int(state.step) else "starting"),
        flush=True,
    )


def _make_inspect(
    config: Mapping[str, Any], experiment: Any, source: Any, mesh: Any
) -> Callable[..., Any]:
    """Make the look at a model on the way: samples, and reconstructions where it has codes."""
    reconstruct = _make_reconstruct(config, experiment, source, mesh)
    from gen_jax.launch.pictures import grid
    from gen_jax.launch.sampling import draw_samples

    num = 64
    labels = None
    if experiment.num_classes:
        labels = np.arange(num) % experiment.num_classes

    def inspect(state: Any) -> tuple[Mapping[str, float], Mapping[str, Any]]:
        images = draw_samples(
            experiment,
            state.ema_params,
            state.stats,
            num=num,
            seed=config["seed"],
            options={},
            labels=labels,
            mesh=mesh,
        )
        return {}, {"samples": grid(images), **reconstruct(state)}

    return inspect


def _make_reconstruct(
    config: Mapping[str, Any], experiment: Any, source: Any, mesh: Any
) -> Callable[..., Any]:
    import jax

    from gen_jax.data import spread_indices
    from gen_jax.launch.pictures import pairs
    from gen_jax.train.sharding import replicated

    model = experiment.model
    if model.encode is None or not config["train"]["sample_every"]:
        return lambda state: {}
    held_out = open_checked(config, "validation") if config["data"]["holdout"] else source
    batch = held_out.read(spread_indices(held_out, 64))
    label = batch["label"] if experiment.num_classes else None

    def again(params: Any, stats: Any, image: Any, label: Any) -> Any:
        z = model.encode(params, stats, image, None, label)
        return model.decode(params, stats, z, label)

    compiled = jax.jit(again, out_shardings=replicated(mesh))

    def reconstruct(state: Any) -> Mapping[str, Any]:
        images = np.asarray(compiled(state.ema_params, state.stats, batch["image"], label))
        return {"reconstructions": pairs(batch["image"], images)}

    return reconstruct
