"""CLIP: how well images and texts match."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gen_jax.codecs import rgb, with_codec
from gen_jax.launch.build.experiment import Experiment, Stage1, make_optimizer
from gen_jax.launch.build.texts import make_text
from gen_jax.models.clip import clip_model
from gen_jax.nn.vit import ViT

__all__ = ["build"]


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizer."""
    del stage1
    clip: dict[str, Any] = {}
    if values["model.network"] == "clip":
        clip = {"class_token": True, "norm_in": True, "activation": "quick_gelu"}
    image = ViT(
        values["data.shape"][0],
        **clip,
        dtype=jnp.dtype(values["model.dtype"]),
        **{name: values[f"model.{name}"] for name in ("patch", "width", "depth", "num_heads")},
    )
    model = clip_model(
        image,
        make_text(values)["text"],
        values["model.dim"],
        values["text.length"],
        values["model.loss"],
    )
    return Experiment(with_codec(model, rgb()), {"net": make_optimizer(values)})
