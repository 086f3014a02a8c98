"""What the layers of diffusers' networks are called, here and there."""

from collections.abc import Iterator

from gen_jax.interop.keys import Entry

__all__ = [
    "attention_entries",
    "layer_entries",
    "norm_entries",
    "res_block_entries",
    "transformer_entries",
]


def layer_entries(ours: str, theirs: str, layout: str, bias: bool = True) -> Iterator[Entry]:
    """Map a convolution or a dense layer."""
    yield Entry(f"{ours}/kernel", f"{theirs}.weight", layout)
    if bias:
        yield Entry(f"{ours}/bias", f"{theirs}.bias", "same")


def norm_entries(ours: str, theirs: str) -> Iterator[Entry]:
    """Map a normalization."""
    yield Entry(f"{ours}/scale", f"{theirs}.weight", "same")
    yield Entry(f"{ours}/bias", f"{theirs}.bias", "same")


def res_block_entries(ours: str, theirs: str, embedding: bool, shortcut: bool) -> Iterator[Entry]:
    """Map a residual block."""
    yield from norm_entries(f"{ours}/norm_in", f"{theirs}.norm1")
    yield from layer_entries(f"{ours}/conv_in", f"{theirs}.conv1", "conv")
    if embedding:
        yield from layer_entries(f"{ours}/embedding", f"{theirs}.time_emb_proj", "dense")
    yield from norm_entries(f"{ours}/norm_out", f"{theirs}.norm2")
    yield from layer_entries(f"{ours}/conv_out", f"{theirs}.conv2", "conv")
    if shortcut:
        yield from layer_entries(f"{ours}/shortcut", f"{theirs}.conv_shortcut", "conv")


def attention_entries(ours: str, theirs: str, norm: bool = True) -> Iterator[Entry]:
    """Self-attention, whose layers had other names before 2023."""
    if norm:
        yield from norm_entries(f"{ours}/norm", f"{theirs}.group_norm")
    for name, new, old in (
        ("query", "to_q", "query"),
        ("key", "to_k", "key"),
        ("value", "to_v", "value"),
        ("out", "to_out.0", "proj_attn"),
    ):
        layout = "heads_out" if name == "out" else "heads_in"
        bias = "same" if name == "out" else "heads_bias"
        yield Entry(
            f"{ours}/{name}/kernel", f"{theirs}.{new}.weight", layout, f"{theirs}.{old}.weight"
        )
        yield Entry(f"{ours}/{name}/bias", f"{theirs}.{new}.bias", bias, f"{theirs}.{old}.bias")


def transformer_entries(ours: str, theirs: str, depth: int, linear: bool) -> Iterator[Entry]:
    """Map a transformer of blocks with cross-attention."""
    project = "dense" if linear else "pointwise"
    yield from norm_entries(f"{ours}/norm", f"{theirs}.norm")
    yield from layer_entries(f"{ours}/proj_in", f"{theirs}.proj_in", project)
    for number in range(depth):
        here, there = f"{ours}/layer_{number}", f"{theirs}.transformer_blocks.{number}"
        for name, norm, attention in (("self", "norm1", "attn1"), ("cross", "norm2", "attn2")):
            yield from norm_entries(f"{here}/norm_{name}", f"{there}.{norm}")
            for part, key in (("query", "to_q"), ("key", "to_k"), ("value", "to_v")):
                path = f"{here}/{name}_{part}"
                yield from layer_entries(path, f"{there}.{attention}.{key}", "heads_in", bias=False)
            path = f"{here}/{name}_attention_out"
            yield from layer_entries(path, f"{there}.{attention}.to_out.0", "heads_out")
        yield from norm_entries(f"{here}/norm_mlp", f"{there}.norm3")
        yield from layer_entries(f"{here}/mlp_in", f"{there}.ff.net.0.proj", "dense")
        yield from layer_entries(f"{here}/mlp_out", f"{there}.ff.net.2", "dense")
    yield from layer_entries(f"{ours}/proj_out", f"{theirs}.proj_out", project)
