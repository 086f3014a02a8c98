"""What a config says of texts: their tokens, and the network that reads them."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gen_jax.data.text import BYTES
from gen_jax.nn.text import TextTransformer

__all__ = ["make_text", "width_of"]


def make_text(values: Mapping[str, Any]) -> dict[str, Any]:
    """Make the arguments of a model that is told a text; none where it is told none."""
    if values["text.tokenizer"] == "none":
        return {}
    names = ("length", "width", "depth", "num_heads")
    network = TextTransformer(
        values["text.vocabulary"],
        **{name: values[f"text.{name}"] for name in names},
        end=BYTES.end,
        dtype=jnp.dtype(values["model.dtype"]),
    )
    return {"text": network, "null_text": BYTES.null(values["text.length"])}


def width_of(values: Mapping[str, Any]) -> int | None:
    """Return the width of a text's vectors, None where there is no text."""
    return None if values["text.tokenizer"] == "none" else values["text.width"]
