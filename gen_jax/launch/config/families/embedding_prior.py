"""unCLIP's prior: embeddings of images, drawn from texts.

A cosine schedule, and the embedding itself predicted, as Ramesh et al. 2022 have it.
"""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import Family, integer

__all__ = ["FAMILY"]

_FROZEN: Any = {"change": "frozen"}


def _stage(values: Mapping[str, Any]) -> dict[str, str]:
    if values["stages.clip"]:
        return {}
    what = "the work directory of a run of family 'clip' is required"
    return {"stages.clip": f"got ''; {what}"}


def _heads(values: Mapping[str, Any]) -> dict[str, str]:
    width, heads = values["model.width"], values["model.num_heads"]
    if width % heads:
        return {"model.num_heads": f"got {heads}; a divisor of model.width, {width}, is required"}
    return {}


FAMILY = Family(
    fields={
        **parts.stages("clip"),
        "model.width": integer(1, default=128, **_FROZEN, doc="width of the transformer"),
        "model.depth": integer(1, default=4, **_FROZEN, doc="its layers"),
        "model.num_heads": integer(1, default=4, **_FROZEN, doc="its attention heads"),
        "model.candidates": integer(
            1, 64, default=2, doc="embeddings drawn for a text, of which the best is kept"
        ),
        **{name: field._replace(default=0.1) for name, field in parts.class_dropout().items()},
        **parts.GUIDANCE,
        **parts.TEXT,
        **parts.DTYPE,
    },
    rules=(_stage, _heads, parts.guidance_faults),
    tiny={"model.width": 16, "model.depth": 1, "model.num_heads": 2},
)
