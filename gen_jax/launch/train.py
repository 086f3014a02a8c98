"""``gen-jax train``."""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from gen_jax.errors import CheckpointError, ConfigError, DataError
from gen_jax.files import write_file
from gen_jax.launch.configfile import from_json, to_json
from gen_jax.launch.schema import frozen_changes
from gen_jax.launch.workdir import checkpoint_steps, lock, make_workdir

__all__ = ["run_training"]


def run_training(config: Mapping[str, Any], workdir: Path) -> int:
    """Train as a config says, from the last checkpoint in the work directory if there is one.

    Args:
        config: without faults.
        workdir: made if it is not there.

    Returns:
        0, or 128 plus the number of the signal that ended training after a last checkpoint.

    Raises:
        GenJaxError: see the subclasses.
    """
    make_workdir(workdir)
    with lock(workdir), _signals() as received:
        if checkpoint_steps(workdir):
            _check_unchanged(config, workdir)
        _train(config, workdir, stop=lambda: bool(received))
    return 128 + received[0] if received else 0


def _check_unchanged(config: Mapping[str, Any], workdir: Path) -> None:
    frozen, free = frozen_changes(from_json(workdir / "config.json"), config)
    if frozen:
        raise CheckpointError(
            f"{workdir}: its checkpoints were made with another config; use a new work directory, "
            f"or undo: {'; '.join(frozen)}"
        )
    for change in free:
        print(f"config changed: {change}", flush=True)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT; the second ends the process on the spot."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        if received:
            os._exit(128 + number)
        received.append(number)
        # Not print(): the signal may have come in the middle of one.
        os.write(1, f"{signal.Signals(number).name}: saving, then ending\n".encode())

    caught = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, note) for number in caught}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _train(config: Mapping[str, Any], workdir: Path, stop: Callable[[], bool]) -> None:
    # Here and not above, so that what needs no JAX is refused before it is loaded.
    from gen_jax.launch.experiment import build
    from gen_jax.train import checkpoint
    from gen_jax.train.engines import jit_engine
    from gen_jax.train.loop import train
    from gen_jax.train.writer import close, open_writer

    source = open_checked(config, "train")
    experiment = build(config)
    engine = jit_engine(
        experiment.model,
        experiment.optimizers,
        _make_mesh(config),
        ema_decay=config["train"]["ema_decay"],
        microbatches=config["train"]["microbatches"],
    )
    key = engine.key(config["seed"])
    folder = workdir / "checkpoints"
    with checkpoint.open_checkpoints(folder, keep=config["train"]["keep"]) as manager:
        step = checkpoint.latest_step(manager)
        if step is None and checkpoint_steps(workdir):
            raise CheckpointError(f"{folder}: no complete checkpoint among those that are there")
        batches = _batches(config, source, step or 0)
        first = next(batches)
        if step is None:
            state = engine.init(key, engine.put(first))
        else:
            state = checkpoint.restore(manager, step, engine.abstract(engine.put(first)))
            _check_data(checkpoint.read_meta(manager, step), source.fingerprint)
        _introduce(config, source, experiment, state, workdir)
        write_file(workdir / "config.json", to_json(config).encode())

        meta = {"config": config, "data": source.fingerprint}
        writer = open_writer(workdir, step or 0)
        try:
            loop = _make_loop(
                config,
                writer,
                save=lambda state, wait: checkpoint.save(manager, state, meta, wait=wait),
                inspect=_make_inspect(config, experiment),
                stop=stop,
            )
            start = time.perf_counter()
            batches = itertools.chain([first], batches)
            state = train(engine, state, experiment.frozen, batches, key, loop)
            print(
                f"step {int(state.step)} of {loop.steps} after "
                f"{time.perf_counter() - start:.1f} s; checkpoints in {folder}",
                flush=True,
            )
        finally:
            close(writer)


def _batches(config: Mapping[str, Any], source: Any, step: int) -> Iterator[Mapping[str, Any]]:
    import jax

    from gen_jax.data import train_batches

    data = config["data"]
    return train_batches(
        source,
        seed=config["seed"],
        batch_size=data["batch_size"],
        first_step=step,
        flip=data["flip"],
        crop=data["crop"],
        host=jax.process_index(),
        num_hosts=jax.process_count(),
        num_workers=data["num_workers"],
    )


def _make_loop(config: Mapping[str, Any], writer: Any, **actions: Callable) -> Any:
    from gen_jax.train.loop import Loop
    from gen_jax.train.writer import write_images, write_metrics

    options = config["train"]
    return Loop(
        steps=options["steps"],
        log_every=options["log_every"],
        inspect_every=options["sample_every"],
        save_every=options["save_every"],
        max_bad_steps=options["max_bad_steps"],
        report=lambda step, metrics: write_metrics(writer, step, metrics),
        show=lambda step, images: write_images(writer, step, images),
        **actions,
    )


def open_checked(config: Mapping[str, Any], split: str) -> Any:
    """Open the config's source, and see that its labels are those the model is conditioned on.

    Raises:
        DataError: if the source cannot be opened, or has no labels, or too many.
    """
    from gen_jax.data import open_source

    data = config["data"]
    source = open_source(data["source"], split, tuple(data["shape"]), data["dir"] or None)
    wanted = config["model"].get("num_classes", 0)
    if wanted and (source.num_classes is None or source.num_classes > wanted):
        raise DataError(
            f"{source.name}: {source.num_classes or 'no'} classes, but model.num_classes is "
            f"{wanted}"
        )
    return source


def _make_mesh(config: Mapping[str, Any]) -> Any:
    from gen_jax.train.sharding import make_mesh

    batch = config["data"]["batch_size"]
    try:
        mesh = make_mesh(config["mesh"]["data"])
    except ValueError as error:
        raise ConfigError(str(error)) from error
    parts = mesh.size * config["train"]["microbatches"]
    if batch % parts:
        raise ConfigError(
            f"data.batch_size: {batch} is not a multiple of {parts} ({mesh.size} devices times "
            f"{config['train']['microbatches']} microbatches)"
        )
    return mesh


def _check_data(meta: Mapping[str, Any], fingerprint: str) -> None:
    if meta.get("data") != fingerprint:
        raise DataError(
            f"the training data is not what the checkpoint was trained on: {fingerprint} instead "
            f"of {meta.get('data')}"
        )


def _introduce(
    config: Mapping[str, Any], source: Any, experiment: Any, state: Any, workdir: Path
) -> None:
    import jax

    num_params = sum(x.size for x in jax.tree.leaves(state.params))
    print(
        f"{config['family']}: {num_params:,} parameters; {source.name}: {source.size:,} images of "
        f"{'x'.join(map(str, source.image_shape))}; {jax.device_count()} "
        f"{jax.devices()[0].platform} device(s); {workdir}: "
        + (f"resuming at step {int(state.step)}" if int(state.step) else "starting"),
        flush=True,
    )


def _make_inspect(config: Mapping[str, Any], experiment: Any) -> Callable:
    import numpy as np

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
        )
        return {}, {"samples": grid(images)}

    return inspect
