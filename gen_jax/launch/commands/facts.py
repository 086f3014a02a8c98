"""How well pictures follow their prompts, where a judge can tell exactly."""

from typing import Any

import numpy as np

from gen_jax.data.scenes import KINDS, make_scene
from gen_jax.evals.scenes import rate_scenes
from gen_jax.launch.runs.restore import Trained
from gen_jax.launch.sampling.draw import Draw, draw_samples
from gen_jax.launch.sampling.inputs import read_texts

__all__ = ["measure_facts"]


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
    scenes = trained.config["data"]["source"].startswith("scenes:")
    if not scenes or trained.tokenizer is None or "prompt" not in trained.experiment.model.inputs:
        return {}
    results: dict[str, Any] = {}
    model = trained.experiment.model
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
