"""Diffusion models and flows, over pixels or over the codes of a first stage."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from gen_jax.codecs import rgb, with_codec
from gen_jax.errors import ConfigError
from gen_jax.launch.build import processes, texts
from gen_jax.launch.build.experiment import Experiment, Stage1, make_optimizer
from gen_jax.launch.config.families.diffusion import DIT, UNET, UNET_OPTIONS
from gen_jax.models.diffusion import diffusion_model
from gen_jax.nn.dit import DiT
from gen_jax.nn.unet import UNet

__all__ = ["build", "make_network"]


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizer."""
    if stage1 is not None and stage1.codec.num_categories is not None:
        raise ConfigError(
            "stage1: its codes are whole numbers; family 'autoregressive' models these"
        )
    shape = tuple(values["data.shape"]) if stage1 is None else stage1.code_shape
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ConfigError(f"stage1: got codes of {shape}; square grids of codes are required")
    try:
        network = make_network(values, shape)
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
        **texts.make_text(values),
        text_pooled=texts.sees_pooled(values),
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
    codec = rgb() if stage1 is None else stage1.codec
    return Experiment(
        with_codec(model, codec),
        {"net": make_optimizer(values)},
        frozen={} if stage1 is None else {"codec": stage1.weights},
        stage1_digest=None if stage1 is None else stage1.digest,
    )


def make_network(values: Mapping[str, Any], shape: tuple[int, ...]) -> nn.Module:
    """Make the network that a config describes, for x of a shape."""
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
        width = texts.width_of(values)
        return DiT(
            **shared,
            context_dim=width,
            pooled_dim=width if texts.sees_pooled(values) else None,
            **{name: values[f"model.{name}"] for name in names},
        )
    waves = {"cos_first": values["model.cos_first"], "shift": values["model.frequency_shift"]}
    shared["time"] += tuple(waves.items())
    options = {name: values[f"model.{name}"] for name in (*UNET, *UNET_OPTIONS)}
    return UNet(
        **shared,
        context_dim=values["model.context_dim"] or texts.width_of(values),
        context_depth=tuple(values["model.context_depths"]) or values["model.context_depth"],
        pooled_dim=values["model.pooled_dim"]
        or (texts.width_of(values) if texts.sees_pooled(values) else None),
        **options,
    )


def _sizes(values: Mapping[str, Any]) -> tuple[float, ...]:
    """Give the numbers that go with a text where nothing else is said: an image left as it was."""
    height, width, _ = values["data.shape"]
    whole = (height, width, 0, 0, height, width)
    num = values["model.num_sizes"]
    return tuple(map(float, (whole + (0,) * num)[:num]))
