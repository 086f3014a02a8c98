"""How well pictures follow their prompts, where a judge can tell exactly."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from gen_jax.data import Source, spread_indices
from gen_jax.data.scenes import KINDS, caption_of_film, draw_scene, make_edit, make_scene
from gen_jax.evals.scenes import rate_edits, rate_films, rate_scenes
from gen_jax.launch.runs.restore import Trained
from gen_jax.launch.sampling.draw import Draw, conditions_from_data, draw_samples
from gen_jax.launch.sampling.inputs import read_texts

__all__ = ["measure_edits", "measure_facts", "measure_films", "measure_own_facts"]


def measure_facts(trained: Trained, draw: Draw, num: int) -> dict[str, Any]:
    """Draw samples of captions, and measure which facts they show; nothing of other data.

    Args:
        trained: a model that is told captions of ``scenes``.
        draw: with what.
        num: captions of pairs that training showed, each kind in turn, and as many that begin with
            a pair that it did not.

    Returns:
        Of each fact ``facts_seen_NAME`` and ``facts_unseen_NAME``, the share of pictures of which
        it holds.
    """
    model = trained.experiment.model
    if not _of_scenes(trained) or _needed(trained) != {"prompt"} or trained.tokenizer is None:
        return {}
    results: dict[str, Any] = {}
    for name, held_out in (("seen", False), ("unseen", True)):
        rng = np.random.default_rng([draw.seed, held_out])
        captions = [
            make_scene(rng, (KINDS[i % len(KINDS)],), held_out=held_out).caption for i in range(num)
        ]
        length = model.inputs["prompt"].shape[0]
        cond = {"prompt": read_texts(captions, trained.tokenizer, length, num)}
        told = draw._replace(cond=cond)
        images = draw_samples(model, trained.weights, told, trained.mesh, num, progress=True)
        rated = rate_scenes(images, captions)
        results |= {f"facts_{name}_{fact}": share for fact, share in rated.items()}
    return results


def measure_films(trained: Trained, draw: Draw, num: int) -> dict[str, Any]:
    """Draw films of captions, and measure which facts they show; nothing of other data.

    Args:
        trained: a model that is told captions of ``moving_scenes``, of films or of stills.
        draw: with what.
        num: captions, of pairs that training showed and of such that it did not.

    Returns:
        Of each fact ``film_seen_NAME`` and ``film_unseen_NAME``; of stills without what only films
        can show.
    """
    model = trained.experiment.model
    moving = trained.config["data"]["source"].startswith("moving_scenes:")
    if not moving or _needed(trained) != {"prompt"} or trained.tokenizer is None:
        return {}
    results: dict[str, Any] = {}
    for name, held_out in (("seen", False), ("unseen", True)):
        rng = np.random.default_rng([draw.seed, held_out])
        captions = [caption_of_film(rng, held_out=held_out) for _ in range(num)]
        length = model.inputs["prompt"].shape[0]
        cond = {"prompt": read_texts(captions, trained.tokenizer, length, num)}
        told = draw._replace(cond=cond)
        films = draw_samples(model, trained.weights, told, trained.mesh, num, progress=True)
        still = films.ndim == 4
        rated = dict(rate_films(films[:, None] if still else films, captions))
        for fact in ("direction", "identity", "all") if still else ():
            del rated[fact]
        results |= {f"film_{name}_{fact}": share for fact, share in rated.items()}
    return results


def measure_edits(trained: Trained, draw: Draw, num: int) -> dict[str, Any]:
    """Change scenes by instructions, and measure what was changed and what was kept.

    Args:
        trained: a model that is told a source and an instruction of ``edit_scenes``.
        draw: with what.
        num: of them, that lead to pairs that training showed, and to such that it did not.

    Returns:
        ``edits_seen_NAME`` and ``edits_unseen_NAME``, of :func:`gen_jax.evals.scenes.rate_edits`.
    """
    editing = trained.config["data"]["source"].startswith("edit_scenes:")
    if not editing or _needed(trained) != {"prompt", "source"} or trained.tokenizer is None:
        return {}
    model, side = trained.experiment.model, int(trained.config["data"]["shape"][0])
    length = model.inputs["prompt"].shape[0]
    results: dict[str, Any] = {}
    for name, held_out in (("seen", False), ("unseen", True)):
        rng = np.random.default_rng([draw.seed, held_out])
        edits = [make_edit(rng, held_out=held_out) for _ in range(num)]
        words = [edit.instruction for edit in edits]
        cond = {
            "prompt": read_texts(words, trained.tokenizer, length, num),
            "source": np.stack([draw_scene(edit.before, side) for edit in edits]),
        }
        told = draw._replace(cond=cond)
        made = draw_samples(model, trained.weights, told, trained.mesh, num, progress=True)
        results |= {f"edits_{name}_{fact}": x for fact, x in rate_edits(made, edits).items()}
    return results


def measure_own_facts(trained: Trained, draw: Draw, source: Source, num: int) -> dict[str, Any]:
    """Draw samples that are told an image of the data, and measure whether they show its facts.

    Of what makes images larger: whether the small one's, and how near it they are; of what is told
    an embedding, and then no text: whether the image's.

    Args:
        trained: a model that is told something of ``scenes`` beside captions.
        draw: with what.
        source: of images with captions.
        num: of them.

    Returns:
        Of each fact ``facts_own_NAME``, and ``low_res_error``, the mean difference in gray levels
        between the image that was made larger and the result made small.
    """
    model = trained.experiment.model
    own = [name for name, given in model.inputs.items() if given.derive is not None]
    if not _of_scenes(trained) or not own:
        return {}
    assert source.captions is not None
    indices = spread_indices(source, num)
    examples = source.read(indices)
    inputs = {name: x._replace(needed=x.needed or name in own) for name, x in model.inputs.items()}
    cond = conditions_from_data(model._replace(inputs=inputs), examples, every_class=False)
    if "like" in own and "prompt" in cond and trained.tokenizer is not None:
        length = cond["prompt"].shape[1]
        cond["prompt"] = read_texts([""], trained.tokenizer, length, len(indices))
    told = draw._replace(cond=cond)
    images = draw_samples(model, trained.weights, told, trained.mesh, len(indices), progress=True)
    rated = rate_scenes(images, source.captions(indices))
    results: dict[str, Any] = {f"facts_own_{fact}": share for fact, share in rated.items()}
    if "low_res" in cond and (derive := model.inputs["low_res"].derive) is not None:
        small = [np.asarray(derive(jnp.asarray(x))) for x in (images, examples["image"])]
        results["low_res_error"] = float(np.mean(np.abs(small[0] - small[1]))) * 127.5
    return results


def _of_scenes(trained: Trained) -> bool:
    return bool(trained.config["data"]["source"].startswith("scenes:"))


def _needed(trained: Trained) -> set[str]:
    inputs = trained.experiment.model.inputs
    return {name for name, given in inputs.items() if given.needed}
