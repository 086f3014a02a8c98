"""What a model of images and texts is measured by, and ranking images by a text."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gen_jax.data import Source, spread_indices
from gen_jax.data.scenes import COLORS, SHAPES, SIZES, draw_scene, make_scene
from gen_jax.errors import ConfigError, DataError
from gen_jax.files import npz_bytes, png_bytes, write_file
from gen_jax.launch.runs.restore import Trained
from gen_jax.launch.sampling.draw import Draw, conditions_from_data, draw_samples
from gen_jax.launch.sampling.inputs import read_images, read_texts
from gen_jax.ops.rows import map_rows
from gen_jax.pictures import titled
from gen_jax.reading import read_npz

__all__ = [
    "embed_images",
    "embed_texts",
    "measure_embeddings",
    "measure_matching",
    "measure_prompts",
    "run_ranking",
    "scores",
]

_RETRIEVED = 200
_BATCH = 256


def embed_images(trained: Trained, images: np.ndarray) -> np.ndarray:
    """Embed images, uint8 [N, H, W, C], as unit vectors [N, dim]."""
    matching = trained.experiment.model.matching
    assert matching is not None
    run = _compiled(matching.image)
    return map_rows(lambda rows, _: run(trained.weights, rows), images, _BATCH)


def embed_texts(trained: Trained, texts: Sequence[str]) -> np.ndarray:
    """Embed texts as unit vectors [N, dim]; what is too long is cut, and said."""
    model, tokenizer = trained.experiment.model, trained.tokenizer
    assert model.matching is not None
    assert tokenizer is not None
    length = model.inputs["prompt"].shape[0]
    tokens = read_texts(list(texts), tokenizer, length, len(texts))
    run = _compiled(model.matching.text)
    return map_rows(lambda rows, _: run(trained.weights, rows), tokens, _BATCH)


@functools.lru_cache(maxsize=8)
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function)


def scores(trained: Trained, images: np.ndarray, texts: Sequence[str]) -> np.ndarray:
    """Return the cosine between each image and its text, [N]."""
    unique = sorted(set(texts))
    vectors = embed_texts(trained, unique)[[unique.index(text) for text in texts]]
    return np.sum(embed_images(trained, images) * vectors, axis=1)


def measure_matching(trained: Trained, source: Source) -> dict[str, Any]:
    """Measure retrieval among held-out pairs, and of scenes zero-shot classification.

    Args:
        trained: a model with ``matching``.
        source: of held-out images with captions.

    Returns:
        ``retrieval_num`` different captions, of each of which one image is taken;
        ``image_to_text_at_1`` and so on, the share of images whose own caption is the best one, or
        among the five best, and the other way round; of scenes ``zero_shot_all`` and each fact, of
        one thing among all 48 captions, and ``zero_shot_unseen_...`` of the pairs that no training
        scene shows.
    """
    assert source.captions is not None
    chosen: dict[str, int] = {}
    for index in spread_indices(source, 20 * _RETRIEVED):
        chosen.setdefault(source.captions(np.array([index]))[0], int(index))
        if len(chosen) == _RETRIEVED:
            break
    images = source.read(np.array(list(chosen.values())))["image"]
    products = embed_images(trained, images) @ embed_texts(trained, list(chosen)).T
    results: dict[str, Any] = {"retrieval_num": len(chosen)}
    for name, table in (("image_to_text", products), ("text_to_image", products.T)):
        rank = np.sum(table > np.diag(table)[:, None], axis=1)
        results |= {f"{name}_at_{k}": float(np.mean(rank < k)) for k in (1, 5)}
    if source.name.startswith("scenes:"):
        results |= _zero_shot(trained, source.image_shape[0])
    return results


def _zero_shot(trained: Trained, side: int) -> Mapping[str, float]:
    captions = [f"a {z} {c} {s}" for z in SIZES for c in COLORS for s in SHAPES]
    vectors = embed_texts(trained, captions)
    results: dict[str, float] = {}
    for name, held_out in (("zero_shot", False), ("zero_shot_unseen", True)):
        rng = np.random.default_rng([0, held_out])
        scenes = [make_scene(rng, ("single",), held_out=held_out) for _ in range(300)]
        images = np.stack([draw_scene(scene.things, side) for scene in scenes])
        best = np.argmax(embed_images(trained, images) @ vectors.T, axis=1)
        found = np.array([captions[i].split() for i in best])
        right = found == np.array([scene.caption.split() for scene in scenes])
        results[f"{name}_all"] = float(np.mean(right.all(axis=1)))
        for place, fact in enumerate(("size", "color", "shape"), start=1):
            results[f"{name}_{fact}"] = float(np.mean(right[:, place]))
    return results


def measure_prompts(
    trained: Trained, matcher: Trained, draw: Draw, source: Source, num: int
) -> dict[str, float]:
    """Measure how well samples match held-out captions, beside the images of these captions.

    Args:
        trained: what draws.
        matcher: a model with ``matching``.
        draw: with what.
        source: of held-out images with captions.
        num: captions.

    Returns:
        ``clip_score_samples`` and ``clip_score_images``, mean cosines, and of either
        ``r_precision_...``, the share whose own caption is the best among all that differ.
    """
    assert source.captions is not None
    assert trained.tokenizer is not None
    indices = spread_indices(source, num)
    texts = source.captions(indices)
    length = trained.experiment.model.inputs["prompt"].shape[0]
    cond = {"prompt": read_texts(texts, trained.tokenizer, length, len(texts))}
    told = draw._replace(cond=cond)
    model, mesh = trained.experiment.model, trained.mesh
    made = draw_samples(model, trained.weights, told, mesh, len(texts), progress=True)
    unique = sorted(set(texts))
    own = np.array([unique.index(text) for text in texts])
    vectors = embed_texts(matcher, unique)
    results: dict[str, float] = {}
    for name, images in (("samples", made), ("images", source.read(indices)["image"])):
        products = embed_images(matcher, images) @ vectors.T
        results[f"clip_score_{name}"] = float(np.mean(products[np.arange(len(own)), own]))
        results[f"r_precision_{name}"] = float(np.mean(np.argmax(products, axis=1) == own))
    return results


def measure_embeddings(
    trained: Trained, clip: Trained, draw: Draw, source: Source, num: int
) -> dict[str, float]:
    """Measure how near embeddings drawn from captions are to those of their images.

    Args:
        trained: a prior of embeddings.
        clip: whose embeddings they are.
        draw: with what.
        source: of held-out images with captions.
        num: captions.

    Returns:
        Mean cosines with the image's embedding: ``cosine_samples`` of what was drawn,
        ``cosine_shuffled`` of what was drawn for other captions, ``cosine_text`` of the caption's.
    """
    assert source.captions is not None
    model, indices = trained.experiment.model, spread_indices(source, num)
    examples, captions = source.read(indices), source.captions(indices)
    cond = conditions_from_data(model, examples, every_class=False)
    size = len(cond["prompt"])
    told = draw._replace(cond=cond)
    made = draw_samples(model, trained.weights, told, trained.mesh, size, progress=True)
    made = made / np.linalg.norm(made, axis=-1, keepdims=True)
    images, texts = embed_images(clip, examples["image"]), embed_texts(clip, captions)
    other = np.any(cond["prompt"] != np.roll(cond["prompt"], 1, axis=0), axis=1)
    products = {
        "samples": np.sum(made * images, axis=1),
        "shuffled": np.sum(made * np.roll(images, 1, axis=0), axis=1)[other],
        "text": np.sum(texts * images, axis=1),
    }
    return {f"cosine_{name}": float(np.mean(x)) for name, x in products.items()}


def run_ranking(
    trained: Trained, images: Path, out: Path, prompts: Sequence[str], keep: int
) -> None:
    """Write the images that match a text best, the best first, each with its score.

    Args:
        trained: a model with ``matching``.
        images: an npz with ``images``, as ``gen-jax sample`` writes it, or a picture.
        out: PNG with scores under pictures, or an npz with ``images``, ``scores`` and ``indices``.
        prompts: one for all images, one for each, or none: then those of the file, ``prompts``.
        keep: how many; of a file whose images have prompts of their own, of each prompt.

    Raises:
        ConfigError: if the prompts do not belong to the images.
    """
    shape = tuple(trained.config["data"]["shape"])
    num = len(read_npz(images, {"images"}.__contains__)[0].get("images", ())) or 1
    pictures = read_images(images, shape, num)
    texts = list(prompts) or _texts_of(images)
    texts = texts * num if len(texts) == 1 else texts
    if len(texts) != num:
        raise ConfigError(f"--prompts: got {len(texts)}; 1 or {num}, one an image, are required")
    rated = scores(trained, pictures, texts)
    order: list[int] = []
    for text in dict.fromkeys(texts):
        own = np.array([i for i in range(num) if texts[i] == text])
        order += own[np.argsort(-rated[own], kind="stable")][:keep].tolist()
    best = np.array(order)
    if out.suffix == ".npz":
        told = np.array([texts[i] for i in best])
        arrays = {"images": pictures[best], "scores": rated[best], "indices": best, "prompts": told}
        write_file(out, npz_bytes(arrays))
    else:
        titles = [f"{rated[i]:.3f} {texts[i]}" for i in best]
        write_file(out, png_bytes(titled(pictures[best], titles)))
    print(f"{len(best)} of {num} images in {out}; scores {rated.min():.3f} to {rated.max():.3f}")


def _texts_of(path: Path) -> list[str]:
    arrays = read_npz(path, {"prompts"}.__contains__)[0]
    if "prompts" not in arrays:
        raise DataError(f"{path}: no prompts; --prompt says what to rank by")
    return [str(text) for text in arrays["prompts"]]
