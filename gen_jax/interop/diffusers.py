"""The models of diffusers that have a counterpart here, and how their weights are called.

For each class: what its config must say so that its forward pass is ours, what that is in the
fields of our configs, and the map of all weights. Whatever is not understood is refused by name.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gen_jax.errors import CheckpointError
from gen_jax.interop.keys import Entry

__all__ = ["CLASSES", "Foreign", "read_architecture", "read_scheduler", "scheduler_config"]


class Foreign(NamedTuple):
    """A foreign model in our terms."""

    family: str
    values: Mapping[str, Any]  # fields of our config, by dotted name
    entries: Sequence[Entry]  # of all weights, below the player's subtree


def read_architecture(config: Mapping[str, Any]) -> Foreign:
    """Read the config of a diffusers model.

    Args:
        config: what its ``config.json`` holds.

    Raises:
        CheckpointError: naming the key, its value and what is accepted.
    """
    name = str(config.get("_class_name"))
    if name not in CLASSES:
        raise CheckpointError(f"_class_name: {name!r}; one of {', '.join(CLASSES)} can be imported")
    try:
        return CLASSES[name](config)
    except KeyError as error:
        raise CheckpointError(f"{error.args[0]}: missing, or unknown") from error
    except (TypeError, IndexError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise CheckpointError(f"{name}: its options do not fit together: {error}") from error


def _expect(config: Mapping[str, Any], accepted: Mapping[str, Any], known: set[str]) -> None:
    """See that a config says nothing that would change the forward pass unseen."""
    for key, values in accepted.items():
        if key in config and config[key] not in values:
            shown = " or ".join(map(repr, values))
            raise CheckpointError(f"{key}: {config[key]!r}; {shown} is needed")
    for key, value in config.items():
        if key.startswith("_") or key in accepted or key in known or value is None:
            continue
        raise CheckpointError(f"{key}: {value!r}; this option is not understood")


def _levels(config: Mapping[str, Any]) -> tuple[int, tuple[int, ...]]:
    widths = config["block_out_channels"]
    first = widths[0]
    if any(width % first for width in widths):
        raise CheckpointError(
            f"block_out_channels: {list(widths)}; multiples of the first are needed"
        )
    return first, tuple(width // first for width in widths)


def _square(config: Mapping[str, Any]) -> int:
    size = config.get("sample_size")
    if isinstance(size, list) and len(set(size)) == 1:
        size = size[0]
    if not isinstance(size, int):
        raise CheckpointError(f"sample_size: {size!r}; one whole number is needed")
    return size


def _same(config: Mapping[str, Any], key: str) -> int:
    value = config[key]
    values = value if isinstance(value, list) else [value]
    if len(set(values)) != 1 or not isinstance(values[0], int):
        raise CheckpointError(f"{key}: {value!r}; one whole number for all levels is needed")
    return values[0]


def _attending(
    config: Mapping[str, Any], down: str, plain: str, up: str, plain_up: str
) -> list[bool]:
    """Tell which levels have attention, the same on the way down and up."""
    kinds = config["down_block_types"], config["up_block_types"]
    for key, kind, accepted in (
        ("down_block_types", kinds[0], (down, plain)),
        ("up_block_types", kinds[1], (up, plain_up)),
    ):
        if wrong := [name for name in kind if name not in accepted]:
            raise CheckpointError(f"{key}: {wrong[0]!r}; {' or '.join(accepted)} is needed")
    flags = [name == down for name in kinds[0]]
    if [name == up for name in reversed(kinds[1])] != flags:
        raise CheckpointError(
            f"up_block_types: {list(kinds[1])}; attention at the same levels as in "
            f"down_block_types {list(kinds[0])} is needed"
        )
    return flags


# Weights. Each function lists the entries of one kind of layer: prefix here, prefix there.


def _layer(ours: str, theirs: str, layout: str, bias: bool = True) -> Iterator[Entry]:
    yield Entry(f"{ours}/kernel", f"{theirs}.weight", layout)
    if bias:
        yield Entry(f"{ours}/bias", f"{theirs}.bias", "same")


def _norm(ours: str, theirs: str) -> Iterator[Entry]:
    yield Entry(f"{ours}/scale", f"{theirs}.weight", "same")
    yield Entry(f"{ours}/bias", f"{theirs}.bias", "same")


def _res_block(ours: str, theirs: str, embedding: bool, shortcut: bool) -> Iterator[Entry]:
    yield from _norm(f"{ours}/norm_in", f"{theirs}.norm1")
    yield from _layer(f"{ours}/conv_in", f"{theirs}.conv1", "conv")
    if embedding:
        yield from _layer(f"{ours}/embedding", f"{theirs}.time_emb_proj", "dense")
    yield from _norm(f"{ours}/norm_out", f"{theirs}.norm2")
    yield from _layer(f"{ours}/conv_out", f"{theirs}.conv2", "conv")
    if shortcut:
        yield from _layer(f"{ours}/shortcut", f"{theirs}.conv_shortcut", "conv")


def _attention(ours: str, theirs: str, norm: bool = True) -> Iterator[Entry]:
    """Self-attention, whose layers had other names before 2023."""
    if norm:
        yield from _norm(f"{ours}/norm", f"{theirs}.group_norm")
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


def _transformer(ours: str, theirs: str, depth: int, linear: bool) -> Iterator[Entry]:
    project = "dense" if linear else "pointwise"
    yield from _norm(f"{ours}/norm", f"{theirs}.norm")
    yield from _layer(f"{ours}/proj_in", f"{theirs}.proj_in", project)
    for number in range(depth):
        here, there = f"{ours}/layer_{number}", f"{theirs}.transformer_blocks.{number}"
        for name, norm, attention in (("self", "norm1", "attn1"), ("cross", "norm2", "attn2")):
            yield from _norm(f"{here}/norm_{name}", f"{there}.{norm}")
            for part, key in (("query", "to_q"), ("key", "to_k"), ("value", "to_v")):
                path = f"{here}/{name}_{part}"
                yield from _layer(path, f"{there}.{attention}.{key}", "heads_in", bias=False)
            path = f"{here}/{name}_attention_out"
            yield from _layer(path, f"{there}.{attention}.to_out.0", "heads_out")
        yield from _norm(f"{here}/norm_mlp", f"{there}.norm3")
        yield from _layer(f"{here}/mlp_in", f"{there}.ff.net.0.proj", "dense")
        yield from _layer(f"{here}/mlp_out", f"{there}.ff.net.2", "dense")
    yield from _layer(f"{ours}/proj_out", f"{theirs}.proj_out", project)


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
    found = [*_layer("conv_in", "conv_in", "conv")]
    found += _layer("time_0", "time_embedding.linear_1", "dense")
    found += _layer("time_1", "time_embedding.linear_2", "dense")
    if classes:
        found.append(Entry("label/embedding", "class_embedding.weight", "same"))

    def resample(ours: str, theirs: str) -> Iterator[Entry]:
        if resample_blocks:
            return _res_block(ours, theirs, embedding=True, shortcut=False)
        return _layer(f"{ours}/conv", f"{theirs}.conv", "conv")

    before = widths[0]
    for level, width in enumerate(widths):
        there = f"down_blocks.{level}"
        for number in range(num_blocks):
            ours = f"down_{level}_{number}"
            found += _res_block(ours, f"{there}.resnets.{number}", True, before != width)
            if attending[level]:
                found += attend(f"{ours}_attention", f"{there}.attentions.{number}")
            before = width
        if level != last:
            found += resample(f"down_{level}_sample", f"{there}.downsamplers.0")
    found += _res_block("middle_0", "mid_block.resnets.0", True, False)
    if middle is not None:
        found += middle("middle_attention", "mid_block.attentions.0")
    found += _res_block("middle_1", "mid_block.resnets.1", True, False)
    for level in reversed(range(len(widths))):
        there = f"up_blocks.{last - level}"
        for number in range(num_blocks + 1):
            ours = f"up_{level}_{number}"
            # What comes beside a skip connection is always wider than what goes out.
            found += _res_block(ours, f"{there}.resnets.{number}", True, True)
            if attending[level]:
                found += attend(f"{ours}_attention", f"{there}.attentions.{number}")
        if level != 0:
            found += resample(f"up_{level}_sample", f"{there}.upsamplers.0")
    found += _norm("norm_out", "conv_norm_out")
    found += _layer("conv_out", "conv_out", "conv")
    return found


def _unet_values(config: Mapping[str, Any], attending: Sequence[bool]) -> dict[str, Any]:
    channels, multipliers = _levels(config)
    side = _square(config)
    inputs, outputs = config["in_channels"], config["out_channels"]
    if outputs not in (inputs, 2 * inputs):
        raise CheckpointError(
            f"out_channels: {outputs}; {inputs}, or twice as many for variances, are needed"
        )
    activation = {"silu": "silu", "swish": "silu", "gelu": "gelu"}[config.get("act_fn", "silu")]
    return {
        "data.shape": (side, side, inputs),
        "model.network": "unet",
        "model.channels": channels,
        "model.multipliers": multipliers,
        "model.num_res_blocks": _same(config, "layers_per_block"),
        "model.attention_resolutions": tuple(
            side // 2**level for level, attends in enumerate(attending) if attends
        ),
        "model.groups": config.get("norm_num_groups", 32),
        "model.activation": activation,
        "model.epsilon": float(config.get("norm_eps", 1e-5)),
        "model.centred": config.get("downsample_padding", 1) == 1,
        "model.time_offset": -1.0,  # they count the steps from zero
        "model.cos_first": bool(config.get("flip_sin_to_cos", True)),
        "model.frequency_shift": config.get("freq_shift", 0),
        "model.num_classes": config.get("num_class_embeds") or 0,
        "model.dropout": float(config.get("dropout") or 0.0),
        "diffusion.learned_variance": outputs == 2 * inputs,
        "diffusion.objective": "hybrid" if outputs == 2 * inputs else "simple",
    }


_UNET_KNOWN = {
    *("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types"),
    *("block_out_channels", "layers_per_block", "norm_num_groups", "norm_eps", "flip_sin_to_cos"),
    *("freq_shift", "num_class_embeds", "dropout", "attention_head_dim"),
}


def _unet2d_attending(config: Mapping[str, Any], blocks: bool) -> list[bool]:
    """Tell which levels have attention; those without resample by convolutions of their own."""
    if not blocks:
        names = ("AttnDownBlock2D", "DownBlock2D", "AttnUpBlock2D", "UpBlock2D")
        return _attending(config, *names)
    kinds = {"down_block_types": "Down", "up_block_types": "Up"}
    plain = dict(config)
    for key, how in kinds.items():
        types = list(config[key])
        # The last block does not resample, and so does not care.
        if types[-1] == f"{how}Block2D":
            types[-1] = f"Resnet{how}sampleBlock2D"
        plain[key] = types
    names = ("AttnDownBlock2D", "ResnetDownsampleBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
    return _attending(plain, *names)


def _unet2d(config: Mapping[str, Any]) -> Foreign:
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
    _expect(config, accepted, _UNET_KNOWN)
    kinds = {config.get(f"{how}sample_type", "conv") for how in ("down", "up")}
    if len(kinds) != 1:
        raise CheckpointError(
            f"upsample_type: {config.get('upsample_type')!r}; that of downsample_type is needed"
        )
    blocks = kinds == {"resnet"}
    attending = _unet2d_attending(config, blocks)
    adaptive = config.get("resnet_time_scale_shift", "default") == "scale_shift"
    head_dim = config.get("attention_head_dim", 8)
    middle = config.get("add_attention", True)
    # With adaptive normalisation theirs has none before the attention in the middle.
    norm = not adaptive or config.get("attn_norm_num_groups") is not None
    values = _unet_values(config, attending) | {
        "model.adaptive": adaptive,
        "model.resample": "blocks" if blocks else "conv",
        "model.head_dim": head_dim or 0,
        "model.num_heads": 1,
        "model.middle_attention": middle,
        "model.middle_norm": norm,
        "model.context_dim": 0,
    }
    entries = _unet_entries(
        config["block_out_channels"],
        values["model.num_res_blocks"],
        attending,
        _attention,
        classes=bool(values["model.num_classes"]),
        resample_blocks=blocks,
        middle=(lambda ours, theirs: _attention(ours, theirs, norm)) if middle else None,
    )
    return Foreign("diffusion", values, entries)


def _unet2d_condition(config: Mapping[str, Any]) -> Foreign:
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
        "addition_embed_type": [None],
        "addition_time_embed_dim": [None],
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
        "projection_class_embeddings_input_dim",
    }
    _expect(config, accepted, known)
    attending = _attending(
        config, "CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"
    )
    widths = config["block_out_channels"]
    # What this class calls the width of a head is their number.
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    heads = heads if isinstance(heads, list) else [heads] * len(widths)
    dims = {width // number for width, number in zip(widths, heads, strict=True)}
    if len(set(heads)) > 1 and len(dims) > 1:
        raise CheckpointError(
            f"attention_head_dim: {heads}; one number of heads, or one width of a head, is needed"
        )
    one = len(set(heads)) == 1
    depth = (
        _same(config, "transformer_layers_per_block")
        if ("transformer_layers_per_block" in config)
        else 1
    )
    dim = config.get("cross_attention_dim", 1280)
    if not isinstance(dim, int):
        raise CheckpointError(f"cross_attention_dim: {dim!r}; one whole number is needed")
    linear = config.get("use_linear_projection", False)
    values = _unet_values({"downsample_padding": 1, **config}, attending) | {
        "model.adaptive": False,
        "model.resample": "conv",
        "model.head_dim": 0 if one else dims.pop(),
        "model.num_heads": heads[0] if one else 1,
        "model.middle_attention": True,
        "model.middle_norm": True,
        "model.context_dim": dim,
        "model.context_depth": depth,
    }
    entries = _unet_entries(
        widths,
        values["model.num_res_blocks"],
        attending,
        lambda ours, theirs: _transformer(ours, theirs, depth, linear),
        classes=bool(values["model.num_classes"]),
        resample_blocks=False,
        middle=lambda ours, theirs: _transformer(ours, theirs, depth, linear),
    )
    return Foreign("diffusion", values, entries)


def _autoencoder_values(config: Mapping[str, Any]) -> dict[str, Any]:
    channels, multipliers = _levels(config)
    side = _square(config)
    for key, block in (
        ("down_block_types", "DownEncoderBlock2D"),
        ("up_block_types", "UpDecoderBlock2D"),
    ):
        if set(config[key]) != {block}:
            raise CheckpointError(f"{key}: {config[key]}; {block} alone is needed")
    if config["in_channels"] != config["out_channels"]:
        raise CheckpointError(
            f"out_channels: {config['out_channels']}; as many as in_channels are needed"
        )
    return {
        "data.shape": (side, side, config["in_channels"]),
        "model.network": "conv",
        "model.channels": channels,
        "model.multipliers": multipliers,
        "model.num_res_blocks": config.get("layers_per_block", 1),
        "model.groups": config.get("norm_num_groups", 32),
        "model.attention": config.get("mid_block_add_attention", True),
        "model.likelihood": "gaussian",
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
        yield from _res_block(f"{ours}/middle_0", f"{theirs}.mid_block.resnets.0", False, False)
        if attention:
            yield from _attention(f"{ours}/middle_attention", f"{theirs}.mid_block.attentions.0")
        yield from _res_block(f"{ours}/middle_1", f"{theirs}.mid_block.resnets.1", False, False)

    found = [*_layer(f"{encoder}/stem", "encoder.conv_in", "conv")]
    before = widths[0]
    for level, width in enumerate(widths):
        there = f"encoder.down_blocks.{level}"
        for number in range(num_blocks):
            path = f"{encoder}/down_{level}_{number}"
            found += _res_block(path, f"{there}.resnets.{number}", False, before != width)
            before = width
        if level != last:
            path = f"{encoder}/down_{level}_sample/conv"
            found += _layer(path, f"{there}.downsamplers.0.conv", "conv")
    found += middle(encoder, "encoder")
    found += _norm(f"{encoder}/norm", "encoder.conv_norm_out")
    found += _layer(f"{encoder}/head", "encoder.conv_out", "conv")
    if projected[0]:
        found += _layer(f"{encoder}/project", "quant_conv", "pointwise")
    if projected[1]:
        found += _layer(f"{decoder}/project", "post_quant_conv", "pointwise")
    found += _layer(f"{decoder}/stem", "decoder.conv_in", "conv")
    found += middle(decoder, "decoder")
    before = widths[-1]
    for level, width in reversed(list(enumerate(widths))):
        there = f"decoder.up_blocks.{last - level}"
        for number in range(num_blocks + 1):
            path = f"{decoder}/up_{level}_{number}"
            found += _res_block(path, f"{there}.resnets.{number}", False, before != width)
            before = width
        if level != 0:
            path = f"{decoder}/up_{level}_sample/conv"
            found += _layer(path, f"{there}.upsamplers.0.conv", "conv")
    found += _norm(f"{decoder}/norm", "decoder.conv_norm_out")
    found += _layer(f"{decoder}/head", "decoder.conv_out", "conv")
    return found


_AUTOENCODER_KNOWN = {
    *("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types"),
    *("block_out_channels", "layers_per_block", "norm_num_groups", "latent_channels"),
    *("scaling_factor", "force_upcast", "latents_mean", "latents_std"),
}


def _autoencoder_kl(config: Mapping[str, Any]) -> Foreign:
    projects = config.get("use_quant_conv", True)
    accepted = {
        "act_fn": ["silu", "swish"],
        "mid_block_add_attention": [True, False],
        "use_quant_conv": [True, False],
        "use_post_quant_conv": [projects],
        "shift_factor": [None, 0, 0.0],
    }
    _expect(config, accepted, _AUTOENCODER_KNOWN)
    values = _autoencoder_values(config) | {
        "model.latent": "grid",
        "model.latent_dim": config["latent_channels"],
        "model.projected": config["latent_channels"] if projects else 0,
        "model.sigma": "fixed",
    }
    entries = _autoencoder_entries(
        config["block_out_channels"],
        values["model.num_res_blocks"],
        values["model.attention"],
        projected=(projects, projects),
        encoder="encoder",
        decoder="decoder",
    )
    return Foreign("vae", values, entries)


def _vq_model(config: Mapping[str, Any]) -> Foreign:
    accepted = {
        "act_fn": ["silu", "swish"],
        "norm_type": ["group"],
        "mid_block_add_attention": [True, False],
        "lookup_from_codebook": [False],
        "force_upcast": [False, True],
    }
    known = _AUTOENCODER_KNOWN | {"num_vq_embeddings", "vq_embed_dim"}
    _expect(config, accepted, known)
    values = _autoencoder_values(config) | {
        "model.quantizer": "vector",
        "model.num_embeddings": config["num_vq_embeddings"],
        "model.embedding_dim": config.get("vq_embed_dim") or config["latent_channels"],
        "model.projected": config["latent_channels"],
        "model.codebook": "gradient",
        "model.levels": 1,
        "model.cosine": False,
    }
    entries = _autoencoder_entries(
        config["block_out_channels"],
        values["model.num_res_blocks"],
        values["model.attention"],
        projected=(True, True),
        encoder="network/encoder",
        decoder="network/decoder",
    )
    entries.append(Entry("books/codes/codebook", "quantize.embedding.weight", "first"))
    return Foreign("vqvae", values, entries)


CLASSES: Mapping[str, Callable[[Mapping[str, Any]], Foreign]] = {
    "UNet2DModel": _unet2d,
    "UNet2DConditionModel": _unet2d_condition,
    "AutoencoderKL": _autoencoder_kl,
    "VQModel": _vq_model,
}

_SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
_PREDICTIONS = {"epsilon": "eps", "sample": "x_0", "v_prediction": "v"}


# Those that work on the noise of DDPM, whatever they make of it, and those of flows.
SCHEDULERS = (
    *("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"),
    *("EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler"),
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DEISMultistepScheduler"),
    *("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
)


def read_scheduler(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the noise of a scheduler's config, as fields of ours; solvers are a matter of sampling.

    Raises:
        CheckpointError: naming the key, its value and what is accepted.
    """
    name = str(config.get("_class_name"))
    if name not in SCHEDULERS:
        raise CheckpointError(f"_class_name: {name!r}; one of {', '.join(SCHEDULERS)} is needed")
    if config.get("trained_betas") is not None:
        raise CheckpointError("trained_betas: a schedule by name is needed")
    if (steps := config.get("num_train_timesteps", 1000)) != 1000:
        raise CheckpointError(f"num_train_timesteps: {steps}; 1000 is needed")
    if name.startswith("FlowMatch"):
        if config.get("shift", 1.0) != 1.0 or config.get("use_dynamic_shifting"):
            raise CheckpointError(f"shift: {config.get('shift')}; 1.0 is needed")
        flow = {"diffusion.schedule": "flow", "diffusion.prediction": "velocity"}
        # It hands over 1000 t, and clips nothing.
        return {**flow, "model.time_offset": 0.0, "diffusion.clip": False}
    _expect_scheduler(config)
    ours = _SCHEDULER_DEFAULTS.get(name, {})
    found = {}
    for key, default, names, field in (
        ("beta_schedule", "linear", _SCHEDULES, "schedule"),
        ("prediction_type", "epsilon", _PREDICTIONS, "prediction"),
    ):
        value = config.get(key, default)
        if value not in names:
            raise CheckpointError(f"{key}: {value!r}; one of {', '.join(names)} is needed")
        found[f"diffusion.{field}"] = names[value]
    return found | {
        "diffusion.num_steps": config.get("num_train_timesteps", 1000),
        "diffusion.beta_start": float(config.get("beta_start", ours.get("beta_start", 1e-4))),
        "diffusion.beta_end": float(config.get("beta_end", ours.get("beta_end", 0.02))),
        "diffusion.clip": bool(config.get("clip_sample", name in _CLIPPING)),
    }


# Whose samples are clipped where their config does not say, and where other defaults differ.
_CLIPPING = ("DDPMScheduler", "DDIMScheduler")
_SCHEDULER_DEFAULTS = {
    name: {"beta_start": 0.00085, "beta_end": 0.012}
    for name in (
        *("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
    )
}


def _expect_scheduler(config: Mapping[str, Any]) -> None:
    """See that a scheduler says nothing that would change the process unseen."""
    for key, accepted in (
        ("rescale_betas_zero_snr", (False,)),
        ("use_flow_sigmas", (False,)),
        ("timestep_type", ("discrete",)),
        ("clip_sample_range", (1, 1.0)),
        ("thresholding", (False,)),
        # Raw log-variances are another output than a place between two of them.
        (
            "variance_type",
            ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned_range"),
        ),
    ):
        if config.get(key) is not None and config[key] not in accepted:
            raise CheckpointError(f"{key}: {config[key]!r}; {accepted[0]!r} is needed")


def scheduler_config(values: Mapping[str, Any], betas: Sequence[float]) -> dict[str, Any]:
    """Write the noise of our config as a scheduler's.

    Args:
        values: fields of our config, by dotted name.
        betas: beta_1 to beta_T, of discrete schedules. A network that counts its steps from one is
            told T + 1 of them, of which the first adds no noise: the index that diffusers hands it
            is then the number that it knows.

    Raises:
        CheckpointError: if diffusers has no such schedule or prediction.
    """
    schedules = {ours: theirs for theirs, ours in _SCHEDULES.items()}
    predictions = {ours: theirs for theirs, ours in _PREDICTIONS.items()}
    schedule, prediction = values["diffusion.schedule"], values["diffusion.prediction"]
    from_one = values["model.time_offset"] == 0
    if (schedule, prediction) == ("flow", "velocity") and from_one:
        return {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    if schedule not in schedules or prediction not in predictions:
        raise CheckpointError(
            f"diffusion.schedule, diffusion.prediction: {schedule!r} with {prediction!r} has no "
            "counterpart in diffusers"
        )
    # They hand the network a whole number from 0 to T - 1; ours is 1000 t.
    if values["diffusion.num_steps"] != 1000:
        raise CheckpointError(
            f"diffusion.num_steps: {values['diffusion.num_steps']}; 1000 is needed for diffusers"
        )
    learned = values["diffusion.learned_variance"]
    # DDIM does not know what to do with variances.
    kind = {"_class_name": "DDPMScheduler", "variance_type": "learned_range"}
    return {
        **(kind if learned else {"_class_name": "DDIMScheduler", "set_alpha_to_one": True}),
        "num_train_timesteps": 1000 + from_one,
        "beta_schedule": schedules[schedule],
        "beta_start": values["diffusion.beta_start"],
        "beta_end": values["diffusion.beta_end"],
        "trained_betas": [0.0, *map(float, betas)] if from_one else None,
        "prediction_type": predictions[prediction],
        "clip_sample": values["diffusion.clip"],
        # Theirs goes back by whole numbers of steps: from 981 by 20 it meets every index that it
        # asks the network about, from 1000 of 1001 it does not.
        "timestep_spacing": "leading" if from_one else "trailing",
        "steps_offset": int(from_one),
    }
