"""DiTTransformer2DModel."""

from collections.abc import Iterator, Mapping
from typing import Any

from gen_jax.errors import CheckpointError
from gen_jax.interop.diffusers.foreign import Foreign, check_understood, read_shape
from gen_jax.interop.keys import Entry

__all__ = ["dit"]

_BLOCK = "transformer_blocks.{}."


def dit(config: Mapping[str, Any]) -> Foreign:
    """Read a DiTTransformer2DModel."""
    accepted = {
        "activation_fn": ["gelu-approximate"],
        "attention_bias": [True],
        "norm_type": ["ada_norm_zero"],
        "norm_elementwise_affine": [False],
        "upcast_attention": [True, False],  # where float32 is the rule it changes nothing
    }
    known = {
        *("sample_size", "in_channels", "out_channels", "num_attention_heads", "num_layers"),
        *("attention_head_dim", "patch_size", "num_embeds_ada_norm", "norm_eps", "dropout"),
        "norm_num_groups",  # says nothing
    }
    check_understood(config, accepted, known)
    shape = read_shape(config)
    inputs, outputs = shape[-1], config.get("out_channels") or shape[-1]
    if outputs not in (inputs, 2 * inputs):
        raise CheckpointError(
            f"out_channels: {outputs}; {inputs}, or twice as many for variances, are required"
        )
    heads, patch = config.get("num_attention_heads", 16), config.get("patch_size", 2)
    depth = config.get("num_layers", 28)
    values = {
        "network": "dit",
        "patch": patch,
        "width": heads * config.get("attention_head_dim", 72),
        "num_heads": heads,
        "depth": depth,
        "mlp_ratio": 4,
        "epsilon": float(config.get("norm_eps", 1e-5)),
        "num_classes": config.get("num_embeds_ada_norm", 1000),
        "class_dropout": 0.1,  # theirs always has a row for no class, and no word for how often
        "dropout": float(config.get("dropout") or 0.0),
        "time_offset": -1.0,
        "dit_frequency_shift": 1,
        "learned_variance": outputs == 2 * inputs,
        "objective": "hybrid" if outputs == 2 * inputs else "simple",
        "context_dim": 0,
    }
    return Foreign("diffusion", shape, values, list(_entries(depth, patch)))


def _entries(depth: int, patch: int) -> Iterator[Entry]:
    def layer(ours: str, theirs: str, layout: str = "dense", **how: Any) -> Iterator[Entry]:
        yield Entry(f"{ours}/kernel", f"{theirs}.weight", layout, **how)
        bias = "heads_bias" if layout == "heads_in" else "same"
        yield Entry(f"{ours}/bias", f"{theirs}.bias", bias, **how)

    yield from layer("patches", "pos_embed.proj", f"patches:{patch}")
    # Each of their layers has its own copy of what embeds time and class.
    embed = f"{_BLOCK}norm1.emb."
    yield from layer("time_0", f"{embed}timestep_embedder.linear_1", copies=depth)
    yield from layer("time_1", f"{embed}timestep_embedder.linear_2", copies=depth)
    table = f"{embed}class_embedder.embedding_table.weight"
    yield Entry("label/embedding", table, "same", copies=depth)
    for ours, theirs, layout in (
        ("modulation", "norm1.linear", "dense"),
        ("query", "attn1.to_q", "heads_in"),
        ("key", "attn1.to_k", "heads_in"),
        ("value", "attn1.to_v", "heads_in"),
        ("attention_out", "attn1.to_out.0", "heads_out"),
        ("mlp_in", "ff.net.0.proj", "dense"),
        ("mlp_out", "ff.net.2", "dense"),
    ):
        yield from layer(f"blocks/{ours}", f"{_BLOCK}{theirs}", layout, stacked=depth)
    yield from layer("modulation_out", "proj_out_1")
    yield from layer("out", "proj_out_2")
