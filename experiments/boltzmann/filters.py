"""Show what an RBM's hidden units look for, and how its fantasies go on.

    python experiments/boltzmann/filters.py --workdir runs/rbm --out filters.png

Above 64 filters of the largest norms; below 16 fantasies, a row each after 1, 10, 100 and 1,000
Gibbs steps from chains of training.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from gen_jax.files import png_bytes, write_file
from gen_jax.launch.runs.restore import load_trained
from gen_jax.ops import keys as rng
from gen_jax.pictures import grid

STEPS = (1, 10, 100, 1000)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    trained = load_trained(given.workdir)
    shape = tuple(trained.config["data"]["shape"])
    weight = np.asarray(trained.weights.params["net"]["weight"]).T
    largest = np.argsort(-np.linalg.norm(weight, axis=1))[:64]
    filters = weight[largest] / np.abs(weight[largest]).max(axis=1, keepdims=True)
    filters = np.round(127.5 * (filters + 1)).astype(np.uint8).reshape(-1, *shape)
    model, keys = trained.experiment.model, rng.per_example(jax.random.key(0), 0, 16)
    draw = jax.jit(lambda steps: model.sampler.draw(trained.weights, keys, {}, steps=steps))
    fantasies = np.concatenate([np.asarray(draw(steps)) for steps in STEPS])
    write_file(given.out, png_bytes(grid(np.concatenate([filters, fantasies]), 16)))


if __name__ == "__main__":
    main()
