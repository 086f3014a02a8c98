"""Count the modes of stacked digits that samples reach.

python experiments/gan/modes.py --workdir runs/stacked --classifier runs/classifier --num 25600
"""

import argparse
from pathlib import Path

import numpy as np

from gen_jax.evals.classification import judge
from gen_jax.evals.coverage import count_modes
from gen_jax.launch.runs.restore import load_trained, load_weights
from gen_jax.launch.sampling.draw import Draw, draw_samples


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--classifier", type=Path, required=True)
    parser.add_argument("--num", type=int, default=25_600)
    given = parser.parse_args()
    trained, saved = load_trained(given.workdir), load_weights(given.classifier)
    model, draw = trained.experiment.model, Draw(0, {}, batch_size=256)
    images = draw_samples(model, trained.weights, draw, trained.mesh, given.num, progress=True)
    digits = [
        judge(saved.experiment.model, saved.weights, images[..., i : i + 1]).labels
        for i in range(3)
    ]
    modes = count_modes(np.stack(digits, axis=1) @ np.array([100, 10, 1]), 1000)
    reached = f"{modes.reached} of 1,000 modes in {given.num} samples"
    print(f"step {trained.step}: {reached}, KL {modes.kl:.4f}")


if __name__ == "__main__":
    main()
