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
    positives,
    prefixed,
)
from gen_jax.models.rules import class_dropout_faults
from gen_jax.nn.geometry import dit_faults, unet_faults

__all__ = ["DIT", "FAMILY", "UNET", "UNET_OPTIONS", "betas", "signal", "zero_snr"]

UNET = ("channels", "multipliers", "attention_resolutions", "num_heads", "groups", "head_dim")
UNET_OPTIONS = (
    *("num_res_blocks", "block", "adaptive", "resample", "scale_skips", "activation"),
    *("middle_attention", "middle_norm", "epsilon", "centered", "size_dim"),
)
DIT = ("patch", "width", "num_heads")

_FROZEN: Any = {"change": "frozen"}


def _beta(doc: str) -> Field:
    between = number(0, 1, above=True, below=True, default=0.0, **_FROZEN, doc=doc)
    return between._replace(default=None, optional=True)


_UNET_FIELDS: dict[str, Field] = {
    "model.channels": integer(4, default=128, **_FROZEN, doc="unet: channels of the first level"),
    "model.multipliers": positives(
        default=(1, 2, 2, 2),
        **_FROZEN,
        doc="unet: channels of each level, as multiples of the first's",
    ),
    "model.num_res_blocks": integer(
        1, default=2, **_FROZEN, doc="unet: residual blocks of each level"
    ),
    "model.attention_resolutions": integers(
        1, default=(16,), **_FROZEN, doc="unet: sides of the feature maps that have self-attention"
    ),
    "model.head_dim": integer(
        0,
        default=0,
        **_FROZEN,
        doc="unet: width of an attention head; 0 has num_heads heads at every width",
    ),
    "model.groups": integer(1, default=32, **_FROZEN, doc="unet: groups of group normalization"),
    "model.block": choice("resnet", "convnext", **_FROZEN, doc="unet: kind of residual block"),
    "model.adaptive": boolean(
        default=False,
        **_FROZEN,
        doc="unet: adaptive group normalization: time scales and shifts activations",
    ),
    "model.resample": choice(
        "conv",
        "blocks",
        **_FROZEN,
        doc="unet: change resolution by convolutions, or inside residual blocks",
    ),
    "model.scale_skips": boolean(
        default=False, **_FROZEN, doc="unet: divide sums of residual blocks by the square root of 2"
    ),
    "model.activation": choice(
        "auto",
        "silu",
        "gelu",
        **_FROZEN,
        doc="unet: activation function; 'auto' is the block's own",
    ),
    "model.middle_attention": boolean(
        default=True, **_FROZEN, doc="unet: self-attention at the lowest resolution"
    ),
    "model.middle_norm": boolean(
        default=True, **_FROZEN, doc="unet: group normalization before that attention"
    ),
    "model.context_dim": integer(
        0,
        default=0,
        **_FROZEN,
        doc="unet: width of the vectors it attends to (cross-attention); 0 has none",
    ),
    "model.context_depth": integer(
        1, default=1, **_FROZEN, doc="unet: layers of each cross-attention block"
    ),
    "model.context_depths": integers(
        1,
        **_FROZEN,
        doc="unet: such layers at each level, in place of context_depth; () has that",
    ),
    "model.pooled_dim": integer(
        0,
        default=0,
        **_FROZEN,
        doc="unet: width of one vector for all of a text, beside its sequence; 0 has none",
    ),
    "model.num_sizes": integer(
        1, default=6, **_FROZEN, doc="unet: numbers that go with it, of the image's size"
    ),
    "model.size_dim": integer(
        4, default=256, **_FROZEN, doc="unet: width of the embedding of each of them"
    ),
    # How other libraries' networks differ; see gen_jax.interop.
    "model.epsilon": number(
        0,
        above=True,
        default=1e-6,
        **_FROZEN,
        doc="added to the variance, unet: in group normalization, dit: before MLPs",
    ),
    "model.centered": boolean(
        default=False,
        **_FROZEN,
        doc="unet: pad strided convolutions on both sides, as PyTorch does",
    ),
    "model.time_offset": number(
        -1, 1, default=0.0, **_FROZEN, doc="steps added to the time before it is embedded"
    ),
    "model.time_scale": number(
        0,
        above=True,
        default=0.0,
        **_FROZEN,
        doc="what the time is multiplied by before that; None: 1000, of prediction 'edm' 1",
    )._replace(default=None, optional=True),
    "model.cos_first": boolean(
        default=False, **_FROZEN, doc="unet: cosines before sines in the time embedding"
    ),
    "model.frequency_shift": integer(
        0, 1, default=1, **_FROZEN, doc="unet: shift of the frequencies of the time embedding"
    ),
}

_DIT_FIELDS: dict[str, Field] = {  # DiT-S/2
    "model.patch": integer(1, default=2, **_FROZEN, doc="dit: side of a patch, in pixels"),
    "model.width": integer(4, default=384, **_FROZEN, doc="dit: width of the network"),
    "model.depth": integer(1, default=12, **_FROZEN, doc="dit: number of layers"),
    "model.mlp_ratio": integer(
        1, default=4, **_FROZEN, doc="dit: width of the hidden layers, as a multiple of width"
    ),
    "model.joint": boolean(
        default=True,
        **_FROZEN,
        doc="dit: a text's vectors are further tokens; False: layers attend to them",
    ),
    "model.dit_frequency_shift": integer(
        0, 1, default=0, **_FROZEN, doc="dit: shift of the frequencies of the time embedding"
    ),
}

_PROCESS_FIELDS: dict[str, Field] = {
    "diffusion.schedule": choice(
        "linear", "scaled_linear", "cosine", "flow", "edm", **_FROZEN, doc="noise schedule"
    ),
    "diffusion.num_steps": integer(
        1,
        100_000,
        default=1000,
        **_FROZEN,
        doc="T, of the schedules with a table: linear, scaled_linear, cosine",
    ),
    "diffusion.beta_start": _beta("beta_1, of linear and scaled_linear; None: 0.1 / num_steps"),
    "diffusion.beta_end": _beta("beta_T, of linear and scaled_linear; None: 20 / num_steps"),
    "diffusion.zero_terminal_snr": boolean(
        default=False, **_FROZEN, doc="rescale the table so that nothing of the signal is left at T"
    ),
    "diffusion.sigma_max": number(
        0, above=True, default=80.0, **_FROZEN, doc="edm: largest noise level, in units of the data"
    ),
    "diffusion.sigma_data": number(
        0,
        above=True,
        default=0.5,
        **_FROZEN,
        doc="prediction 'edm': standard deviation of the data",
    ),
    "diffusion.prediction": choice(
        "eps",
        "x_0",
        "v",
        "velocity",
        "edm",
        **_FROZEN,
        doc="what the network is trained to predict",
    ),
    "diffusion.learned_variance": boolean(
        default=False,
        **_FROZEN,
        doc="whether the network also predicts variances of the reverse steps",
    ),
    "diffusion.objective": choice(
        "simple",
        "hybrid",
        "vlb",
        doc="loss: L_simple, L_hybrid (which learns variances), or the variational bound",
    ),
    "diffusion.importance": boolean(
        default=False,
        **_FROZEN,
        doc="draw times in proportion to the root mean square of their losses",
    ),
    "diffusion.weighting": choice(
        "none",
        "eps",
        "min_snr",
        "p2",
        doc="weight of each noise level in L_simple; 'none' leaves the target's own",
    ),
    "diffusion.weighting_gamma": number(
        0, default=0.0, doc="gamma of min_snr and p2; 0 takes the papers'"
    ),
    "diffusion.times": choice(
        "uniform",
        "logit_normal",
        "log_normal_noise",
        doc="distribution of the times that are trained",
    ),
    "diffusion.times_mean": number(
        -20, 20, default=0.0, doc="mean of logit_normal or log_normal_noise"
    ),
    "diffusion.times_std": number(
        0, default=0.0, doc="their standard deviation; with both 0, the papers' values"
    ),
    "diffusion.antithetic": boolean(default=False, doc="draw times in mirrored pairs"),
    "diffusion.pairing": boolean(
        default=False, doc="pair noise with the examples of a batch by optimal transport"
    ),
    "diffusion.coupled": boolean(
        default=False,
        doc="noise comes with the data, as reflow's does; set by itself with such data",
    ),
    "diffusion.clip": boolean(default=True, doc="clip the predicted x_0 to [-1, 1] when sampling"),
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
    return _attending(values, "model.context_dim", dim)


def _attending(values: Mapping[str, Any], field: str, got: Any) -> dict[str, str]:
    """Find what a U-Net that looks at a sequence cannot be."""
    faults = {}
    if not (values["model.attention_resolutions"] or values["model.middle_attention"]):
        faults[field] = f"got {got!r}; without attention nothing looks at a sequence"
    for name, needed in (("scale_skips", False), ("middle_norm", True)):
        if values[f"model.{name}"] != needed:
            faults[f"model.{name}"] = f"got {not needed}; {needed} is required with {field}"
    return faults


def _text(values: Mapping[str, Any]) -> dict[str, str]:
    kind = values["text.tokenizer"]
    if kind == "none":
        return {}
    faults = parts.text_faults(values)
    for name in ("context_dim", "pooled_dim"):
        if got := values[f"model.{name}"]:
            what = "a text has vectors of its own, of text.width"
            faults[f"model.{name}"] = f"got {got}; 0 is required with text.tokenizer: {what}"
    if values["model.network"] == "unet":
        faults |= _attending(values, "text.tokenizer", kind)
    return faults


def _stages(values: Mapping[str, Any]) -> dict[str, str]:
    faults = {}
    for name, needed in (
        ("stages.base", "model.low_res_factor"),
        ("model.low_res_noise", "model.low_res_factor"),
        ("stages.prior", "stages.clip"),
    ):
        if (got := values[name]) and not values[needed]:
            faults[name] = f"got {got!r}; {needed} is required with it"
    if not values["stages.clip"]:
        return faults
    for name in ("context_dim", "pooled_dim"):
        if got := values[f"model.{name}"]:
            faults[f"model.{name}"] = f"got {got}; 0 is required with stages.clip"
    if values["model.network"] == "unet":
        faults |= _attending(values, "stages.clip", values["stages.clip"])
    return faults


def _depths(values: Mapping[str, Any]) -> dict[str, str]:
    depths, levels = values["model.context_depths"], values["model.multipliers"]
    attends = values["model.context_dim"] or parts.told_text(values) or values["stages.clip"]
    if depths and (len(depths) != len(levels) or not attends):
        what = "as many as model.multipliers, with model.context_dim or a text, are required"
        return {"model.context_depths": f"got {tuple(depths)}; {what}"}
    return {}


def _told(values: Mapping[str, Any]) -> dict[str, str]:
    faults = {}
    if (got := values["model.pooled_dim"]) and values["model.network"] == "dit":
        faults["model.pooled_dim"] = f"got {got}; 0 is required for dit"
    if values["model.beside"] != "nothing" and values["model.low_res_factor"]:
        got = values["model.low_res_factor"]
        faults["model.low_res_factor"] = f"got {got}; 0 is required with model.beside"
    for name, usual in (("source_scale", 1), ("source_dropout", 0)):
        if (got := values[f"model.{name}"]) != usual and values["model.beside"] != "source":
            faults[f"model.{name}"] = f"got {got}; {usual} is required without a source beside x"
    return faults


def _dropout(values: Mapping[str, Any]) -> dict[str, str]:
    names = ("num_classes", "context_dim", "pooled_dim")
    conditional = any(values[f"model.{name}"] for name in names)
    conditional |= parts.told_text(values) or bool(values["stages.clip"])
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


def signal(values: Mapping[str, Any]) -> dict[str, str]:
    """Find a schedule of betas that leaves too much of the signal."""
    given = {name: values[f"diffusion.{name}"] for name in _BETAS}
    return prefixed("diffusion", rules.signal_faults(**given))


def _prediction(values: Mapping[str, Any]) -> dict[str, str]:
    schedule = values["diffusion.schedule"]
    faults = rules.prediction_faults(
        prediction=values["diffusion.prediction"],
        signal=schedule != "flow" and not values["diffusion.zero_terminal_snr"],
        last_beta=rules.last_beta(
            schedule, values["diffusion.num_steps"], values["diffusion.beta_end"]
        ),
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


def _pairing(values: Mapping[str, Any]) -> dict[str, str]:
    faults = rules.pairing_faults(
        pairing=values["diffusion.pairing"],
        coupled=values["diffusion.coupled"],
        objective=values["diffusion.objective"],
        shared_condition=not any(
            values[f"model.{name}"] for name in ("context_dim", "low_res_factor", "pooled_dim")
        )
        and values["model.beside"] == "nothing"
        and not parts.told_text(values)
        and not values["stages.clip"],
    )
    return prefixed("diffusion", faults)


def _weighting(values: Mapping[str, Any]) -> dict[str, str]:
    faults = rules.weighting_faults(
        weighting=values["diffusion.weighting"],
        prediction=values["diffusion.prediction"],
        continuous=values["diffusion.schedule"] not in rules.TABLES,
    )
    return prefixed("diffusion", faults)


def zero_snr(values: Mapping[str, Any]) -> dict[str, str]:
    """Find what is rescaled where there is no table."""
    if values["diffusion.zero_terminal_snr"] and values["diffusion.schedule"] not in rules.TABLES:
        what = f"a table is required, and {values['diffusion.schedule']!r} has none"
        return {"diffusion.zero_terminal_snr": f"got True; {what}"}
    return {}


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
        **parts.stages("text", "clip", "prior", "base"),
        "model.network": choice(
            "unet",
            "dit",
            change="frozen",
            doc="U-Net of Ho et al. 2020 and its options, or diffusion transformer",
        ),
        **_UNET_FIELDS,
        **_DIT_FIELDS,
        "model.num_heads": integer(1, default=1, **_FROZEN, doc="attention heads"),
        "model.dropout": number(0, 1, below=True, default=0.1, doc="dropout rate of activations"),
        **parts.num_classes(),
        **parts.class_dropout("frozen"),
        **parts.TEXT,
        **parts.GUIDANCE,
        "model.low_res_factor": integer(
            0, default=0, **_FROZEN, doc="by how much images are made larger; 0: not at all"
        ),
        "model.low_res_noise": boolean(
            default=False,
            **_FROZEN,
            doc="low_res_factor: noise of any level is added to the small image in training",
        ),
        "model.embedding_dropout": number(
            0, 1, below=True, default=0.1, doc="stages.clip: share of embeddings left out"
        ),
        "model.beside": choice(
            "nothing",
            "source",
            "masked",
            **_FROZEN,
            doc="image that it sees beside x: one to change, or one with a hole to fill",
        ),
        "model.source_scale": number(
            0, above=True, default=1.0, **_FROZEN, doc="what a source beside x is scaled by"
        ),
        "model.source_dropout": number(
            0,
            1,
            below=True,
            default=0.0,
            **_FROZEN,
            doc="share of examples whose source is left out, for a guidance by it",
        ),
        **parts.DTYPE,
        **parts.REMAT,
        **_PROCESS_FIELDS,
    },
    rules=(
        _network,
        _context,
        _depths,
        _text,
        _stages,
        parts.guidance_faults,
        _told,
        _dropout,
        _low_res,
        _clip,
        betas,
        zero_snr,
        _prediction,
        _objective,
        _gamma,
        _times,
    ),
    rules_for_new=(signal, _pairing, _weighting),
    presets={
        "adm": {  # all that Dhariwal & Nichol 2021's network differs in, as their code has it
            "model.network": "unet",
            "model.adaptive": True,
            "model.resample": "blocks",
            "model.head_dim": 64,
            "model.epsilon": 1e-5,
            "model.cos_first": True,
            "model.frequency_shift": 0,
            "model.time_offset": -1.0,
        }
    },
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
