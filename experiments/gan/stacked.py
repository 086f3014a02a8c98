"""Stack three digits into one image of three colors: 1,000 modes of equal probability.

    python experiments/gan/stacked.py --data mnist.npz --out stacked.npz

A classifier of single digits names each channel: ``modes.py`` counts (Metz et al. 2017, 3.3).
"""

import argparse

import numpy as np

NUM = {"train": 60_000, "test": 10_000}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    given = parser.parse_args()
    generator, arrays = np.random.default_rng(0), {}
    with np.load(given.data) as file:
        for split, num in NUM.items():
            digits = file[f"x_{split}"]
            rows = generator.integers(0, len(digits), (num, 3))
            arrays[f"x_{split}"] = np.stack([digits[rows[:, i]] for i in range(3)], axis=-1)
    np.savez_compressed(given.out, **arrays)


if __name__ == "__main__":
    main()
