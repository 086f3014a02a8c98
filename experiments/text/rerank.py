"""How much a choice by CLIP among eight samples helps, by the exact judge of scenes.

python experiments/text/rerank.py --workdir runs/dalle --clip runs/clip --prompts 60
"""

import argparse
from pathlib import Path

import numpy as np

from gen_jax.data.scenes import KINDS, make_scene
from gen_jax.evals.scenes import rate_scenes
from gen_jax.launch.commands.matching import scores
from gen_jax.launch.runs.restore import load_trained
from gen_jax.launch.sampling.draw import Draw, draw_samples
from gen_jax.launch.sampling.inputs import read_texts


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--num", type=int, default=8)
    given = parser.parse_args()
    trained, clip = load_trained(given.workdir), load_trained(given.clip)
    length = trained.experiment.model.inputs["prompt"].shape[0]
    print("| pairs | all facts right: any sample | best of eight by CLIP |\n| --- | --- | --- |")
    for name, held_out in (("shown in training", False), ("never shown", True)):
        rng = np.random.default_rng([1, held_out])
        captions = [
            make_scene(rng, (KINDS[i % len(KINDS)],), held_out=held_out).caption
            for i in range(given.prompts)
        ]
        texts = [text for text in captions for _ in range(given.num)]
        cond = {"prompt": read_texts(texts, trained.tokenizer, length, len(texts))}
        draw = Draw(1, {}, cond)
        model, weights = trained.experiment.model, trained.weights
        images = draw_samples(model, weights, draw, trained.mesh, len(texts), progress=True)
        rated = scores(clip, images, texts).reshape(-1, given.num)
        best = images.reshape(given.prompts, given.num, *images.shape[1:])[
            np.arange(given.prompts), rated.argmax(axis=1)
        ]
        before, after = rate_scenes(images, texts)["all"], rate_scenes(best, captions)["all"]
        print(f"| {name} | {before:.3f} | {after:.3f} |", flush=True)


if __name__ == "__main__":
    main()
