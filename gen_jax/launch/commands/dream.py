"""``gen-jax dream``: images of a text, by descent through a first stage and CLIP."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.codecs import rgb
from gen_jax.errors import ConfigError
from gen_jax.files import film_bytes, npz_bytes, png_bytes, write_file
from gen_jax.launch.runs.restore import Trained
from gen_jax.launch.sampling.inputs import read_images, read_texts
from gen_jax.models.dream import dream
from gen_jax.ops import keys as rng
from gen_jax.pictures import grid
from gen_jax.typing import PyTree

__all__ = ["Request", "run_dream"]

_FRAME_MS = 80


class Request(NamedTuple):
    """What is asked for, as the flags say it."""

    prompt: str
    out: Path
    num: int
    seed: int
    steps: int
    learning_rate: float
    cutouts: int
    image: Path | None = None


def run_dream(trained: Trained, clip: Trained, request: Request) -> None:
    """Make images of a text, and write them, or the film of how they came about.

    Args:
        trained: a first stage of vectors.
        clip: what sees texts in images.
        request: what is asked for.

    Raises:
        ConfigError: if the models cannot do it.
    """
    latents = trained.experiment.model.latents
    matching = clip.experiment.model.matching
    if latents is None or latents.from_vectors is None or latents.vectors is None:
        family = trained.config["family"]
        raise ConfigError(f"--workdir: family {family!r}; 'vqvae' is required")
    if matching is None:
        family = clip.config["family"]
        raise ConfigError(f"--clip: family {family!r}; 'clip' is required")
    shape, theirs = (tuple(x.config["data"]["shape"]) for x in (trained, clip))
    if shape[-1] != theirs[-1]:
        raise ConfigError(f"--clip: of images of {theirs[-1]} channels; {shape[-1]} are required")
    num, side = request.num, theirs[0]
    assert clip.tokenizer is not None
    length = clip.experiment.model.inputs["prompt"].shape[0]
    tokens = jnp.asarray(read_texts([request.prompt], clip.tokenizer, length, num))
    keys = rng.per_example(jax.random.key(request.seed), 0, num)
    image = None
    if request.image is not None:
        image = jnp.asarray(read_images(request.image, shape, num))

    @jax.jit
    def begin(keys: jax.Array) -> PyTree:
        assert latents is not None
        assert latents.vectors is not None
        if image is not None and latents.encode is not None:
            codes = latents.encode(trained.weights, image, {})
        else:
            codes = _random_codes(trained, keys)
        return latents.vectors(trained.weights, codes)

    run = jax.jit(
        lambda weights, theirs, vectors, keys: dream(
            latents, weights, matching, theirs, tokens, vectors, keys,
            side=side, steps=request.steps, learning_rate=request.learning_rate,
            num_cutouts=request.cutouts,
        )
    )  # fmt: skip
    print(f"{request.steps} steps for {num} images ...", flush=True)
    made = run(trained.weights, clip.weights, begin(keys), keys)
    way = np.asarray(jax.jit(lambda x: rgb().decode({}, x))(made.way))
    cosines = np.asarray(made.cosines)
    _write(request, way, cosines)
    first, last = float(np.mean(cosines[:, 0])), float(np.mean(cosines[:, -1]))
    print(f"cosine with the text: {first:.3f} -> {last:.3f}; in {request.out}", flush=True)


def _random_codes(trained: Trained, keys: jax.Array) -> PyTree:
    """Draw codes alike and independent, in the shape of an image's."""
    latents = trained.experiment.model.latents
    assert latents is not None
    assert latents.encode is not None
    encode, shape = latents.encode, tuple(trained.config["data"]["shape"])
    black = jnp.zeros((1, *shape), jnp.uint8)
    one = jax.eval_shape(lambda: encode(trained.weights, black, {}))

    def draw(key: jax.Array) -> PyTree:
        leaves, tree = jax.tree.flatten(one)
        keys_of = jax.random.split(key, len(leaves))
        sizes = jax.tree.leaves(latents.num_codes)
        rows = zip(keys_of, leaves, sizes, strict=True)
        codes = [jax.random.randint(k, x.shape[1:], 0, size) for k, x, size in rows]
        return jax.tree.unflatten(tree, codes)

    return jax.vmap(draw)(keys)


def _write(request: Request, way: np.ndarray, cosines: np.ndarray) -> None:
    out = request.out
    if out.suffix == ".npz":
        prompts = np.array([request.prompt] * len(way))
        arrays = {"images": way[:, -1], "way": way, "cosines": cosines, "prompts": prompts}
        write_file(out, npz_bytes(arrays))
    elif out.suffix == ".png":
        write_file(out, png_bytes(grid(way[:, -1])))
    else:
        frames = [grid(moment) for moment in np.swapaxes(way, 0, 1)]
        times = [_FRAME_MS] * (len(frames) - 1) + [1500]
        kind = {".gif": "GIF", ".webp": "WEBP"}[out.suffix]
        write_file(out, film_bytes(frames, times, kind))
