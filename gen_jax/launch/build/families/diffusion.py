"""Diffusion models and flows, over pixels or over the codes of a first stage."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.codecs import rgb, with_codec
from gen_jax.errors import ConfigError
from gen_jax.launch.build import processes, texts
from gen_jax.launch.build.experiment import (
    NO_STAGES,
    Experiment,
    Stage,
    Stage1,
    make_optimizer,
)
from gen_jax.launch.config.families.diffusion import DIT, UNET, UNET_OPTIONS
from gen_jax.models.diffusion import diffusion_model
from gen_jax.models.stages import with_image_embedding
from gen_jax.nn.dit import DiT
from gen_jax.nn.told import LEVEL_DIM
from gen_jax.nn.unclip import WithEmbedding
from gen_jax.nn.unet import UNet

__all__ = ["build", "make_network"]


def build(
    values: Mapping[str, Any],
    stage1: Stage1 | None = None,
    stages: Mapping[str, Stage] = NO_STAGES,
) -> Experiment:
    """Build the model, its codec and its optimizer."""
    text, clip = stages.get("text"), stages.get("clip")
    if stage1 is not None and stage1.codec.num_categories is not None:
        raise ConfigError(
            "stage1: its codes are whole numbers; family 'autoregressive' models these"
        )
    shape = tuple(values["data.shape"]) if stage1 is None else stage1.code_shape
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ConfigError(f"stage1: got codes of {shape}; square grids of codes are required")
    try:
        network = make_network(values, shape, text, clip)
    except ValueError as error:  # with a first stage only: else the schema has found it
        raise ConfigError(f"model: over codes of {shape}: {error}") from error
    schedule, num_steps = processes.make_schedule(values)
    beside = values["model.beside"]
    model = diffusion_model(
        network,
        schedule,
        processes.make_prediction(values),
        shape=shape,
        num_steps=num_steps,
        num_classes=values["model.num_classes"] or None,
        clip=values["diffusion.clip"],
        class_dropout=values["model.class_dropout"],
        context_dim=values["model.context_dim"] or None,
        low_res_factor=values["model.low_res_factor"] or None,
        pooled_dim=values["model.pooled_dim"] or None,
        sizes=_sizes(values),
        source_scale=values["model.source_scale"] if beside == "source" else None,
        inpaints=beside == "masked",
        **texts.make_text(values, text),
        text_pooled=texts.sees_pooled(values, text),
        low_res_noise=values["model.low_res_noise"],
        embedding_dim=None if clip is None else texts.dim_of(clip),
        embedding_dropout=values["model.embedding_dropout"],
        source_dropout=values["model.source_dropout"],
        guidance=values["model.guidance"] or None,
        learned_variance=values["diffusion.learned_variance"],
        objective=values["diffusion.objective"],
        weighting=processes.make_weighting(values),
        time_sampler=processes.make_times(values, schedule, num_steps),
        importance_batch=values["data.batch_size"] if values["diffusion.importance"] else None,
        pairing=values["diffusion.pairing"],
        coupled=values["diffusion.coupled"],
        bin_width=2 / 255 if stage1 is None else None,
        default_grid="karras" if values["diffusion.schedule"] == "edm" else "uniform",
    )
    model = with_codec(model, rgb() if stage1 is None else stage1.codec)
    frozen: dict[str, Any] = {} if stage1 is None else {"codec": stage1.weights}
    if text is not None:
        frozen["text"] = texts.frozen_text(text)
    if clip is not None and clip.model.matching is not None:
        frozen["clip"] = clip.weights
        told = clip.model.inputs["prompt"], texts.dim_of(clip)
        model = with_image_embedding(model, clip.model.matching, *told)
    return Experiment(
        model,
        {"net": make_optimizer(values)},
        frozen=frozen,
        stage1_digest=None if stage1 is None else stage1.digest,
    )


def make_network(
    values: Mapping[str, Any],
    shape: tuple[int, ...],
    text: Stage | None = None,
    clip: Stage | None = None,
) -> nn.Module:
    """Make the network that a config describes, for x of a shape.

    Args:
        values: of the config, by dotted name.
        shape: of x.
        text: run of CLIP that reads its texts; None for an encoder of its own.
        clip: run of CLIP whose embeddings of images it is told.
    """
    resolution, _, channels = shape
    # One label more, for none, where conditions are left out in training.
    num_classes = values["model.num_classes"] + bool(values["model.class_dropout"])
    # EDM shows a quarter of the noise level's logarithm, and embeds that as it is.
    scale = values["model.time_scale"] or (
        1.0 if values["diffusion.prediction"] == "edm" else 1000.0
    )
    shared = {
        "resolution": resolution,
        "out_channels": channels * (1 + values["diffusion.learned_variance"]),
        "dropout": values["model.dropout"],
        "num_classes": num_classes if values["model.num_classes"] else None,
        "dtype": jnp.dtype(values["model.dtype"]),
        "remat": values["model.remat"],
        "time": (("scale", scale), ("offset", values["model.time_offset"])),
    }
    if values["model.network"] == "dit":
        shared["time"] += (("shift", values["model.dit_frequency_shift"]),)
        names: tuple[str, ...] = (*DIT, "depth", "mlp_ratio", "epsilon", "joint")
        width, pooled = _told_widths(values, text, clip)
        network: nn.Module = DiT(
            **shared,
            context_dim=width,
            pooled_dim=pooled,
            **{name: values[f"model.{name}"] for name in names},
        )
        return network if clip is None else WithEmbedding(network, width or 0)
    waves = {"cos_first": values["model.cos_first"], "shift": values["model.frequency_shift"]}
    shared["time"] += tuple(waves.items())
    options = {name: values[f"model.{name}"] for name in (*UNET, *UNET_OPTIONS)}
    width, pooled = _told_widths(values, text, clip)
    network = UNet(
        **shared,
        context_dim=width,
        context_depth=tuple(values["model.context_depths"]) or values["model.context_depth"],
        pooled_dim=pooled,
        **options,
    )
    return network if clip is None else WithEmbedding(network, width or 0)


def _told_widths(
    values: Mapping[str, Any], text: Stage | None, clip: Stage | None
) -> tuple[int | None, int | None]:
    """Return the widths of the sequence that a network attends to, and of the vectors beside it."""
    width = values["model.context_dim"] or texts.width_of(values)
    parts = [values["model.pooled_dim"]]
    if texts.sees_pooled(values, text):
        parts.append(texts.dim_of(text) if text is not None else values["text.width"])
    if values["model.low_res_noise"]:
        parts.append(LEVEL_DIM)
    if clip is not None:
        parts.append(texts.dim_of(clip))
        width = width or texts.dim_of(clip)
    return width, sum(parts) or None


def _sizes(values: Mapping[str, Any]) -> tuple[float, ...]:
    """Give the numbers that go with a text where nothing else is said: an image left as it was."""
    height, width, _ = values["data.shape"]
    whole = (height, width, 0, 0, height, width)
    num = values["model.num_sizes"]
    return tuple(map(float, (whole + (0,) * num)[:num]))
