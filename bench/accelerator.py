"""Training and sampling on whatever device is there: milliseconds, images a second, and MFU.

    python bench/accelerator.py [--steps 30] [--only unet] [--dtypes float32,bfloat16]

Four networks of the shipped configs, one batch that stays on the device, so that only the step is
timed: DDPM's U-Net and a DiT on 32x32 color images, the VQ-VAE, and a causal transformer over a
first stage's grid. MFU is the arithmetic that `gen-jax plan` counts (matrix products and
convolutions of forward and backward pass) over the vendor's bfloat16 peak, for both precisions.
Steps are dispatched one after another and waited for at the end, as the training loop does. Prints
a table, and one JSON line a row to --out.
"""

import argparse
import json
import time

import jax
import numpy as np

from gen_jax.launch.build.experiment import build
from gen_jax.launch.config.files import load_config
from gen_jax.launch.planning.cost import count_flops
from gen_jax.launch.planning.hardware import HARDWARE
from gen_jax.ops import keys as rng
from gen_jax.protocols import Weights
from gen_jax.train.engines import make_engine
from gen_jax.train.sharding import make_mesh
from gen_jax.train.step import make_train_step

DIT = ("model.network=dit", "model.num_classes=10", "diffusion.schedule=flow")
NETWORKS = {
    "unet": ("ddpm_cifar10", (), 128, {"steps": 50}),
    "dit": ("ddpm_cifar10", (*DIT, "diffusion.prediction=velocity"), 256, {"steps": 50}),
    "vqvae": ("vqvae_cifar10", (), 256, None),
    "transformer": ("transformer_cifar10", ("data.shape=(16,16,1)", "model.remat=none"), 64, {}),
}


def peak_of(device):
    """Give the vendor's peak of a device by its name; None where it is not in the table."""
    kind = device.device_kind.lower().replace(" ", "")
    found = [hardware for name, hardware in HARDWARE.items() if name in kind]
    return found[0].peak_flops if found else None


def best_of(run, repeats=3):
    """Give the seconds of the fastest of some runs, and of the slowest over it."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds), max(seconds) / min(seconds)


def measure(name, dtype, steps):
    """Train and sample one network."""
    config_name, overrides, batch_size, sampling = NETWORKS[name]
    base = load_config(f"configs/{config_name}.py", list(overrides))
    if "dtype" in base["model"]:
        overrides = (*overrides, f"model.dtype={dtype}")
    elif dtype != "float32":
        return None
    config = load_config(f"configs/{config_name}.py", list(overrides))
    experiment = build(config)
    model = experiment.model
    engine = make_engine("jit", model, experiment.optimizers, make_mesh(devices=jax.devices()[:1]))
    images = np.random.default_rng(0).integers(
        0, 256, (batch_size, *config["data"]["shape"]), np.uint8
    )
    labels = np.arange(batch_size, dtype=np.int32) % 10
    batch, key = engine.put({"image": images, "label": labels}), engine.key(0)
    frozen = engine.place(experiment.frozen)
    state = engine.init(key, batch, frozen)
    shapes = jax.eval_shape(lambda *x: x, state, frozen, batch, key)
    traced = jax.make_jaxpr(make_train_step(model, experiment.optimizers))(*shapes)
    flops = count_flops(traced.jaxpr)
    start = time.perf_counter()
    step = engine.compile(state, frozen, batch, key)
    compile_s = time.perf_counter() - start
    memory = step.memory_analysis()

    def train():
        nonlocal state
        for _ in range(steps):
            state, metrics = step(state, frozen, batch, key)
        jax.block_until_ready(metrics)

    train()
    seconds, spread = best_of(train)
    seconds /= steps
    peak = peak_of(jax.devices()[0])
    row = {
        "network": name,
        "dtype": dtype,
        "device": jax.devices()[0].device_kind,
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "batch": batch_size,
        "compile_s": round(compile_s, 1),
        "step_ms": round(1e3 * seconds, 2),
        "spread": round(spread, 3),
        "images_per_s": round(batch_size / seconds),
        "tflops_per_s": round(flops / seconds / 1e12, 1),
        "mfu": round(flops / seconds / peak, 3) if peak else None,
        "temporary_mb": round(memory.temp_size_in_bytes / 1e6) if memory else None,
    }
    if sampling is not None:
        keys = rng.per_example(key, 0, 64)
        cond = {"label": labels[:64]} if "label" in model.inputs else {}
        weights = Weights(state.params, state.stats, frozen)
        draw = jax.jit(lambda *given: model.sampler.draw(*given, **sampling))
        start = time.perf_counter()
        jax.block_until_ready(draw(weights, keys, cond))
        row["sample_compile_s"] = round(time.perf_counter() - start, 1)
        seconds, spread = best_of(lambda: jax.block_until_ready(draw(weights, keys, cond)))
        row |= {"sampled_per_s": round(64 / seconds, 1), "sample_spread": round(spread, 3)}
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--only", default=",".join(NETWORKS))
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}", flush=True)
    for name in arguments.only.split(","):
        for dtype in arguments.dtypes.split(","):
            row = measure(name, dtype, arguments.steps)
            if row is None:
                continue
            print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            if arguments.out:
                with open(arguments.out, "a") as file:
                    file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
