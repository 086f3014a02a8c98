"""How time and memory grow: with batches, samples, parameters and images.

    python experiments/performance/growth.py [--quick] [--only batches,commands]

Each table is the fastest of several; commands run in processes of their own, whose largest memory
is theirs alone.
"""

import argparse
import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

from gen_jax.data import open_source, train_batches
from gen_jax.launch.build.experiment import build
from gen_jax.launch.config.files import load_config
from gen_jax.launch.sampling.draw import Draw, draw_samples
from gen_jax.protocols import Weights
from gen_jax.train import checkpoint
from gen_jax.train.engines import jit_engine
from gen_jax.train.integrity import inspect_leaves
from gen_jax.train.sharding import make_mesh

ROOT = Path(__file__).parents[2]
# 1.6 M and 35.7 M parameters of one family, from the paper's network.
SMALL = ("model.channels=32", "model.multipliers=(1,2,2)", "data.source=synthetic:32x32x3")
LARGE = ("data.source=synthetic:32x32x3",)


def fastest(run, seconds=3.0, least=3):
    run()
    best, end, num = float("inf"), time.perf_counter() + seconds, 0
    while time.perf_counter() < end or num < least:
        start = time.perf_counter()
        run()
        best, num = min(best, time.perf_counter() - start), num + 1
    return best


def started(overrides, batch):
    """Make what trains: its step as a function, and a box with its state."""
    config = load_config(str(ROOT / "configs/ddpm_cifar10.py"), list(overrides))
    experiment = build(config)
    engine = jit_engine(experiment.model, experiment.optimizers, make_mesh())
    rows = next(iter(train_batches(source(), batch_size=batch, seed=0)))
    key, rows = engine.key(0), engine.put(rows)
    state = [engine.init(key, rows, {})]
    step = engine.compile(state[0], {}, rows, key)

    def run():
        state[0], metrics = step(state[0], {}, rows, key)
        jax.block_until_ready(metrics)

    return experiment, run, state


@functools.cache
def source():
    return open_source("synthetic:32x32x3", "train", (32, 32, 3))


def batches(sizes):
    print("| images at once | training, ms an image | 20 steps of DDIM, ms an image |")
    print("| --- | --- | --- |")
    for size in sizes:
        experiment, run, state = started(SMALL, size)
        weights = Weights(state[0].params, state[0].stats, {})
        draw = Draw(0, {"steps": 20}, {}, size)
        drawing = functools.partial(
            draw_samples, experiment.model, weights, draw, make_mesh(), size
        )
        sampled, trained = fastest(drawing), fastest(run)
        print(f"| {size} | {1e3 * trained / size:.2f} | {1e3 * sampled / size:.1f} |", flush=True)


def parameters(networks):
    print("| parameters | state, MB | digests, s | save, s | restore and verify, s |")
    print("| --- | --- | --- | --- | --- |")
    for overrides in networks:
        _, _, (state,) = started(overrides, 2)
        num = sum(x.size for x in jax.tree.leaves(state.params))
        digests = fastest(lambda state=state: inspect_leaves(state), 2)
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
        )
        with (
            tempfile.TemporaryDirectory() as folder,
            checkpoint.open_checkpoints(Path(folder)) as manager,
        ):
            start = time.perf_counter()
            checkpoint.save(manager, state, {}, wait=True)
            saved = time.perf_counter() - start
            step = int(state.step)
            restore = functools.partial(checkpoint.restore, Path(folder), step, abstract)
            restored = fastest(restore, 2, 2)
        size = checkpoint.state_bytes(state) / 1e6
        print(
            f"| {num / 1e6:.1f} M | {size:.0f} | {digests:.2f} | {saved:.2f} | {restored:.2f} |",
            flush=True,
        )


def command(*line):
    """Run a command; its seconds and its largest memory in MB."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "gen_jax", *map(str, line)], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{line}: failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1e3


def commands(folder, nums):
    work, out = folder / "digits", folder / "x.npz"
    config = ROOT / "configs/ddpm_digits.py"
    command("train", "--config", config, "--workdir", work, "--config.train.steps=60")
    print("| images | `sample --steps 20`, s | largest memory, MB | `evaluate --num`, s | MB |")
    print("| --- | --- | --- | --- | --- |")
    for num in nums:
        line = ["sample", "--workdir", work, "--out", out, "--steps", 20, "--num", num]
        command(*line)
        sampled, held = command(*line)
        line = ["evaluate", "--workdir", work, "--num", num]
        judged, most = command(*line)
        print(f"| {num} | {sampled:.1f} | {held:.0f} | {judged:.1f} | {most:.0f} |", flush=True)


def pipeline():
    print("| a batch of 128, 32x32x3 | ms |")
    print("| --- | --- |")
    stream = iter(train_batches(source(), batch_size=128, seed=0))
    for _ in range(20):
        next(stream)
    start = time.perf_counter()
    for _ in range(1000):
        next(stream)
    print(f"| the pipeline makes it in | {time.perf_counter() - start:.2f} |")
    _, run, _ = started(SMALL, 128)
    print(f"| the small U-Net's training step takes | {1e3 * fastest(run):.0f} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="two sizes of each")
    parser.add_argument("--only", default="batches,parameters,commands,pipeline")
    given = parser.parse_args()
    quick, only = given.quick, given.only.split(",")
    print(f"jax {jax.__version__}, {os.cpu_count()} cores, {time.strftime('%d %B %Y')}")
    if "batches" in only:
        print()
        batches((1, 4) if quick else (1, 2, 4, 8, 16, 32, 64))
    if "parameters" in only:
        print()
        parameters((SMALL,) if quick else (SMALL, LARGE))
    if "commands" in only:
        print()
        with tempfile.TemporaryDirectory() as folder:
            commands(Path(folder), (16, 64) if quick else (64, 250, 1000, 4000))
    if "pipeline" in only:
        print()
        pipeline()


if __name__ == "__main__":
    main()
