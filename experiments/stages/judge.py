"""Judge what CLIP alone leads to: guided diffusion that is told no text, and VQGAN+CLIP.

    python experiments/stages/judge.py --clip runs/clip --diffusion runs/text --vqvae runs/vqvae

Of each of the 48 captions ``a SIZE COLOR SHAPE`` some images; facts by the judge of scenes, and the
mean cosine that CLIP itself gives, which such images are made to please.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.codecs import rgb
from gen_jax.data.scenes import COLORS, SHAPES, SIZES
from gen_jax.evals.scenes import rate_scenes
from gen_jax.files import png_bytes, write_file
from gen_jax.launch.commands.matching import scores
from gen_jax.launch.runs.restore import load_trained
from gen_jax.launch.sampling.draw import Draw, draw_samples
from gen_jax.launch.sampling.guidance import with_clip
from gen_jax.launch.sampling.inputs import read_texts
from gen_jax.models.dream import dream
from gen_jax.ops import keys as rng
from gen_jax.pictures import titled

CAPTIONS = [f"a {z} {c} {s}" for z in SIZES for c in COLORS for s in SHAPES]


def told(name, images, captions, clip):
    rated = rate_scenes(images, captions)
    cosine = float(np.mean(scores(clip, images, captions)))
    cells = [rated["color"], rated["shape"], rated["size"], rated["all"], cosine]
    print(f"| {name} | {' | '.join(f'{x:.2f}' for x in cells)} |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--clip", type=Path, required=True)
    parser.add_argument("--diffusion", type=Path)
    parser.add_argument("--vqvae", type=Path)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--each", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("judged.png"))
    given = parser.parse_args()
    captions = CAPTIONS * given.each
    clip = load_trained(given.clip)
    length = clip.experiment.model.inputs["prompt"].shape[0]
    tokens = read_texts(captions, clip.tokenizer, length, len(captions))
    print("| | color | shape | size | all | cosine |\n| --- | --- | --- | --- | --- | --- |")
    if given.diffusion:
        trained, _ = with_clip(load_trained(given.diffusion), given.clip)
        model = trained.experiment.model
        size = model.inputs["prompt"].shape[0]
        null = read_texts([""], trained.tokenizer, size, len(captions))
        cond = {"prompt": null, "target": tokens}
        for scale in given.scales:
            draw = Draw(0, {"guidance": 1.0, "clip_scale": scale}, cond)
            made = draw_samples(model, trained.weights, draw, trained.mesh, len(captions))
            told(f"diffusion told nothing, scale {scale:g}", made, captions, clip)
        write_file(given.out, png_bytes(titled(made[:16], captions[:16])))
    if given.vqvae:
        first = load_trained(given.vqvae)
        latents, keys = first.experiment.model.latents, rng.per_example(jax.random.key(0), 0, 48)
        images = jnp.zeros((1, *first.config["data"]["shape"]), jnp.uint8)
        shape = jax.eval_shape(lambda: latents.encode(first.weights, images, {})).shape[1:]
        codes = jax.vmap(lambda k: jax.random.randint(k, shape, 0, latents.num_codes))(keys)
        matching = clip.experiment.model.matching

        @jax.jit
        def run(weights, theirs, codes, keys):
            vectors = latents.vectors(weights, codes)
            made = dream(
                latents, weights, matching, theirs, jnp.asarray(tokens[:48]), vectors, keys,
                side=24, steps=300,
            )  # fmt: skip
            return rgb().decode({}, made.x)

        made = np.asarray(run(first.weights, clip.weights, codes, keys))
        told("VQ-VAE + CLIP, 300 steps", made, captions[:48], clip)
        name = given.out.with_name(f"{given.out.stem}_dream.png")
        write_file(name, png_bytes(titled(made[::3], captions[:48:3])))


if __name__ == "__main__":
    main()
