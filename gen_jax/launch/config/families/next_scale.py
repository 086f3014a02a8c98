"""VAR: a prior over codes from coarse to fine, a scale at a time."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import Family, integer, number, prefixed
from gen_jax.models.rules import class_dropout_faults

__all__ = ["FAMILY"]

_FROZEN: Any = {"change": "frozen"}


def _heads(values: Mapping[str, Any]) -> dict[str, str]:
    width, heads = values["model.width"], values["model.num_heads"]
    if width % heads:
        return {"model.num_heads": f"got {heads}; a divisor of model.width, {width}, is required"}
    return {}


def _dropout(values: Mapping[str, Any]) -> dict[str, str]:
    conditional = bool(values["model.num_classes"]) or values["text.tokenizer"] != "none"
    dropout = values["model.class_dropout"]
    return prefixed("model", class_dropout_faults(class_dropout=dropout, conditional=conditional))


def _text(values: Mapping[str, Any]) -> dict[str, str]:
    return {} if values["text.tokenizer"] == "none" else parts.text_faults(values)


def _stage1(values: Mapping[str, Any]) -> dict[str, str]:
    if values["stage1"]:
        return {}
    what = "the work directory of a vqvae with model.quantizer 'multi_scale' is required"
    return {"stage1": f"got ''; {what}"}


FAMILY = Family(
    fields={
        **parts.STAGE1,
        "model.width": integer(1, default=128, **_FROZEN, doc="width of the network"),
        "model.depth": integer(1, default=6, **_FROZEN, doc="number of layers"),
        "model.num_heads": integer(1, default=4, **_FROZEN, doc="attention heads"),
        "model.mlp_ratio": integer(
            1, default=4, **_FROZEN, doc="width of the hidden layers, as a multiple of width"
        ),
        "model.dropout": number(0, 1, below=True, default=0.0, doc="dropout rate of activations"),
        **parts.num_classes(),
        **parts.class_dropout("frozen"),
        **parts.TEXT,
        **parts.GUIDANCE,
        **parts.DTYPE,
    },
    rules=(_stage1, _heads, _dropout, parts.guidance_faults, _text),
    defaults={"optimizer.weight_decay": 0.05, "optimizer.b2": 0.95},
    tiny={
        "data.holdout": lambda size: min(size, 16),
        "model.width": 16,
        "model.depth": 2,
        "model.num_heads": 2,
        "text.width": 16,
        "text.depth": 1,
        "text.num_heads": 2,
    },
)
