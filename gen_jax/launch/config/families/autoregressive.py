"""Autoregressive priors: a causal transformer or a gated PixelCNN over pixels or codes."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import Family, choice, integer, number, prefixed
from gen_jax.models.rules import class_dropout_faults
from gen_jax.nn.geometry import POSITIONS, pixelcnn_faults, transformer_faults

__all__ = ["FAMILY"]


def _network(values: Mapping[str, Any]) -> dict[str, str]:
    if values["model.network"] == "llama":
        width, heads = values["model.width"], values["model.num_heads"]
        if width % (2 * heads):
            what = f"heads of an even width are required, of model.width {width}"
            return {"model.num_heads": f"got {heads}; {what}"}
        return {}
    if values["model.network"] == "transformer":
        names: tuple[str, ...] = ("width", "num_heads", "positions")
        find: Any = transformer_faults
    else:
        names, find = ("depth", "kernel"), pixelcnn_faults
    return prefixed("model", find(**{name: values[f"model.{name}"] for name in names}))


def _text(values: Mapping[str, Any]) -> dict[str, str]:
    kind = values["text.tokenizer"]
    faults = {}
    if kind == "none":
        if values["model.text_weight"]:
            got = values["model.text_weight"]
            faults["model.text_weight"] = f"got {got:g}; 0 is required without text.tokenizer"
        return faults
    if values["model.network"] != "llama":
        faults["text.tokenizer"] = f"got {kind!r}; with it model.network 'llama' is required"
    return faults | parts.text_faults(values)


def _guidance(values: Mapping[str, Any]) -> dict[str, str]:
    scale = values["model.guidance"]
    if scale and values["model.network"] != "llama":
        return {"model.guidance": f"got {scale:g}; with it model.network 'llama' is required"}
    return parts.guidance_faults(values)


def _dropout(values: Mapping[str, Any]) -> dict[str, str]:
    dropout, conditional = values["model.class_dropout"], bool(values["model.num_classes"])
    conditional |= values["text.tokenizer"] != "none"
    return prefixed("model", class_dropout_faults(class_dropout=dropout, conditional=conditional))


FAMILY = Family(
    fields={
        **parts.STAGE1,
        "model.network": choice(
            "transformer",
            "pixelcnn",
            "llama",
            change="frozen",
            doc="network; of several grids, one for each; 'llama' of one, behind a class or a text",
        ),
        "model.levels": integer(
            2,
            256,
            default=256,
            change="frozen",
            doc="gray levels that pixels are quantized to, without a stage1",
        ),
        "model.width": integer(1, default=256, change="frozen", doc="width of the network"),
        "model.depth": integer(1, default=8, change="frozen", doc="number of layers"),
        "model.num_heads": integer(
            1, default=8, change="frozen", doc="transformer: attention heads"
        ),
        "model.mlp_ratio": integer(
            1,
            default=4,
            change="frozen",
            doc="transformer: width of the hidden layers, as a multiple of width",
        ),
        "model.positions": choice(
            *POSITIONS,
            change="frozen",
            doc="transformer: positions are embedded one by one, by row and column, or rotary",
        ),
        **parts.REMAT,
        "model.kernel": integer(
            1, default=5, change="frozen", doc="pixelcnn: side of its convolutions"
        ),
        "model.hidden": integer(1, default=512, change="frozen", doc="pixelcnn: width of the head"),
        "model.dropout": number(0, 1, below=True, default=0.0, doc="dropout rate of activations"),
        **parts.num_classes(),
        **parts.class_dropout(),
        **parts.TEXT,
        "model.text_weight": number(
            0,
            1,
            below=True,
            default=0.0,
            change="frozen",
            doc="llama: weight of the text's own tokens, which are then predicted too, as DALL-E's "
            "(1/8); 0: the text is encoded, as LlamaGen's",
        ),
        **parts.GUIDANCE,
        **parts.DTYPE,
    },
    rules=(_network, _text, _guidance, _dropout),
    tiny={
        "data.holdout": lambda size: min(size, 16),
        "model.width": 16,
        "model.depth": 2,
        "model.num_heads": 2,
        "model.dtype": "float32",
        "model.kernel": 3,
        "model.hidden": 16,
    },
)
