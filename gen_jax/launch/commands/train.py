"""``gen-jax train``."""

import contextlib
import faulthandler
import itertools
import json
import multiprocessing
import os
import signal
import socket
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen_jax.errors import ConfigError, DataStalledError, NonFiniteError, StorageError
from gen_jax.files import write_file
from gen_jax.launch.build.sources import brings_noise, check_noise, check_source, open_split
from gen_jax.launch.config.files import from_json, to_json, told_by_stage
from gen_jax.launch.config.schema import find_faults
from gen_jax.launch.jobs.processes import agree, is_alone, is_first, stop_signals, together
from gen_jax.launch.report.writing import life, make_reporter
from gen_jax.launch.runs.resume import (
    Resuming,
    adopted,
    check_disk_space,
    check_unchanged,
    put_away,
    resume,
)
from gen_jax.launch.runs.workdir import (
    CLASSES,
    LIVES,
    checkpoint_steps,
    lock,
    make_workdir,
    stage_places,
)

__all__ = ["run_training"]


def run_training(config: Mapping[str, Any], workdir: Path, resuming: Resuming | None = None) -> int:
    """Train as a config says, from the last good checkpoint in the work directory if there is one.

    Of many processes all call this; the first of them writes.

    Args:
        config: without faults.
        workdir: made if it is not there; the same, on a shared file system, for all processes.
        resuming: what the flags said of it.

    Returns:
        0, or 128 plus the number of the signal that ended training after a last checkpoint.

    Raises:
        GenJaxError: see the subclasses.
    """
    resuming = resuming or Resuming()
    with (
        contextlib.ExitStack() as held,
        stop_signals() as (received, stop),
        _stacks_of_a_stall(workdir),
    ):
        if not resuming.from_scratch:
            config = together(lambda: adopted(config, workdir))
        config = together(lambda: told_by_stage(config, _places(config, workdir, resuming)))
        together(lambda: _take(config, workdir, resuming, held))
        together(lambda: _check_shared(workdir))
        _train(config, workdir, resuming, stop, lambda: bool(received))
        return 128 + received[0] if received else 0


def _places(config: Mapping[str, Any], workdir: Path, resuming: Resuming) -> dict[str, Path]:
    """Return where stages are: where a config says, or in the copies of a run that has begun."""
    begun = bool(checkpoint_steps(workdir)) and not resuming.from_scratch
    return {
        name: workdir / name if begun and (workdir / name).is_dir() else Path(place)
        for name, place in stage_places(config).items()
    }


def _take(
    config: Mapping[str, Any], workdir: Path, resuming: Resuming, held: contextlib.ExitStack
) -> None:
    """Make and lock the work directory, in the first process."""
    if not is_first():
        return
    make_workdir(workdir)
    held.enter_context(lock(workdir))
    if resuming.from_scratch:
        put_away(workdir)
    if checkpoint_steps(workdir):
        check_unchanged(config, workdir, resuming.allowed)


def _check_shared(workdir: Path) -> None:
    # The lock names the process that holds it, and so tells this directory from any other.
    path = workdir / ".lock"

    def digest() -> int:
        return zlib.crc32(path.read_bytes() if path.exists() else b"") >> 1

    (first,) = agree([digest()])
    patience = time.monotonic() + 10  # a network's file system may take a moment to show it
    while digest() != first and time.monotonic() < patience:
        time.sleep(0.5)
    if digest() != first:
        raise StorageError(
            f"{workdir}: not the first process's directory; all need one on a shared file system"
        )


def _train(
    config: Mapping[str, Any],
    workdir: Path,
    resuming: Resuming,
    stop: Callable[[int], bool],
    signaled: Callable[[], bool],
) -> None:
    # Here and not above, so that what needs no JAX is refused before it is loaded.
    from gen_jax.launch.build.parallel import build_engine, build_mesh
    from gen_jax.launch.commands.inspection import make_inspect, make_validate
    from gen_jax.launch.runs.restore import load_weights
    from gen_jax.launch.runs.tokens import digest_of, keep_tokenizer, with_text
    from gen_jax.train import checkpoint
    from gen_jax.train.loop import train
    from gen_jax.train.step import turns_of

    mesh = together(lambda: build_mesh(config))
    source = together(lambda: open_split(config, "train"))
    _take_over(config, workdir)
    tokenizer = together(lambda: keep_tokenizer(config, workdir, source, write=is_first()))
    source = with_text(source, tokenizer, config)
    config = together(lambda: _with_coupling(config, workdir, source))
    experiment = _build(config, workdir, source)
    source = _seen_by(experiment.model, source)
    engine = together(lambda: build_engine(config, experiment, mesh))
    experiment = experiment._replace(frozen=engine.place(experiment.frozen))
    key = engine.key(config["seed"])
    folder = workdir / "checkpoints"
    rows = engine.rows(config["data"]["batch_size"])
    target = engine.abstract(engine.inputs(_batch_shapes(config, source))[0], experiment.frozen)
    meta = {"config": config, "data": source.fingerprint, "stage1": experiment.stage1_digest}
    meta |= {"tokenizer": digest_of(tokenizer), "stages": dict(experiment.stage_digests)}
    beginning = None
    if config["train"]["init_from"] and not checkpoint_steps(workdir):
        beginning = together(lambda: load_weights(Path(config["train"]["init_from"]), whole=True))
    resumed = resume(workdir, target, meta, resuming)
    step = resumed[0] if resumed else 0
    with contextlib.ExitStack() as opened:
        manager = opened.enter_context(
            checkpoint.open_checkpoints(folder, keep=config["train"]["keep"])
        )
        # Now that what a crash left has been cleared away.
        together(lambda: check_disk_space(config, workdir, checkpoint.state_bytes(target)))
        # Of several processes none may leave alone.
        interrupted = signaled if is_alone() else lambda: False
        batches = together(lambda: _batches(config, source, step, rows, interrupted))
        opened.callback(batches.close)
        first = together(lambda: next(batches, None))
        if first is None:
            return
        if resumed is not None:
            state = resumed[1]
        else:
            state = _begin(engine, key, first, experiment.frozen, beginning)
        _introduce(config, source, experiment, state, mesh, workdir)
        outputs = together(lambda: _outputs(config, workdir, step, opened))

        loop = _make_loop(
            config,
            **outputs,
            **_saving(manager, meta),
            inspect=together(lambda: make_inspect(config, experiment, source, mesh, tokenizer)),
            validate_every=config["train"]["validate_every"],
            validate=together(lambda: make_validate(config, experiment, tokenizer)),
            stop=stop,
            interrupted=interrupted,
            origin=_origin(config, source),
            turns=turns_of(experiment.model),
            window=_window(config, workdir),
        )
        start = time.perf_counter()
        try:
            state = train(
                engine, state, experiment.frozen, itertools.chain([first], batches), key, loop
            )
        except NonFiniteError as error:
            error.everywhere = True  # all processes see the same numbers
            raise
        print(
            f"step {int(state.step)} of {loop.steps} after "
            f"{time.perf_counter() - start:.1f} s; checkpoints in {folder}",
            flush=True,
        )


def _take_over(config: Mapping[str, Any], workdir: Path) -> None:
    """Take over the stages that a config names, in the first process."""
    from gen_jax.launch.runs.stages import take_over_stages, wait_for_stages

    together(lambda: take_over_stages(config, workdir) if is_first() else None)
    together(lambda: wait_for_stages(config, workdir))


def _build(config: Mapping[str, Any], workdir: Path, source: Any) -> Any:
    """Build the experiment, over the stages it has taken over, and check its data."""
    from gen_jax.launch.build.experiment import build
    from gen_jax.launch.runs.restore import load_stages

    # The same on all, also where it fails.
    stage1, stages = load_stages({name: workdir / name for name in stage_places(config)})
    experiment = build(config, stage1, stages)
    together(lambda: check_source(source, experiment, config))
    together(lambda: check_noise(source, experiment))
    return experiment.with_training_frozen()


# What a model sees beside what it declares; the rest need not travel to the devices.
_SEEN = {"image", "x", "codes", "eps", "weight"}


def _seen_by(model: Any, source: Any) -> Any:
    """Leave out arrays of a source that a model is not told, as labels if it has no classes."""
    read, seen = source.read, _SEEN | set(model.inputs)
    return source._replace(
        read=lambda rows: {name: x for name, x in read(rows).items() if name in seen}
    )


def _with_coupling(config: Mapping[str, Any], workdir: Path, source: Any) -> Mapping[str, Any]:
    """Remember that noise came with the data, which sampling must know ever after."""
    coupled = config.get("diffusion", {}).get("coupled")
    if coupled is not False:
        return config
    saved = workdir / "config.json"
    before = checkpoint_steps(workdir) and saved.exists() and from_json(saved)
    if not (brings_noise(source) or (before and before["diffusion"]["coupled"])):
        return config
    config = {**config, "diffusion": {**config["diffusion"], "coupled": True}}
    if faults := find_faults(config, new=True):
        raise ConfigError("; ".join(map(str, faults)))
    return config


def _begin(engine: Any, key: Any, first: Any, frozen: Any, beginning: Any) -> Any:
    """Make the state of step 0, with another run's weights if there is one to begin with."""
    state = engine.init(key, engine.put(first), frozen)
    return state if beginning is None else _begin_with(beginning, state)


def _begin_with(saved: Any, state: Any) -> Any:
    """Put another run's averaged weights in place of those of step 0."""
    import jax

    from gen_jax.errors import CheckpointError

    def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
        return {jax.tree_util.keystr(path): tuple(x.shape) for path, x in leaves}

    theirs_params, theirs_stats = saved.weights.params, saved.weights.stats
    ours, theirs = shapes(state.params), shapes(theirs_params)
    for name in sorted({*ours, *theirs}):
        if ours.get(name) != theirs.get(name):
            raise CheckpointError(
                f"train.init_from: {name}: {theirs.get(name, 'nothing')}; "
                f"{ours.get(name, 'nothing')} is required"
            )

    def place(leaf: Any, value: Any) -> Any:
        value = np.asarray(value)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, value.__getitem__)

    # Not the same arrays twice: the step gives its arguments' memory away.
    params = jax.tree.map(place, state.params, theirs_params)
    averaged = {player: theirs_params[player] for player in state.ema_params}
    ema_params = jax.tree.map(place, state.ema_params, averaged)
    stats = state.stats
    if shapes(stats) == shapes(theirs_stats):  # codebooks and moments belong to the weights
        stats = jax.tree.map(place, stats, theirs_stats)
    elif jax.tree.leaves(theirs_stats):
        raise CheckpointError(
            "train.init_from: its statistics (codebooks, moments, histories) are not those of this "
            "config"
        )
    print(f"beginning with the averaged weights of step {saved.step}", flush=True)
    return state.replace(params=params, ema_params=ema_params, stats=stats)


def _batch_shapes(config: Mapping[str, Any], source: Any) -> Mapping[str, Any]:
    """Return the shapes of a global batch, from one example."""
    import jax

    from gen_jax.data import read_in_time

    data, index = config["data"], np.zeros(1, np.int64)
    size = data["batch_size"]
    example = together(lambda: read_in_time(source, index, data["on_bad"], data["timeout_s"]))
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), dict(example)
    )


@contextlib.contextmanager
def _stacks_of_a_stall(workdir: Path) -> Iterator[None]:
    """When data does not come, write down where everybody stands, and ask the workers too."""
    try:
        yield
    except DataStalledError as error:
        # Each process its own: all of a job stall in the same second.
        path = workdir / f"stacks-{int(time.time())}-{socket.gethostname()}-{os.getpid()}.txt"
        with contextlib.suppress(OSError), open(path, "w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        for worker in multiprocessing.active_children():
            with contextlib.suppress(OSError):
                os.kill(worker.pid or 0, signal.SIGUSR1)
        time.sleep(4)  # they write to stderr, on a machine that may be busy
        error.args = (f"{error}; where every thread stood is in {path}",)
        raise


def _outputs(
    config: Mapping[str, Any], workdir: Path, step: int, opened: contextlib.ExitStack
) -> Mapping[str, Callable]:
    """Open what the first process writes, until ``opened`` closes; the others write nothing."""
    from gen_jax.launch.build.experiment import learning_rates
    from gen_jax.train.writer import close, open_writer, write_images, write_metrics

    if not is_first():
        return {"report": lambda step, metrics: None, "show": lambda step, images: None}
    write_file(workdir / "config.json", to_json(config).encode())
    with open(workdir / LIVES, "a") as file:
        file.write(json.dumps(life(step)) + "\n")
    page = make_reporter(workdir)
    opened.callback(page, now=True)
    writer = open_writer(workdir, step)
    opened.callback(close, writer)

    rates = learning_rates(config)

    def report(step: int, metrics: Mapping[str, Any]) -> None:
        now = {name: float(rate(step - 1)) for name, rate in rates.items()}
        write_metrics(writer, step, {**now, **metrics})
        page()

    def show(step: int, images: Mapping[str, Any]) -> None:
        write_images(writer, step, images)
        page(now=True)

    return {"report": report, "show": show}


def _batches(
    config: Mapping[str, Any],
    source: Any,
    step: int,
    rows: np.ndarray,
    interrupted: Callable[[], bool],
) -> Iterator[Mapping[str, Any]]:
    from gen_jax.data import feed, train_batches

    data = config["data"]
    batches = train_batches(
        source,
        seed=config["seed"],
        batch_size=data["batch_size"],
        first_step=step,
        flip=data["flip"],
        crop=data["crop"],
        rows=rows,
        num_workers=data["num_workers"],
        skip=data["skip_steps"],
        max_bad_fraction=_bad_fraction(data, source.size) if data["on_bad"] == "skip" else None,
    )
    timeout = data["timeout_s"]
    return feed(batches, name=source.name, timeout_s=timeout, interrupted=interrupted)


def _bad_fraction(data: Mapping[str, Any], size: int) -> float:
    """Return the share of bad examples that is borne: of however few, one, unless none is asked."""
    fraction = data["max_bad_fraction"]
    return max(fraction, 1 / size) if fraction else 0.0


def _origin(config: Mapping[str, Any], source: Any) -> Callable[[int], str]:
    """Make what tells the batch and the examples of a step, as ``data.skip_steps`` counts them."""
    from gen_jax.data import batch_of, examples_of

    data = config["data"]

    def origin(step: int) -> str:
        batch = batch_of(step - 1, data["skip_steps"])
        indices = examples_of(
            batch, size=source.size, seed=config["seed"], batch_size=data["batch_size"]
        )
        indices = indices if source.indices is None else source.indices[indices]
        shown = ", ".join(map(str, indices[:16])) + (", ..." if len(indices) > 16 else "")
        return f"batch {batch + 1}, examples {shown}"

    return origin


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


def _saving(manager: Any, meta: Mapping[str, Any]) -> Mapping[str, Callable]:
    from gen_jax.train import checkpoint

    def save(state: Any, wait: bool) -> None:
        checkpoint.save(manager, state, meta, wait=wait)

    return {
        "save": save,
        "check": lambda: checkpoint.check_saving(manager),
        # Alone only: saving takes all processes, and the others have not failed.
        "rescue": lambda state: save(state, True) if is_alone() else None,
    }


def _window(config: Mapping[str, Any], workdir: Path) -> Any:
    from gen_jax.train.profiling import Window

    options = config["profile"]
    first = options["start"] if is_first() else 0
    return Window(workdir / "profile", first, options["steps"])


def _say_of_data(source: Any) -> None:
    """Say which classes there are, and what was left out."""
    if source.class_names:
        shown = [f"{number} {name}" for number, name in enumerate(source.class_names[:20])]
        more = ["..."] if len(source.class_names) > 20 else []
        print(f"classes: {', '.join([*shown, *more])}", flush=True)
    if source.notes:
        print(f"data: {source.size:,} pictures taken; left out: {source.notes}", flush=True)


def _introduce(
    config: Mapping[str, Any], source: Any, experiment: Any, state: Any, mesh: Any, workdir: Path
) -> None:
    import jax

    if source.class_names and is_first():
        write_file(workdir / CLASSES, (json.dumps(list(source.class_names)) + "\n").encode())
    _say_of_data(source)
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
