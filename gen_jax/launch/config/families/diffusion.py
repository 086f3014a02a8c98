"""Diffusion models and flows, over pixels or over the codes of a first stage.

The defaults are DDPM's network and linear schedule (Ho et al. 2020).
"""

from collections.abc import Mapping
from typing import Any

from gen_jax.diffusion import rules
from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import (
    Family,
    Field,
    boolean,
    choice,
    integer,
    integers,
    number,
    prefixed,
)
from gen_jax.models.rules import class_dropout_faults
from gen_jax.nn.geometry import dit_faults, unet_faults

__all__ = ["DIT", "FAMILY", "UNET", "UNET_OPTIONS", "betas"]

UNET = ("channels", "multipliers", "attention_resolutions", "num_heads", "groups", "head_dim")
UNET_OPTIONS = (
    *("num_res_blocks", "block", "adaptive", "resample", "scale_skips", "activation"),
    *("middle_attention", "middle_norm", "context_depth", "epsilon", "centered"),
)
DIT = ("patch", "width", "num_heads")

_FROZEN: Any = {"change": "frozen"}

_UNET_FIELDS: dict[str, Field] = {
    "model.channels": integer(4, default=128, **_FROZEN, doc="of the first level of unet"),
    "model.multipliers": integers(
        1, default=(1, 2, 2, 2), **_FROZEN, doc="of channels at each level of unet"
    ),
    "model.num_res_blocks": integer(1, default=2, **_FROZEN, doc="at each level of unet"),
    "model.attention_resolutions": integers(
        1, default=(16,), **_FROZEN, doc="sides of the grids with attention, of unet"
    ),
    "model.head_dim": integer(
        0, default=0, **_FROZEN, doc="width of a head of unet; 0: num_heads at all widths"
    ),
    "model.groups": integer(1, default=32, **_FROZEN, doc="of group normalization, of unet"),
    "model.block": choice("resnet", "convnext", **_FROZEN, doc="of unet"),
    "model.adaptive": boolean(
        default=False, **_FROZEN, doc="time scales and shifts normalized activations of unet"
    ),
    "model.resample": choice("conv", "blocks", **_FROZEN, doc="how unet changes its resolution"),
    "model.scale_skips": boolean(
        default=False, **_FROZEN, doc="divide sums of unet's blocks by the root of 2"
    ),
    "model.activation": choice("auto", "silu", "gelu", **_FROZEN, doc="of unet"),
    "model.middle_attention": boolean(default=True, **_FROZEN, doc="in the middle of unet"),
    "model.middle_norm": boolean(
        default=True, **_FROZEN, doc="normalize before the attention in the middle of unet"
    ),
    "model.context_dim": integer(
        0, default=0, **_FROZEN, doc="width of the vectors that unet attends to; 0: none"
    ),
    "model.context_depth": integer(
        1, default=1, **_FROZEN, doc="layers of each cross-attention of unet"
    ),
    # How other libraries' networks differ; see gen_jax.interop.
    "model.epsilon": number(
        0, above=True, default=1e-6, **_FROZEN, doc="of group normalization, of unet"
    ),
    "model.centered": boolean(
        default=False, **_FROZEN, doc="pad unet's strided convolutions on both sides"
    ),
    "model.time_offset": number(
        -1, 1, default=0.0, **_FROZEN, doc="steps added to the time that is embedded"
    ),
    "model.cos_first": boolean(default=False, **_FROZEN, doc="in the time embedding of unet"),
    "model.frequency_shift": integer(
        0, 1, default=1, **_FROZEN, doc="of the time embedding of unet"
    ),
}

_DIT_FIELDS: dict[str, Field] = {  # DiT-S/2
    "model.patch": integer(1, default=2, **_FROZEN, doc="side of a token of dit"),
    "model.width": integer(4, default=384, **_FROZEN, doc="of dit"),
    "model.depth": integer(1, default=12, **_FROZEN, doc="layers of dit"),
    "model.mlp_ratio": integer(1, default=4, **_FROZEN, doc="of dit"),
}

_PROCESS_FIELDS: dict[str, Field] = {
    "diffusion.schedule": choice(
        "linear", "scaled_linear", "cosine", "flow", "edm", **_FROZEN, doc="of the noise"
    ),
    "diffusion.num_steps": integer(
        1, 100_000, default=1000, **_FROZEN, doc="T of linear, scaled_linear and cosine"
    ),
    "diffusion.beta_start": number(
        0, 1, above=True, below=True, default=1e-4, **_FROZEN, doc="of linear, scaled_linear"
    ),
    "diffusion.beta_end": number(
        0, 1, above=True, below=True, default=0.02, **_FROZEN, doc="of linear, scaled_linear"
    ),
    "diffusion.sigma_max": number(
        0, above=True, default=80.0, **_FROZEN, doc="largest noise, of edm"
    ),
    "diffusion.sigma_data": number(
        0, above=True, default=0.5, **_FROZEN, doc="deviation of the data, of prediction edm"
    ),
    "diffusion.prediction": choice(
        "eps", "x_0", "v", "velocity", "edm", **_FROZEN, doc="what the network is trained to give"
    ),
    "diffusion.learned_variance": boolean(
        default=False, **_FROZEN, doc="the network also gives variances"
    ),
    "diffusion.objective": choice("simple", "hybrid", "vlb", doc="L_simple, the bound, or both"),
    "diffusion.importance": boolean(
        default=False, **_FROZEN, doc="draw times in proportion to their losses"
    ),
    "diffusion.weighting": choice("none", "eps", "min_snr", "p2", doc="of noise levels"),
    "diffusion.weighting_gamma": number(0, default=0.0, doc="of min_snr and p2; 0: the papers'"),
    "diffusion.times": choice(
        "uniform", "logit_normal", "log_normal_noise", doc="which are trained"
    ),
    "diffusion.times_mean": number(-20, 20, default=0.0, doc="of logit_normal, log_normal_noise"),
    "diffusion.times_std": number(0, default=0.0, doc="likewise; both 0: the papers'"),
    "diffusion.antithetic": boolean(default=False, doc="mirror every second time"),
    "diffusion.pairing": boolean(default=False, doc="pair noise and data by optimal transport"),
    "diffusion.clip": boolean(default=True, doc="keep the predicted x_0 in [-1, 1] in sampling"),
}


def _network(values: Mapping[str, Any]) -> dict[str, str]:
    # Over a first stage's codes, what is modeled, and so its size, is that stage's affair.
    if (faults := parts.square(values)) or values["stage1"]:
        return faults
    unet = values["model.network"] == "unet"
    names, find = (UNET, unet_faults) if unet else (DIT, dit_faults)
    side = values["data.shape"][0]
    given: dict[str, Any] = {name: values[f"model.{name}"] for name in names}
    return prefixed("model", find(resolution=side, **given))


def _context(values: Mapping[str, Any]) -> dict[str, str]:
    dim = values["model.context_dim"]
    if not dim:
        return {}
    if values["model.network"] == "dit":
        return {"model.context_dim": f"got {dim}; 0 is required for dit"}
    faults = {}
    if not (values["model.attention_resolutions"] or values["model.middle_attention"]):
        faults["model.context_dim"] = f"got {dim}; without attention nothing looks at a sequence"
    for name, needed in (("scale_skips", False), ("middle_norm", True)):
        if values[f"model.{name}"] != needed:
            what = f"got {not needed}; {needed} is required with model.context_dim"
            faults[f"model.{name}"] = what
    return faults


def _dropout(values: Mapping[str, Any]) -> dict[str, str]:
    conditional = bool(values["model.num_classes"] or values["model.context_dim"])
    dropout = values["model.class_dropout"]
    return prefixed("model", class_dropout_faults(class_dropout=dropout, conditional=conditional))


def _low_res(values: Mapping[str, Any]) -> dict[str, str]:
    factor, side = values["model.low_res_factor"], values["data.shape"][0]
    if factor and (factor < 2 or side % factor or values["stage1"]):
        what = "0, or from 2 a divisor of the image's side, without a stage1, is required"
        return {"model.low_res_factor": f"got {factor}; {what}"}
    return {}


def _clip(values: Mapping[str, Any]) -> dict[str, str]:
    if values["stage1"] and values["diffusion.clip"]:
        return {"diffusion.clip": "got True; with a stage1 there is no range to clip codes to"}
    return {}


_BETAS = ("schedule", "num_steps", "beta_start", "beta_end")


def betas(values: Mapping[str, Any]) -> dict[str, str]:
    """Find what is wrong with a schedule of betas."""
    given = {name: values[f"diffusion.{name}"] for name in _BETAS}
    return prefixed("diffusion", rules.beta_faults(**given))


def _prediction(values: Mapping[str, Any]) -> dict[str, str]:
    schedule = values["diffusion.schedule"]
    faults = rules.prediction_faults(
        prediction=values["diffusion.prediction"],
        signal=schedule != "flow",
        last_beta=rules.last_beta(schedule, values["diffusion.beta_end"]),
        clip=values["diffusion.clip"],
    )
    return prefixed("diffusion", faults)


def _objective(values: Mapping[str, Any]) -> dict[str, str]:
    faults = rules.objective_faults(
        objective=values["diffusion.objective"],
        learned_variance=values["diffusion.learned_variance"],
        discrete=values["diffusion.schedule"] in rules.TABLES,
        importance=values["diffusion.importance"],
        weighted=values["diffusion.weighting"] != "none",
        own_times=values["diffusion.times"] != "uniform",
    )
    return prefixed("diffusion", faults)


def _gamma(values: Mapping[str, Any]) -> dict[str, str]:
    gamma = values["diffusion.weighting_gamma"]
    if gamma and values["diffusion.weighting"] in ("none", "eps"):
        what = f"got {gamma}; of diffusion.weighting 'min_snr' and 'p2'"
        return {"diffusion.weighting_gamma": what}
    return {}


def _times(values: Mapping[str, Any]) -> dict[str, str]:
    faults = rules.time_faults(
        schedule=values["diffusion.schedule"],
        times=values["diffusion.times"],
        mean=values["diffusion.times_mean"],
        std=values["diffusion.times_std"],
        antithetic=values["diffusion.antithetic"],
        importance=values["diffusion.importance"],
    )
    return prefixed("diffusion", faults)


FAMILY = Family(
    fields={
        **parts.STAGE1,
        "model.network": choice("unet", "dit", change="frozen", doc="that removes noise"),
        **_UNET_FIELDS,
        **_DIT_FIELDS,
        "model.num_heads": integer(1, default=1, **_FROZEN, doc="of each attention"),
        "model.dropout": number(0, 1, below=True, default=0.1, doc="of activations"),
        **parts.num_classes(),
        **parts.class_dropout("frozen"),
        "model.low_res_factor": integer(
            0, default=0, **_FROZEN, doc="by how much images are made larger; 0: not at all"
        ),
        **parts.DTYPE,
        **parts.REMAT,
        **_PROCESS_FIELDS,
    },
    rules=(
        _network,
        _context,
        _dropout,
        _low_res,
        _clip,
        betas,
        _prediction,
        _objective,
        _gamma,
        _times,
    ),
    tiny={  # keeping attention in the middle
        "model.channels": 8,
        "model.multipliers": (1,),
        "model.num_res_blocks": 1,
        "model.attention_resolutions": (),
        "model.head_dim": 0,
        "model.groups": 4,
        "model.width": 16,
        "model.depth": 1,
        "model.num_heads": 1,
        "diffusion.num_steps": 20,
    },
)
