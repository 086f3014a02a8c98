"""Score translations of the held-out emoji against the truth.

    python experiments/translation/score.py --workdir runs/pix2pix --data emoji_google.npz

L1 is the mean absolute difference of pixels from 0 to 1; a partner is found if, of all held-out
targets, its own is nearest to the translation. Beside it stand the source itself, and the target of
the training source that is nearest (in pixels).
"""

import argparse
from pathlib import Path

import numpy as np

from gen_jax.evals.coverage import nearest
from gen_jax.files import png_bytes, write_file
from gen_jax.launch.commands.translate import told_image
from gen_jax.launch.runs.restore import load_trained
from gen_jax.launch.sampling.draw import Draw, draw_samples
from gen_jax.pictures import grid


def flat(images):
    return images.reshape(len(images), -1) / 255


def told(name, made, target):
    index, _ = nearest(flat(made), flat(target))
    found = float(np.mean(index == np.arange(len(target))))
    l1 = float(np.abs(flat(made) - flat(target)).mean())
    print(f"| {name} | {l1:.4f} | {found:.3f} |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    with np.load(given.data) as file:
        data = {name: file[name] for name in file.files}
    source, target = data["source_test"], data["x_test"]
    trained = load_trained(given.workdir)
    draw = Draw(0, {}, {told_image(trained): source})
    made = draw_samples(trained.experiment.model, trained.weights, draw, trained.mesh, len(source))
    print("| | L1 | partner found |\n| --- | --- | --- |")
    told("the source itself", source, target)
    index, _ = nearest(flat(source), flat(data["source_train"]))
    told("target of the nearest training source", data["x_train"][index], target)
    told(f"{given.workdir.name}, step {trained.step}", made, target)
    if given.out is not None:
        shown = np.random.default_rng(1).choice(len(source), 16, replace=False)
        rows = np.concatenate([source[shown], made[shown], target[shown]])
        write_file(given.out, png_bytes(grid(rows, 16)))


if __name__ == "__main__":
    main()
