"""One training step and one run of 50 DDIM steps of ours, beside ``bench/diffusers_torch.py``.

The weights are those that the other program read, the start of the samples is its own, and so the
samples must agree; the ratio of the times of the two programs is the result.

    gen-jax export --workdir W --to EXPORTED
    python bench/diffusers_torch.py --model EXPORTED --out torch.npz > torch.json
    python bench/diffusers_jax.py --workdir W --theirs torch.json --samples torch.npz
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gen_jax import diffusion as process
from gen_jax.launch.build.families.diffusion import make_network
from gen_jax.launch.build.processes import make_schedule
from gen_jax.launch.config.fields import flatten
from gen_jax.launch.config.schema import fields_of
from gen_jax.launch.runs.restore import load_weights
from gen_jax.ops import keys as rng


def best_of(repeats, action):
    times = []
    for _ in range(repeats + 1):  # the first compiles
        begin = time.perf_counter()
        jax.block_until_ready(action())
        times.append(time.perf_counter() - begin)
    return sorted(times[1:])[repeats // 2]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--theirs", type=Path, required=True)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    flags = parser.parse_args()
    theirs = json.loads(flags.theirs.read_text())
    saved = load_weights(flags.workdir)
    fields = fields_of("diffusion")
    values = {name: fields[name].kind(x) for name, x in flatten(saved.config).items()}
    network = make_network(values, tuple(saved.config["data"]["shape"]))
    schedule, _ = make_schedule(values)
    params = {"params": jax.device_put(saved.params["net"])}
    with np.load(flags.samples) as arrays:
        start = jnp.asarray(np.moveaxis(arrays["start"], 1, -1))
        reference, index = np.moveaxis(arrays["samples"], 1, -1), arrays["times"]
    # What diffusers calls index i is the network's own number of a step.
    offset = -values["model.time_offset"]
    times = np.append((index + offset) / 1000, 0).astype(np.float32)
    keys = rng.per_example(jax.random.key(0), 0, len(start))

    @jax.jit
    def sample(params, start):
        denoise = process.denoiser(
            lambda x, t: network.apply(params, x, t), schedule, process.epsilon
        )
        if values["diffusion.clip"]:
            denoise = process.clip_x_0(denoise, schedule)
        return process.integrate(denoise, schedule, process.ddim(), times, start, keys)

    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-5))

    def train(params, opt, x, t, eps):
        def loss(params):
            apply = lambda x_t, t: network.apply(params, x_t, t)  # noqa: E731
            return process.denoising_loss(apply, schedule, process.epsilon, x, t, eps).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt = tx.update(grads, opt)
        return optax.apply_updates(params, updates), opt, value

    compiled = jax.jit(train, donate_argnums=(0, 1))
    difference = float(np.abs(sample(params, start) - reference).max())
    ours = {"sample_s": best_of(flags.repeats, lambda: sample(params, start))}
    carried = [jax.tree.map(jnp.copy, params), tx.init(params)]
    t = jnp.asarray(np.random.default_rng(0).integers(1, 1000, len(start)) / 1000, jnp.float32)

    def step():
        *carried[:], value = compiled(*carried, start, t, start)
        return value

    ours["train_step_s"] = best_of(flags.repeats, step)
    print(
        json.dumps(
            {
                "device": str(jax.devices()[0].device_kind),
                "batch": len(start),
                "largest_difference_of_samples": difference,
                **{f"ours_{name}": round(x, 4) for name, x in ours.items()},
                **{f"torch_{name}": round(theirs[name], 4) for name in ours},
                **{f"torch_over_ours_{n[:-2]}": round(theirs[n] / x, 3) for n, x in ours.items()},
                "jax": jax.__version__,
                "torch": theirs["torch"],
            }
        )
    )


if __name__ == "__main__":
    main()
