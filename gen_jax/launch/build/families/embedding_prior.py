"""unCLIP's prior: embeddings of images, drawn from texts."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gen_jax import diffusion
from gen_jax.codecs import with_codec
from gen_jax.diffusion.schedules import cosine_betas
from gen_jax.launch.build import texts
from gen_jax.launch.build.experiment import (
    NO_STAGES,
    Experiment,
    Stage,
    Stage1,
    make_optimizer,
)
from gen_jax.models.diffusion import diffusion_model
from gen_jax.models.stages import best_of, embeddings
from gen_jax.nn.unclip import EmbeddingTransformer
from gen_jax.protocols import Cond, Weights
from gen_jax.typing import Array

__all__ = ["build"]

NUM_STEPS = 1000


def build(
    values: Mapping[str, Any],
    stage1: Stage1 | None = None,
    stages: Mapping[str, Stage] = NO_STAGES,
) -> Experiment:
    """Build the model and its optimizer, over a run of CLIP."""
    del stage1
    clip = stages["clip"]
    matching, dim = clip.model.matching, texts.dim_of(clip)
    assert matching is not None
    network = EmbeddingTransformer(
        dim,
        **{name: values[f"model.{name}"] for name in ("width", "depth", "num_heads")},
        dtype=jnp.dtype(values["model.dtype"]),
    )
    model = diffusion_model(
        network,
        diffusion.from_betas(cosine_betas(NUM_STEPS)),
        diffusion.x_0,
        shape=(dim,),
        num_steps=NUM_STEPS,
        clip=False,
        **texts.make_text(values, clip),
        class_dropout=values["model.class_dropout"],
        guidance=values["model.guidance"] or None,
    )

    def score(weights: Weights, x: Array, cond: Cond) -> Array:
        return jnp.sum(x * matching.text(weights.frozen["codec"], cond["prompt"]), axis=-1)

    assert model.sampler is not None
    sampler = best_of(model.sampler, score, values["model.candidates"])._replace(gives="vectors")
    told = {name: x for name, x in model.inputs.items() if name not in ("image", "mask")}
    codec = embeddings(matching, dim)
    return Experiment(
        with_codec(model._replace(inputs=told, sampler=sampler, latents=None), codec),
        {"net": make_optimizer(values)},
        frozen={"codec": clip.weights, "text": texts.frozen_text(clip)},
    )
