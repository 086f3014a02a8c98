"""What a config says of texts: their tokens, and the network that reads them."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gen_jax.data.text import BYTES, Tokenizer
from gen_jax.launch.build.experiment import Stage
from gen_jax.nn.text import ProjectedText, TextTransformer
from gen_jax.typing import PyTree

__all__ = ["dim_of", "ends_of", "frozen_text", "make_text", "sees_pooled", "width_of"]


def make_text(values: Mapping[str, Any], frozen: Stage | None = None) -> dict[str, Any]:
    """Make the arguments of a model that is told a text; none where it is told none.

    Args:
        values: of the config, by dotted name.
        frozen: whose text encoder reads it, a run of CLIP; None for one of the model's own.
    """
    if values["text.tokenizer"] == "none":
        return {}
    names, size = ("length", "width", "depth", "num_heads"), values["text.vocabulary"]
    ends = ends_of(values)
    clip: dict[str, Any] = {}
    if values["text.network"] == "clip":
        clip = {"causal": True, "activation": "quick_gelu", "pool": "end", "masked": False}
    network = TextTransformer(
        size,
        **{name: values[f"text.{name}"] for name in names},
        end=ends.end,
        dtype=jnp.dtype(values["model.dtype"]),
        **clip,
    )
    null = ends.null(values["text.length"])
    if frozen is None:
        return {"text": network, "null_text": null}
    projected = ProjectedText(network, dim_of(frozen))
    return {"text": projected, "null_text": null, "text_is_frozen": True}


def frozen_text(stage: Stage) -> PyTree:
    """Return the weights of the text encoder of a run of CLIP."""
    net = stage.weights.params["net"]
    return {"text": net["text"], "projection": net["text_projection"]}


def dim_of(stage: Stage) -> int:
    """Return the dimension of the space that a run of CLIP has images and texts in."""
    return int(stage.config["model"]["dim"])


def ends_of(values: Mapping[str, Any]) -> Tokenizer:
    """Return a tokenizer that knows what stands around a text, and nothing of words."""
    if values["text.network"] == "own":
        return BYTES
    size = values["text.vocabulary"]  # of CLIP's the two last ones, and the end fills the rest
    return BYTES._replace(begin=size - 2, end=size - 1, pad=size - 1)


def sees_pooled(values: Mapping[str, Any], frozen: Stage | None = None) -> bool:
    """Return whether a network sees a text's one vector too, beside the sequence."""
    own = values["text.network"] == "own" or frozen is not None
    return values["text.tokenizer"] != "none" and own


def width_of(values: Mapping[str, Any]) -> int | None:
    """Return the width of a text's vectors, None where there is no text."""
    return None if values["text.tokenizer"] == "none" else values["text.width"]
