"""Our models in the terms of diffusers' configs: the inverse of reading these."""

from collections.abc import Mapping, Sequence
from typing import Any

from gen_jax.errors import CheckpointError

__all__ = ["describe"]


def describe(family: str, values: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    """Write the config that diffusers would have for a model of ours.

    Args:
        family: diffusion, vae or vqvae.
        values: arguments of its network and process, by name.
        shape: of what it models, images or a first stage's codes.

    Raises:
        CheckpointError: naming the argument that has no counterpart.
    """
    if family == "diffusion":
        return _unet(values, shape)
    if family in ("vae", "vqvae"):
        return _autoencoder(family, values, shape)
    raise CheckpointError(f"family: {family!r}; diffusion, vae or vqvae can be exported")


def _need(values: Mapping[str, Any], **needed: Any) -> None:
    for name, value in needed.items():
        if values[name] != value:
            raise CheckpointError(
                f"{name}: got {values[name]!r}; {value!r} is required for diffusers"
            )


def _widths(values: Mapping[str, Any]) -> list[int]:
    # Theirs embed time at the width of the first level.
    if values["multipliers"][0] != 1:
        got = tuple(values["multipliers"])
        raise CheckpointError(f"multipliers: got {got}; 1 as the first is required for diffusers")
    return [round(values["channels"] * multiplier) for multiplier in values["multipliers"]]


def _dit(values: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    _need(values, mlp_ratio=4, dit_frequency_shift=1, low_res_factor=0)
    if not (values["num_classes"] and values["class_dropout"]):
        got = f"got {values['num_classes']} with class_dropout {values['class_dropout']}"
        what = "classes that training leaves out at times are required for diffusers"
        raise CheckpointError(f"num_classes: {got}; {what}")
    return {
        "_class_name": "DiTTransformer2DModel",
        "sample_size": shape[0],
        "in_channels": shape[-1],
        "out_channels": shape[-1] * (1 + values["learned_variance"]),
        "num_attention_heads": values["num_heads"],
        "attention_head_dim": values["width"] // values["num_heads"],
        "num_layers": values["depth"],
        "patch_size": values["patch"],
        "num_embeds_ada_norm": values["num_classes"],
        "norm_eps": values["epsilon"],
        "dropout": values["dropout"],
    }


def _unet(values: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    if values["network"] == "dit":
        return _dit(values, shape)
    _need(values, network="unet", block="resnet", scale_skips=False, low_res_factor=0)
    if not values["adaptive"]:
        _need(values, middle_norm=True)
    side, _, channels = shape
    widths = _widths(values)
    attends = [side // 2**level in values["attention_resolutions"] for level in range(len(widths))]
    classes = values["num_classes"]
    classes = classes + bool(values["class_dropout"]) if classes else None
    config: dict[str, Any] = {
        "sample_size": side,
        "in_channels": channels,
        "out_channels": channels * (1 + values["learned_variance"]),
        "block_out_channels": widths,
        "layers_per_block": values["num_res_blocks"],
        "norm_num_groups": values["groups"],
        "norm_eps": values["epsilon"],
        "act_fn": values["activation"].replace("auto", "silu"),
        "flip_sin_to_cos": values["cos_first"],
        "freq_shift": values["frequency_shift"],
        "downsample_padding": int(values["centered"]),
        "num_class_embeds": classes,
        "dropout": values["dropout"],
    }
    more = {"nothing": 0, "source": channels, "masked": channels + 1}[values["beside"]]
    config["in_channels"] += more
    if values["context_dim"]:
        _need(values, adaptive=False, resample="conv", centered=True, middle_attention=True)
        heads = values["num_heads"]
        if dim := values["head_dim"]:
            heads = [width // dim for width in widths]
        return {
            "_class_name": "UNet2DConditionModel",
            **config,
            "down_block_types": [("CrossAttn" if x else "") + "DownBlock2D" for x in attends],
            "up_block_types": [("CrossAttn" if x else "") + "UpBlock2D" for x in attends[::-1]],
            "mid_block_type": "UNetMidBlock2DCrossAttn",
            "attention_head_dim": heads,
            "cross_attention_dim": values["context_dim"],
            "transformer_layers_per_block": list(values["context_depths"])
            or values["context_depth"],
            "use_linear_projection": True,
            **_added(values),
        }
    _need(values, beside="nothing", pooled_dim=0)
    head_dim = values["head_dim"]
    if not head_dim and values["num_heads"] != 1:
        raise CheckpointError(
            f"num_heads: got {values['num_heads']}; 1, or head_dim, is required for diffusers"
        )
    blocks = "resnet" if values["resample"] == "blocks" else "conv"
    # Without a number, an adaptive network of theirs has no normalization there.
    normed = values["adaptive"] and values["middle_norm"]
    middle_groups = values["groups"] if normed else None
    plain = ("DownBlock2D", "UpBlock2D")
    if blocks == "resnet":
        plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    return {
        "_class_name": "UNet2DModel",
        **config,
        "down_block_types": ["AttnDownBlock2D" if x else plain[0] for x in attends],
        "up_block_types": ["AttnUpBlock2D" if x else plain[1] for x in attends[::-1]],
        "attn_norm_num_groups": middle_groups,
        "attention_head_dim": head_dim or None,
        "resnet_time_scale_shift": "scale_shift" if values["adaptive"] else "default",
        "downsample_type": blocks,
        "upsample_type": blocks,
        "add_attention": values["middle_attention"],
        "center_input_sample": False,
        "time_embedding_type": "positional",
    }


def _added(values: Mapping[str, Any]) -> dict[str, Any]:
    if not values["pooled_dim"]:
        return {}
    total = values["pooled_dim"] + values["num_sizes"] * values["size_dim"]
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": values["size_dim"],
        "projection_class_embeddings_input_dim": total,
    }


def _autoencoder(family: str, values: Mapping[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    _need(values, network="conv", likelihood="gaussian")
    height, _, channels = shape
    widths = _widths(values)
    config: dict[str, Any] = {
        "sample_size": height,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * len(widths),
        "up_block_types": ["UpDecoderBlock2D"] * len(widths),
        "layers_per_block": values["num_res_blocks"],
        "norm_num_groups": values["groups"],
        "mid_block_add_attention": values["attention"],
        "act_fn": "silu",
    }
    projected = values["projected"]
    if family == "vae":
        _need(values, latent="grid", num_classes=0)
        latent = values["latent_dim"]
        if projected not in (0, latent):
            raise CheckpointError(
                f"projected: got {projected}; 0 or {latent} is required for diffusers"
            )
        return {
            "_class_name": "AutoencoderKL",
            **config,
            "latent_channels": latent,
            "use_quant_conv": bool(projected),
            "use_post_quant_conv": bool(projected),
        }
    _need(values, quantizer="vector", codebook="gradient", levels=1, cosine=False)
    if not projected:
        raise CheckpointError("projected: got 0; channels are required for diffusers")
    return {
        "_class_name": "VQModel",
        **config,
        "latent_channels": projected,
        "num_vq_embeddings": values["num_embeddings"],
        "vq_embed_dim": values["embedding_dim"],
        "norm_type": "group",
    }
