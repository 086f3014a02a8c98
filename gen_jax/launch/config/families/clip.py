"""CLIP: how well images and texts match."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import Family, choice, integer

__all__ = ["FAMILY"]

_FROZEN: Any = {"change": "frozen"}


def _tokens(values: Mapping[str, Any]) -> dict[str, str]:
    if values["text.tokenizer"] == "none":
        return {"text.tokenizer": "got 'none'; bytes, words, bpe or a folder is required for clip"}
    return parts.text_faults(values)


def _divides(values: Mapping[str, Any]) -> dict[str, str]:
    if faults := parts.square(values):
        return faults
    side, patch = values["data.shape"][0], values["model.patch"]
    width, heads = values["model.width"], values["model.num_heads"]
    faults = {}
    if side % patch:
        faults["model.patch"] = f"got {patch}; a divisor of {side}, the image's side, is required"
    if width % heads:
        faults["model.num_heads"] = f"got {heads}; a divisor of {width} is required"
    return faults


def _whole(values: Mapping[str, Any]) -> dict[str, str]:
    if (num := values["train.microbatches"]) > 1:
        what = "1 is required: the loss is over all pairs of a batch, and parts have fewer"
        return {"train.microbatches": f"got {num}; {what}"}
    return {}


FAMILY = Family(
    fields={
        **{
            name: field._replace(default="words") if name == "text.tokenizer" else field
            for name, field in parts.TEXT.items()
        },
        "model.network": choice(
            "own",
            "clip",
            **_FROZEN,
            doc="transformer of images: pooled by the mean, or CLIP's image tower",
        ),
        "model.loss": choice(
            "softmax", "sigmoid", doc="over all of a batch (CLIP), or each pair by itself (SigLIP)"
        ),
        "model.dim": integer(1, default=64, **_FROZEN, doc="dimensions of the space of both"),
        "model.patch": integer(1, default=4, **_FROZEN, doc="side of an image's patch, in pixels"),
        "model.width": integer(1, default=64, **_FROZEN, doc="width of the image's transformer"),
        "model.depth": integer(1, default=3, **_FROZEN, doc="layers of the image's transformer"),
        "model.num_heads": integer(
            1, default=4, **_FROZEN, doc="attention heads of the image's transformer"
        ),
        **parts.DTYPE,
    },
    rules=(_tokens, _divides, _whole),
    defaults={"optimizer.weight_decay": 0.05},
    tiny={
        "model.width": 16,
        "model.depth": 1,
        "model.num_heads": 2,
        "model.dim": 8,
        "text.width": 16,
        "text.depth": 1,
        "text.num_heads": 2,
    },
)
