"""What each engine costs, and how far its numbers are from those of one device.

    python bench/engines.py [--config configs/ddpm_digits.py] [--steps 20]

All host devices share this machine's cores, so nothing can become faster with more of them: the
ratio of a step's time to that of jit on one device, at the same global batch, is overhead. Rounds
go through all layouts in turn and the median is taken, so that a busy machine disturbs them alike.
"""

import argparse
import json
import statistics
import time

import jax
import numpy as np
import optax

from gen_jax.launch.build.experiment import build
from gen_jax.launch.config.files import load_config
from gen_jax.train.engines import make_engine
from gen_jax.train.sharding import Rules, make_mesh

LAYOUTS = [("jit", 1, {})]
LAYOUTS += [(name, n, {}) for n in (2, 4, 8) for name in ("jit", "shard_map", "pmap")]
LAYOUTS += [("jit", n, {"fsdp": n}) for n in (2, 4, 8)]
LAYOUTS += [("jit", 4, {"fsdp": 2}), ("jit", 8, {"fsdp": 2, "tensor": 2})]


def main() -> None:
    """Print a table, and JSON after it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/ddpm_digits.py")
    parser.add_argument("--steps", type=int, default=10, help="of each layout in each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", 8)
    config = load_config(options.config, [])
    experiment = build(config)
    size, shape = config["data"]["batch_size"], config["data"]["shape"]
    image = np.random.default_rng(0).integers(0, 256, (size, *shape), np.uint8)
    host = {"image": image, "label": np.zeros(size, np.int32)}
    sgd = {player: optax.sgd(1e-3) for player in experiment.optimizers}

    jobs = []
    for name, num, axes in LAYOUTS:
        mesh = make_mesh(devices=jax.devices()[:num], **axes)
        rules = Rules(experiment.tensor_dims, min_size=1024)
        engine = make_engine(name, experiment.model, sgd, mesh, rules)
        batch, key = engine.put(host), engine.key(0)
        state, frozen = engine.init(key, batch), engine.place(experiment.frozen)
        start = time.perf_counter()
        step = engine.compile(state, frozen, batch, key)
        took = time.perf_counter() - start
        for _ in range(10):
            state, _ = step(state, frozen, batch, key)
        jobs.append(
            {
                "layout": (name, num, axes),
                "compile_s": took,
                "params": jax.device_get(state.params),
                "run": (step, frozen, batch, key),
                "state": state,
                "times": [],
            }
        )
    for _ in range(options.rounds):
        for job in jobs:
            step, frozen, batch, key = job["run"]
            start = time.perf_counter()
            for _ in range(options.steps):
                job["state"], _ = step(job["state"], frozen, batch, key)
            jax.block_until_ready(job["state"])
            job["times"].append((time.perf_counter() - start) / options.steps)

    rows = []
    for job in jobs:
        ratios = [
            t / reference for t, reference in zip(job["times"], jobs[0]["times"], strict=True)
        ]
        errors = jax.tree.map(
            lambda a, b: float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-6)),
            job["params"],
            jobs[0]["params"],
        )
        name, num, axes = job["layout"]
        rows.append(
            {
                "engine": name,
                "devices": num,
                "mesh": axes,
                "ratio": statistics.median(ratios),
                "worst_error": max(jax.tree.leaves(errors)),
                "compile_s": job["compile_s"],
            }
        )
        print(
            f"{name:10} {num} {axes!s:28} {rows[-1]['ratio']:6.2f} x  parameters after 10 SGD "
            f"steps: {rows[-1]['worst_error']:.1e}  compiled in {job['compile_s']:.1f} s",
            flush=True,
        )
    median = statistics.median(jobs[0]["times"]) * 1e3
    print(f"jit on one device: {median:.0f} ms a step")
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
