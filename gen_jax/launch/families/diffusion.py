"""Diffusion models with a U-Net, over pixels or over the codes of a first stage."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gen_jax.launch.schema import boolean, choice, integer, integers, number, text
from gen_jax.nn.geometry import unet_faults

if TYPE_CHECKING:
    from gen_jax.launch.experiment import Experiment
    from gen_jax.launch.stage1 import Stage1

FIELDS = {
    # Free, because it may move: a run keeps a copy of the one it began with.
    "stage1": text(".*", "the work directory of a first stage, or nothing to model pixels"),
    "model.channels": integer(4, change="frozen"),
    "model.multipliers": integers(1, change="frozen"),
    "model.num_res_blocks": integer(1, change="frozen"),
    "model.attention_resolutions": integers(1, change="frozen"),
    "model.num_heads": integer(1, change="frozen"),
    "model.groups": integer(1, change="frozen"),
    "model.dropout": number(0, 1, below=True),
    "model.num_classes": integer(0, change="frozen"),  # 0: unconditional
    "model.dtype": choice("float32", "bfloat16"),
    "model.remat": choice("none", "matmuls", "full"),
    "diffusion.schedule": choice("linear", "cosine", change="frozen"),
    "diffusion.num_steps": integer(1, 100_000, change="frozen"),
    "diffusion.beta_start": number(0, 1, above=True, below=True, change="frozen"),
    "diffusion.beta_end": number(0, 1, above=True, below=True, change="frozen"),
    "diffusion.prediction": choice("eps", "x_0", "v", change="frozen"),
    "diffusion.clip": boolean(),
}

_UNET = ("channels", "multipliers", "attention_resolutions", "num_heads", "groups")


def faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong between fields that are each right by themselves."""
    height, width, _ = values["data.shape"]
    if height != width:
        return [("data.shape", f"{height}x{width}; the U-Net needs square images")]
    found = []
    if not values["stage1"]:
        arguments = {name: values[f"model.{name}"] for name in _UNET}
        faults = unet_faults(resolution=height, **arguments)
        found += [(f"model.{name}", fault) for name, fault in faults.items()]
    elif values["diffusion.clip"]:  # what is modelled, and so its size, is the first stage's affair
        found.append(("diffusion.clip", "True; with a stage1 there is no range to clip codes to"))
    process = (values["diffusion.schedule"], values["diffusion.prediction"])
    if process == ("cosine", "eps") and not values["diffusion.clip"]:
        # At t = 1 the cosine's alpha is 1e-4 or less, and x_0 = (x - sigma eps) / alpha.
        found.append(
            (
                "diffusion.prediction",
                "'eps'; without diffusion.clip a cosine schedule multiplies its error at t = 1 by "
                "thousands; 'v' or 'x_0' is needed",
            )
        )
    start, end = values["diffusion.beta_start"], values["diffusion.beta_end"]
    if values["diffusion.schedule"] == "linear" and start > end:
        found.append(
            ("diffusion.beta_start", f"{start}; at most diffusion.beta_end {end} is needed")
        )
    elif values["diffusion.schedule"] == "linear":
        # As in diffusion.schedules.from_betas, whose MIN_ALPHA this is: there it would be found
        # only after JAX is loaded.
        num_steps = values["diffusion.num_steps"]
        span = (end - start) / max(num_steps - 1, 1)
        if sum(math.log1p(-start - span * i) for i in range(num_steps)) < 2 * math.log(1e-18):
            found.append(
                (
                    "diffusion.beta_end",
                    f"{end}; with {num_steps} steps nothing of the signal is left; a smaller one "
                    "is needed",
                )
            )
    return found


def build(values: Mapping[str, Any], stage1: "Stage1 | None" = None) -> "Experiment":
    """Build the model, its codec and its optimiser."""
    # Here and not above: the schema reads FIELDS before anything heavy may be loaded.
    import jax.numpy as jnp

    from gen_jax import diffusion as process
    from gen_jax.codecs import rgb, with_codec
    from gen_jax.errors import ConfigError
    from gen_jax.launch.experiment import Experiment, make_optimizer
    from gen_jax.models.diffusion import diffusion
    from gen_jax.nn.blocks import TENSOR_DIMS
    from gen_jax.nn.unet import UNet

    if stage1 is not None and stage1.codec.num_categories is not None:
        raise ConfigError(
            "stage1: its codes are whole numbers; family 'autoregressive' models these"
        )
    shape = tuple(values["data.shape"]) if stage1 is None else stage1.code_shape
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ConfigError(f"stage1: a U-Net needs square grids of codes, got codes of {shape}")
    resolution, _, channels = shape
    num_classes = values["model.num_classes"] or None
    num_steps = values["diffusion.num_steps"]
    try:
        network = UNet(
            resolution=resolution,
            out_channels=channels,
            num_res_blocks=values["model.num_res_blocks"],
            dropout=values["model.dropout"],
            num_classes=num_classes,
            dtype=jnp.dtype(values["model.dtype"]),
            remat=values["model.remat"],
            **{name: values[f"model.{name}"] for name in _UNET},
        )
    except ValueError as error:  # with a first stage only: else the schema has found it
        raise ConfigError(f"model: over codes of {shape}: {error}") from error
    if values["diffusion.schedule"] == "linear":
        schedule = process.linear_beta(
            num_steps, values["diffusion.beta_start"], values["diffusion.beta_end"]
        )
    else:
        schedule = process.cosine(num_steps)
    predictions = {"eps": process.epsilon, "x_0": process.x_0, "v": process.v}
    model = diffusion(
        network,
        schedule,
        predictions[values["diffusion.prediction"]],
        shape=shape,
        num_steps=num_steps,
        num_classes=num_classes,
        clip=values["diffusion.clip"],
    )
    if stage1 is None:
        wrapped, weights = with_codec(model, rgb()), {}
    else:
        weights = stage1.weights
        wrapped = with_codec(model, stage1.codec, weights)
    return Experiment(
        model=wrapped,
        optimizers={"net": make_optimizer(values)},
        frozen={"codec": weights},
        stage1_digest=None if stage1 is None else stage1.digest,
        num_classes=num_classes,
        tensor_dims=TENSOR_DIMS,
    )
