"""UNet2DModel and UNet2DConditionModel."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gen_jax.errors import CheckpointError
from gen_jax.interop.diffusers.foreign import (
    Foreign,
    check_understood,
    read_attending,
    read_levels,
    read_same,
    read_shape,
)
from gen_jax.interop.diffusers.layers import (
    attention_entries,
    layer_entries,
    norm_entries,
    res_block_entries,
    transformer_entries,
)
from gen_jax.interop.keys import Entry

__all__ = ["unet2d", "unet2d_condition"]


Attend = Callable[[str, str], Iterator[Entry]]


def _unet_entries(
    widths: Sequence[int],
    num_blocks: int,
    attending: Sequence[bool],
    attend: Attend,
    *,
    classes: bool,
    resample_blocks: bool,
    middle: Attend | None,
) -> list[Entry]:
    last = len(widths) - 1
    found = [*layer_entries("conv_in", "conv_in", "conv")]
    found += layer_entries("time_0", "time_embedding.linear_1", "dense")
    found += layer_entries("time_1", "time_embedding.linear_2", "dense")
    if classes:
        found.append(Entry("label/embedding", "class_embedding.weight", "same"))

    def resample(ours: str, theirs: str) -> Iterator[Entry]:
        if resample_blocks:
            return res_block_entries(ours, theirs, embedding=True, shortcut=False)
        return layer_entries(f"{ours}/conv", f"{theirs}.conv", "conv")

    before = widths[0]
    for level, width in enumerate(widths):
        there = f"down_blocks.{level}"
        for number in range(num_blocks):
            ours = f"down_{level}_{number}"
            found += res_block_entries(ours, f"{there}.resnets.{number}", True, before != width)
            if attending[level]:
                found += attend(f"{ours}_attention", f"{there}.attentions.{number}")
            before = width
        if level != last:
            found += resample(f"down_{level}_sample", f"{there}.downsamplers.0")
    found += res_block_entries("middle_0", "mid_block.resnets.0", True, False)
    if middle is not None:
        found += middle("middle_attention", "mid_block.attentions.0")
    found += res_block_entries("middle_1", "mid_block.resnets.1", True, False)
    for level in reversed(range(len(widths))):
        there = f"up_blocks.{last - level}"
        for number in range(num_blocks + 1):
            ours = f"up_{level}_{number}"
            # What comes beside a skip connection is always wider than what goes out.
            found += res_block_entries(ours, f"{there}.resnets.{number}", True, True)
            if attending[level]:
                found += attend(f"{ours}_attention", f"{there}.attentions.{number}")
        if level != 0:
            found += resample(f"up_{level}_sample", f"{there}.upsamplers.0")
    found += norm_entries("norm_out", "conv_norm_out")
    found += layer_entries("conv_out", "conv_out", "conv")
    return found


def _unet_values(config: Mapping[str, Any], attending: Sequence[bool]) -> dict[str, Any]:
    channels, multipliers = read_levels(config)
    side, _, inputs = read_shape(config)
    outputs = config["out_channels"]
    if outputs not in (inputs, 2 * inputs):
        raise CheckpointError(
            f"out_channels: {outputs}; {inputs}, or twice as many for variances, are required"
        )
    activation = {"silu": "silu", "swish": "silu", "gelu": "gelu"}[config.get("act_fn", "silu")]
    return {
        "network": "unet",
        "channels": channels,
        "multipliers": multipliers,
        "num_res_blocks": read_same(config, "layers_per_block"),
        "attention_resolutions": tuple(
            side // 2**level for level, attends in enumerate(attending) if attends
        ),
        "groups": config.get("norm_num_groups", 32),
        "activation": activation,
        "epsilon": float(config.get("norm_eps", 1e-5)),
        "centered": config.get("downsample_padding", 1) == 1,
        "time_offset": -1.0,  # they count the steps from zero
        "cos_first": bool(config.get("flip_sin_to_cos", True)),
        "frequency_shift": config.get("freq_shift", 0),
        "num_classes": config.get("num_class_embeds") or 0,
        "dropout": float(config.get("dropout") or 0.0),
        "learned_variance": outputs == 2 * inputs,
        "objective": "hybrid" if outputs == 2 * inputs else "simple",
    }


_UNET_KNOWN = {
    *("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types"),
    *("block_out_channels", "layers_per_block", "norm_num_groups", "norm_eps", "flip_sin_to_cos"),
    *("freq_shift", "num_class_embeds", "dropout", "attention_head_dim"),
}


def _unet2d_attending(config: Mapping[str, Any], blocks: bool) -> list[bool]:
    """Return which levels have attention; those without resample by convolutions of their own."""
    if not blocks:
        names = ("AttnDownBlock2D", "DownBlock2D", "AttnUpBlock2D", "UpBlock2D")
        return read_attending(config, *names)
    kinds = {"down_block_types": "Down", "up_block_types": "Up"}
    plain = dict(config)
    for key, how in kinds.items():
        types = list(config[key])
        # The last block does not resample, and so does not care.
        if types[-1] == f"{how}Block2D":
            types[-1] = f"Resnet{how}sampleBlock2D"
        plain[key] = types
    names = ("AttnDownBlock2D", "ResnetDownsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
    return read_attending(plain, *names)


def unet2d(config: Mapping[str, Any]) -> Foreign:
    """Read a UNet2DModel."""
    accepted = {
        "center_input_sample": [False],
        "act_fn": ["silu", "swish", "gelu"],
        "time_embedding_type": ["positional"],
        "mid_block_type": ["UNetMidBlock2D"],
        "mid_block_scale_factor": [1, 1.0],
        "downsample_padding": [0, 1],
        "downsample_type": ["conv", "resnet"],
        "upsample_type": ["conv", "resnet"],
        "resnet_time_scale_shift": ["default", "scale_shift"],
        "attn_norm_num_groups": [None, config.get("norm_num_groups", 32)],
        "add_attention": [True, False],
        "class_embed_type": [None],
        "time_embedding_dim": [None],
        "num_train_timesteps": [None],
    }
    check_understood(config, accepted, _UNET_KNOWN)
    kinds = {config.get(f"{how}sample_type", "conv") for how in ("down", "up")}
    if len(kinds) != 1:
        raise CheckpointError(
            f"upsample_type: {config.get('upsample_type')!r}; that of downsample_type is required"
        )
    blocks = kinds == {"resnet"}
    attending = _unet2d_attending(config, blocks)
    adaptive = config.get("resnet_time_scale_shift", "default") == "scale_shift"
    head_dim = config.get("attention_head_dim", 8)
    middle = config.get("add_attention", True)
    # With adaptive normalization theirs has none before the attention in the middle.
    norm = not adaptive or config.get("attn_norm_num_groups") is not None
    values = _unet_values(config, attending) | {
        "adaptive": adaptive,
        "resample": "blocks" if blocks else "conv",
        "head_dim": head_dim or 0,
        "num_heads": 1,
        "middle_attention": middle,
        "middle_norm": norm,
        "context_dim": 0,
    }
    entries = _unet_entries(
        config["block_out_channels"],
        values["num_res_blocks"],
        attending,
        attention_entries,
        classes=bool(values["num_classes"]),
        resample_blocks=blocks,
        middle=(lambda ours, theirs: attention_entries(ours, theirs, norm)) if middle else None,
    )
    return Foreign("diffusion", read_shape(config), values, entries)


def unet2d_condition(config: Mapping[str, Any]) -> Foreign:
    """Read a UNet2DConditionModel."""
    accepted = {
        "center_input_sample": [False],
        "act_fn": ["silu", "swish"],
        "mid_block_type": ["UNetMidBlock2DCrossAttn"],
        "only_cross_attention": [False],
        "mid_block_only_cross_attention": [None, False],
        "downsample_padding": [0, 1],
        "mid_block_scale_factor": [1, 1.0],
        "encoder_hid_dim": [None],
        "encoder_hid_dim_type": [None],
        "dual_cross_attention": [False],
        "use_linear_projection": [True, False],
        "class_embed_type": [None],
        "addition_embed_type": [None, "text_time"],
        "upcast_attention": [True, False],  # where float32 is the rule it changes nothing
        "resnet_time_scale_shift": ["default"],
        "resnet_skip_time_act": [False],
        "resnet_out_scale_factor": [1, 1.0],
        "time_embedding_type": ["positional"],
        "time_embedding_dim": [None],
        "time_embedding_act_fn": [None],
        "timestep_post_act": [None],
        "time_cond_proj_dim": [None],
        "conv_in_kernel": [3],
        "conv_out_kernel": [3],
        "attention_type": ["default"],
        "class_embeddings_concat": [False],
        "cross_attention_norm": [None],
        "addition_embed_type_num_heads": [64],
        "reverse_transformer_layers_per_block": [None],
    }
    known = _UNET_KNOWN | {
        *("cross_attention_dim", "num_attention_heads", "transformer_layers_per_block"),
        *("projection_class_embeddings_input_dim", "addition_time_embed_dim"),
    }
    check_understood(config, accepted, known)
    attending = read_attending(
        config, "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
    )
    widths = config["block_out_channels"]
    # What this class calls the width of a head is their number.
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    heads = heads if isinstance(heads, list) else [heads] * len(widths)
    dims = {width // number for width, number in zip(widths, heads, strict=True)}
    if len(set(heads)) > 1 and len(dims) > 1:
        raise CheckpointError(
            f"attention_head_dim: {heads}; one number of heads, or one width of a head, is required"
        )
    one = len(set(heads)) == 1
    depths = config.get("transformer_layers_per_block", 1)
    depths = list(depths) if isinstance(depths, list) else [depths] * len(widths)
    if len(depths) != len(widths) or not all(type(x) is int and x > 0 for x in depths):
        raise CheckpointError(
            f"transformer_layers_per_block: {depths}; one whole number for each level is required"
        )
    dim = config.get("cross_attention_dim", 1280)
    if not isinstance(dim, int):
        raise CheckpointError(f"cross_attention_dim: {dim!r}; one whole number is required")
    linear = config.get("use_linear_projection", False)
    shape, beside = _beside(config)
    modeled = {"downsample_padding": 1, **config, "in_channels": shape[-1]}
    values = {
        **_unet_values(modeled, attending),
        **_pooled(config),
        "beside": beside,
        "adaptive": False,
        "resample": "conv",
        "head_dim": 0 if one else dims.pop(),
        "num_heads": heads[0] if one else 1,
        "middle_attention": True,
        "middle_norm": True,
        "context_dim": dim,
        "context_depth": depths[0],
        "context_depths": () if len(set(depths)) == 1 else tuple(depths),
    }

    def attend(ours: str, theirs: str) -> Iterator[Entry]:
        level = int(ours.split("_")[1])
        return transformer_entries(ours, theirs, depths[level], linear)

    entries = _unet_entries(
        widths,
        values["num_res_blocks"],
        attending,
        attend,
        classes=bool(values["num_classes"]),
        resample_blocks=False,
        middle=lambda ours, theirs: transformer_entries(ours, theirs, depths[-1], linear),
    )
    if values["pooled_dim"]:
        for number in (0, 1):
            theirs = f"add_embedding.linear_{number + 1}"
            entries += layer_entries(f"pooled_{number}", theirs, "dense")
    return Foreign("diffusion", shape, values, entries)


def _beside(config: Mapping[str, Any]) -> tuple[tuple[int, int, int], str]:
    """Return the shape of x, and which image a network with more inputs sees beside it."""
    side, _, inputs = read_shape(config)
    outputs = config["out_channels"]
    beside = {2 * outputs: "source", 2 * outputs + 1: "masked"}.get(inputs, "nothing")
    return (side, side, inputs if beside == "nothing" else outputs), beside


# Of SDXL's text encoders, one has a pooled vector of this width.
_POOLED = 1280


def _pooled(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read what SDXL adds to the embedding of time."""
    if config.get("addition_embed_type") is None:
        for key in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
            if config.get(key) is not None:
                raise CheckpointError(f"{key}: {config[key]!r}; None is required without text_time")
        return {"pooled_dim": 0}
    dim, total = config["addition_time_embed_dim"], config["projection_class_embeddings_input_dim"]
    # Six numbers of the base, five of the refiner; theirs does not say how many.
    num = 5 if total == _POOLED + 5 * dim else 6
    if total <= num * dim:
        raise CheckpointError(
            f"projection_class_embeddings_input_dim: {total}; above {num} x {dim} is required"
        )
    return {"pooled_dim": total - num * dim, "num_sizes": num, "size_dim": dim}
