"""Judge digits by what was never trained on them: a classifier of real digits, and real digits.

    python experiments/ddpm_digits/judge.py runs/digits --guidance 1 1.2 2

Of 898 samples: the share in which a small perceptron, trained on 1,200 real digits, is more than
0.9 sure; the share that it takes for their class, if they have one; and the Frechet distance of
their pixels to all real digits, over that of two halves of the real ones.
"""

import argparse

import numpy as np
from scipy.linalg import sqrtm
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

import gen_jax


def frechet(one, other):
    means, covariances = zip(*((x.mean(0), np.cov(x.T)) for x in (one, other)), strict=True)
    root = sqrtm(covariances[0] @ covariances[1]).real
    difference = means[0] - means[1]
    return float(difference @ difference + np.trace(covariances[0] + covariances[1] - 2 * root))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("workdir")
    parser.add_argument("--guidance", type=float, nargs="*", default=[])
    given = parser.parse_args()
    digits = load_digits()
    x, y, rng = digits.data / 16, digits.target, np.random.default_rng(0)
    order, halves = rng.permutation(len(x)), rng.permutation(len(x))
    known, held_out = order[:1200], order[1200:]
    judge = MLPClassifier((128,), alpha=1e-3, max_iter=400, random_state=0).fit(x[known], y[known])

    def sure(z):
        return float((judge.predict_proba(z).max(axis=1) > 0.9).mean())

    usual = frechet(x[halves[:898]], x[halves[898:]])
    print("| | sure | of their class | Frechet distance, over that of halves |\n| - | - | - | - |")
    right = judge.score(x[held_out], y[held_out])
    print(f"| 597 real digits, held out | {sure(x[held_out]):.3f} | {right:.3f} | 1 |")
    run = gen_jax.load(given.workdir)
    for scale in given.guidance or [None]:
        z = run.sample(898, seed=1, guidance=scale)[..., 0].reshape(898, -1) / 255
        own = ""
        if "label" in run.inputs:
            own = f"{np.mean(judge.predict(z) == np.arange(898) % 10):.3f}"
        name = "samples" if scale is None else f"guidance {scale:g}"
        print(f"| {name} | {sure(z):.3f} | {own} | {frechet(z, x) / usual:.2f} |", flush=True)


if __name__ == "__main__":
    main()
