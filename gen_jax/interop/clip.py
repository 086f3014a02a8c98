"""CLIP's towers, as transformers stores them."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gen_jax.errors import CheckpointError
from gen_jax.interop.keys import Entry

__all__ = ["CLIPText", "ClipModel", "fold_pixels", "read_clip", "read_clip_text"]

# What CLIP's images are brought to: (x / 255 - mean) / std of each color.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class CLIPText(NamedTuple):
    """A text tower in our terms."""

    values: Mapping[str, Any]  # of the section ``text`` of a config
    entries: list[Entry]  # of its weights


class ClipModel(NamedTuple):
    """Both towers in our terms."""

    shape: tuple[int, int, int]  # of an image
    values: Mapping[str, Any]  # fields of a config, by dotted name
    entries: list[Entry]


def read_clip_text(config: Mapping[str, Any]) -> CLIPText:
    """Read the config of a CLIPTextModel.

    Raises:
        CheckpointError: naming the key, its value and what is accepted.
    """
    _check_tower(config, "text_config")
    depth = _whole(config, "num_hidden_layers", 12)
    values = {
        "network": "clip",
        "vocabulary": _whole(config, "vocab_size", 49408),
        "length": _whole(config, "max_position_embeddings", 77),
        "width": _whole(config, "hidden_size", 512),
        "depth": depth,
        "num_heads": _whole(config, "num_attention_heads", 8),
    }
    return CLIPText(values, list(_text_entries("", depth)))


def read_clip(config: Mapping[str, Any]) -> ClipModel:
    """Read the config of a CLIPModel.

    Raises:
        CheckpointError: naming the key, its value and what is accepted.
    """
    text = read_clip_text(config.get("text_config") or {})
    image: Mapping[str, Any] = config.get("vision_config") or {}
    _check_tower(image, "vision_config")
    side = _whole(image, "image_size", 224)
    depth = _whole(image, "num_hidden_layers", 12)
    values = {
        **{f"text.{name}": value for name, value in text.values.items()},
        "model.network": "clip",
        "model.dim": _whole(config, "projection_dim", 512),
        "model.patch": _whole(image, "patch_size", 32),
        "model.width": _whole(image, "hidden_size", 768),
        "model.depth": depth,
        "model.num_heads": _whole(image, "num_attention_heads", 12),
    }
    entries: list[Entry] = [
        Entry(f"text/{e.ours}", e.theirs, e.layout, e.old, e.stacked) for e in text.entries
    ]
    entries += _image_entries(depth, values["model.patch"])
    entries += [
        Entry("image_projection", "visual_projection.weight", "dense"),
        Entry("text_projection", "text_projection.weight", "dense"),
        Entry("scale", "logit_scale", "same"),
    ]
    return ClipModel((side, side, 3), values, entries)


def fold_pixels(net: dict[str, Any]) -> dict[str, Any]:
    """Let the image tower take images in [-1, 1]: what it divides by goes into its first layer.

    Args:
        net: parameters of a CLIP model whose first layer has no bias, as theirs.

    Returns:
        The same with a kernel and a bias that give the same tokens.
    """
    kernel = np.asarray(net["image"]["patches"]["kernel"], np.float64)
    mean, std = (np.tile(x, len(kernel) // 3)[:, None] for x in (np.array(MEAN), np.array(STD)))
    patches = {
        "kernel": (kernel * 0.5 / std).astype(np.float32),
        "bias": np.sum(kernel * (0.5 - mean) / std, axis=0).astype(np.float32),
    }
    return {**net, "image": {**net["image"], "patches": patches}}


def _check_tower(config: Mapping[str, Any], where: str) -> None:
    for key, usual, wanted in (("hidden_act", "quick_gelu", "quick_gelu"),
                               ("layer_norm_eps", 1e-5, 1e-5)):  # fmt: skip
        if config.get(key, usual) != wanted:
            raise CheckpointError(f"{where}.{key}: {config[key]!r}; {wanted!r} is required")
    width = config.get("hidden_size", 512)
    if config.get("intermediate_size", 4 * width) != 4 * width:
        raise CheckpointError(
            f"{where}.intermediate_size: {config['intermediate_size']}; {4 * width} is required"
        )


def _whole(config: Mapping[str, Any], key: str, usual: int) -> int:
    value = config.get(key, usual)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{key}: {value!r}; a whole number from 1 is required")
    return value


def _text_entries(prefix: str, depth: int) -> Iterator[Entry]:
    there = f"{prefix}text_model"
    yield Entry("tokens/embedding", f"{there}.embeddings.token_embedding.weight", "same")
    yield Entry("positions", f"{there}.embeddings.position_embedding.weight", "same")
    yield from _layers(f"{there}.encoder.layers", depth)
    yield from _norm("norm_out", f"{there}.final_layer_norm")


def _image_entries(depth: int, patch: int) -> Iterator[Entry]:
    there = "vision_model"
    yield Entry("image/class_token", f"{there}.embeddings.class_embedding", "same")
    kernel = f"{there}.embeddings.patch_embedding.weight"
    yield Entry("image/patches/kernel", kernel, f"patches:{patch}")
    yield Entry("image/positions", f"{there}.embeddings.position_embedding.weight", "same")
    yield from _norm("image/norm_in", f"{there}.pre_layrnorm")
    for entry in _layers(f"{there}.encoder.layers", depth):
        yield entry._replace(ours=f"image/{entry.ours}")
    yield from _norm("image/norm_out", f"{there}.post_layernorm")


def _norm(ours: str, theirs: str, stacked: int = 0) -> Iterator[Entry]:
    for part, name in (("scale", "weight"), ("bias", "bias")):
        yield Entry(f"{ours}/{part}", f"{theirs}.{name}", "same", stacked=stacked)


def _layers(there: str, depth: int) -> Iterator[Entry]:
    for ours, theirs in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        name = f"{there}.{{}}.self_attn.{theirs}"
        yield Entry(f"layers/{ours}/kernel", f"{name}.weight", "heads_in", stacked=depth)
        yield Entry(f"layers/{ours}/bias", f"{name}.bias", "heads_bias", stacked=depth)
    for ours, theirs, layout in (
        ("attention_out", "self_attn.out_proj", "heads_out"),
        ("mlp_in", "mlp.fc1", "dense"),
        ("mlp_out", "mlp.fc2", "dense"),
    ):
        name = f"{there}.{{}}.{theirs}"
        yield Entry(f"layers/{ours}/kernel", f"{name}.weight", layout, stacked=depth)
        yield Entry(f"layers/{ours}/bias", f"{name}.bias", "same", stacked=depth)
    yield from _norm("layers/norm_attention", f"{there}.{{}}.layer_norm1", depth)
    yield from _norm("layers/norm_mlp", f"{there}.{{}}.layer_norm2", depth)
