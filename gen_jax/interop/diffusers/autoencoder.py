"""AutoencoderKL and VQModel."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gen_jax.errors import CheckpointError
from gen_jax.interop.diffusers.foreign import (
    Foreign,
    check_understood,
    read_levels,
    read_shape,
)
from gen_jax.interop.diffusers.layers import (
    attention_entries,
    layer_entries,
    norm_entries,
    res_block_entries,
)
from gen_jax.interop.keys import Entry

__all__ = ["autoencoder_kl", "vq_model"]


def _autoencoder_values(config: Mapping[str, Any]) -> dict[str, Any]:
    channels, multipliers = read_levels(config)
    for key, block in (
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ):
        if set(config[key]) != {block}:
            raise CheckpointError(f"{key}: {config[key]}; {block} alone is required")
    if config["in_channels"] != config["out_channels"]:
        raise CheckpointError(
            f"out_channels: {config['out_channels']}; as many as in_channels are required"
        )
    return {
        "network": "conv",
        "channels": channels,
        "multipliers": multipliers,
        "num_res_blocks": config.get("layers_per_block", 1),
        "groups": config.get("norm_num_groups", 32),
        "attention": config.get("mid_block_add_attention", True),
        "likelihood": "gaussian",
    }


def _autoencoder_entries(
    widths: Sequence[int],
    num_blocks: int,
    attention: bool,
    *,
    projected: tuple[bool, bool],
    encoder: str,
    decoder: str,
) -> list[Entry]:
    last = len(widths) - 1

    def middle(ours: str, theirs: str) -> Iterator[Entry]:
        yield from res_block_entries(
            f"{ours}/middle_0", f"{theirs}.mid_block.resnets.0", False, False
        )
        if attention:
            yield from attention_entries(
                f"{ours}/middle_attention", f"{theirs}.mid_block.attentions.0"
            )
        yield from res_block_entries(
            f"{ours}/middle_1", f"{theirs}.mid_block.resnets.1", False, False
        )

    found = [*layer_entries(f"{encoder}/stem", "encoder.conv_in", "conv")]
    before = widths[0]
    for level, width in enumerate(widths):
        there = f"encoder.down_blocks.{level}"
        for number in range(num_blocks):
            path = f"{encoder}/down_{level}_{number}"
            found += res_block_entries(path, f"{there}.resnets.{number}", False, before != width)
            before = width
        if level != last:
            path = f"{encoder}/down_{level}_sample/conv"
            found += layer_entries(path, f"{there}.downsamplers.0.conv", "conv")
    found += middle(encoder, "encoder")
    found += norm_entries(f"{encoder}/norm", "encoder.conv_norm_out")
    found += layer_entries(f"{encoder}/head", "encoder.conv_out", "conv")
    if projected[0]:
        found += layer_entries(f"{encoder}/project", "quant_conv", "pointwise")
    if projected[1]:
        found += layer_entries(f"{decoder}/project", "post_quant_conv", "pointwise")
    found += layer_entries(f"{decoder}/stem", "decoder.conv_in", "conv")
    found += middle(decoder, "decoder")
    before = widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        there = f"decoder.up_blocks.{last - level}"
        for number in range(num_blocks + 1):
            path = f"{decoder}/up_{level}_{number}"
            found += res_block_entries(path, f"{there}.resnets.{number}", False, before != width)
            before = width
        if level != 0:
            path = f"{decoder}/up_{level}_sample/conv"
            found += layer_entries(path, f"{there}.upsamplers.0.conv", "conv")
    found += norm_entries(f"{decoder}/norm", "decoder.conv_norm_out")
    found += layer_entries(f"{decoder}/head", "decoder.conv_out", "conv")
    return found


_AUTOENCODER_KNOWN = {
    *("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types"),
    *("block_out_channels", "layers_per_block", "norm_num_groups", "latent_channels"),
    *("scaling_factor", "shift_factor", "force_upcast", "latents_mean", "latents_std"),
}


def autoencoder_kl(config: Mapping[str, Any]) -> Foreign:
    """Read an AutoencoderKL."""
    projects = config.get("use_quant_conv", True)
    accepted = {
        "act_fn": ["silu", "swish"],
        "mid_block_add_attention": [True, False],
        "use_quant_conv": [True, False],
        "use_post_quant_conv": [projects],
    }
    check_understood(config, accepted, _AUTOENCODER_KNOWN)
    values = _autoencoder_values(config) | {
        "latent": "grid",
        "latent_dim": config["latent_channels"],
        "projected": config["latent_channels"] if projects else 0,
        "sigma": "fixed",
    }
    entries = _autoencoder_entries(
        config["block_out_channels"],
        values["num_res_blocks"],
        values["attention"],
        projected=(projects, projects),
        encoder="encoder",
        decoder="decoder",
    )
    return Foreign("vae", read_shape(config), values, entries)


def vq_model(config: Mapping[str, Any]) -> Foreign:
    """Read a VQModel."""
    accepted = {
        "act_fn": ["silu", "swish"],
        "norm_type": ["group"],
        "mid_block_add_attention": [True, False],
        "lookup_from_codebook": [False],
        "force_upcast": [False, True],
    }
    known = _AUTOENCODER_KNOWN | {"num_vq_embeddings", "vq_embed_dim"}
    check_understood(config, accepted, known)
    values = _autoencoder_values(config) | {
        "quantizer": "vector",
        "num_embeddings": config["num_vq_embeddings"],
        "embedding_dim": config.get("vq_embed_dim") or config["latent_channels"],
        "projected": config["latent_channels"],
        "codebook": "gradient",
        "levels": 1,
        "cosine": False,
    }
    entries = _autoencoder_entries(
        config["block_out_channels"],
        values["num_res_blocks"],
        values["attention"],
        projected=(True, True),
        encoder="network/encoder",
        decoder="network/decoder",
    )
    entries.append(Entry("books/codes/codebook", "quantize.embedding.weight", "first"))
    return Foreign("vqvae", read_shape(config), values, entries)
