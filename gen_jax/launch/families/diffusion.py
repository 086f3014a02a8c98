"""Diffusion models and flows, over pixels or over the codes of a first stage."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gen_jax.launch.schema import boolean, choice, integer, integers, number, text
from gen_jax.nn.geometry import dit_faults, unet_faults

if TYPE_CHECKING:
    from gen_jax.launch.experiment import Experiment
    from gen_jax.launch.stage1 import Stage1

FIELDS = {
    # Free, because it may move: a run keeps a copy of the one it began with.
    "stage1": text(".*", "the work directory of a first stage, or nothing to model pixels"),
    "model.network": choice("unet", "dit", change="frozen"),
    "model.channels": integer(4, change="frozen"),  # unet, from here
    "model.multipliers": integers(1, change="frozen"),
    "model.num_res_blocks": integer(1, change="frozen"),
    "model.attention_resolutions": integers(1, change="frozen"),
    "model.head_dim": integer(0, change="frozen"),  # 0: num_heads at all widths
    "model.groups": integer(1, change="frozen"),
    "model.block": choice("resnet", "convnext", change="frozen"),
    "model.adaptive": boolean(change="frozen"),
    "model.resample": choice("conv", "blocks", change="frozen"),
    "model.scale_skips": boolean(change="frozen"),
    "model.activation": choice("auto", "silu", "gelu", change="frozen"),
    "model.middle_attention": boolean(change="frozen"),
    "model.middle_norm": boolean(change="frozen"),
    "model.context_dim": integer(0, change="frozen"),  # 0: no sequence
    "model.context_depth": integer(1, change="frozen"),
    "model.epsilon": number(0, above=True, change="frozen"),
    "model.centred": boolean(change="frozen"),
    "model.time_offset": number(-1, 1, change="frozen"),
    "model.cos_first": boolean(change="frozen"),
    "model.frequency_shift": integer(0, 1, change="frozen"),  # to here
    "model.patch": integer(1, change="frozen"),  # dit, from here
    "model.width": integer(4, change="frozen"),
    "model.depth": integer(1, change="frozen"),
    "model.mlp_ratio": integer(1, change="frozen"),  # to here
    "model.num_heads": integer(1, change="frozen"),
    "model.dropout": number(0, 1, below=True),
    "model.num_classes": integer(0, change="frozen"),  # 0: unconditional
    "model.class_dropout": number(0, 1, below=True, change="frozen"),  # above 0: guidance
    "model.low_res_factor": integer(0, change="frozen"),  # above 1: makes images larger
    "model.dtype": choice("float32", "bfloat16"),
    "model.remat": choice("none", "matmuls", "full"),
    "diffusion.schedule": choice(
        "linear", "scaled_linear", "cosine", "flow", "edm", change="frozen"
    ),
    "diffusion.num_steps": integer(1, 100_000, change="frozen"),  # of linear and cosine
    "diffusion.beta_start": number(0, 1, above=True, below=True, change="frozen"),
    "diffusion.beta_end": number(0, 1, above=True, below=True, change="frozen"),
    "diffusion.sigma_max": number(0, above=True, change="frozen"),  # of edm
    "diffusion.sigma_data": number(0, above=True, change="frozen"),  # of prediction edm
    "diffusion.prediction": choice("eps", "x_0", "v", "velocity", "edm", change="frozen"),
    "diffusion.learned_variance": boolean(change="frozen"),
    "diffusion.objective": choice("simple", "hybrid", "vlb"),
    "diffusion.importance": boolean(change="frozen"),  # times in proportion to their losses
    "diffusion.weighting": choice("none", "eps", "min_snr", "p2"),
    "diffusion.weighting_gamma": number(0),  # of min_snr and p2; 0: the papers'
    "diffusion.times": choice("uniform", "logit_normal", "log_normal_noise"),
    "diffusion.times_mean": number(-20, 20),
    "diffusion.times_std": number(0),  # 0: the papers' mean and deviation
    "diffusion.antithetic": boolean(),
    "diffusion.pairing": boolean(),
    "diffusion.clip": boolean(),
}

_UNET = ("channels", "multipliers", "attention_resolutions", "num_heads", "groups", "head_dim")
_UNET_OPTIONS = (
    *("num_res_blocks", "block", "adaptive", "resample", "scale_skips", "activation"),
    *("middle_attention", "middle_norm", "context_depth", "epsilon", "centred"),
)
_DIT = ("patch", "width", "num_heads")
TABLES = ("linear", "scaled_linear", "cosine")


def faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong between fields that are each right by themselves."""
    height, width, _ = values["data.shape"]
    if height != width:
        return [("data.shape", f"{height}x{width}; the networks need square images")]
    found = []
    network = values["model.network"]
    if not values["stage1"]:
        names: tuple[str, ...] = _UNET if network == "unet" else _DIT
        find: Any = unet_faults if network == "unet" else dit_faults
        faults = find(resolution=height, **{name: values[f"model.{name}"] for name in names})
        found += [(f"model.{name}", fault) for name, fault in faults.items()]
    elif values["diffusion.clip"]:  # what is modelled, and so its size, is the first stage's affair
        found.append(("diffusion.clip", "True; with a stage1 there is no range to clip codes to"))
    if network == "dit" and values["model.context_dim"]:
        found.append(("model.context_dim", f"{values['model.context_dim']}; 0 is needed for dit"))
    conditional = values["model.num_classes"] or values["model.context_dim"]
    if values["model.class_dropout"] and not conditional:
        rate = values["model.class_dropout"]
        found.append(("model.class_dropout", f"{rate}; 0 is needed without model.num_classes"))
    if network == "unet" and values["model.context_dim"]:
        attends = values["model.attention_resolutions"] or values["model.middle_attention"]
        if not attends:
            what = f"{values['model.context_dim']}; without attention nothing looks at a sequence"
            found.append(("model.context_dim", what))
        for name, needed in (("scale_skips", False), ("middle_norm", True)):
            if values[f"model.{name}"] != needed:
                what = f"{not needed}; {needed} is needed with model.context_dim"
                found.append((f"model.{name}", what))
    factor = values["model.low_res_factor"]
    if factor and (factor < 2 or height % factor or values["stage1"]):
        what = "0, or from 2 a divisor of the image's side, without a stage1, is needed"
        found.append(("model.low_res_factor", f"{factor}; {what}"))
    return found + _process_faults(values)


def _process_faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    get = lambda name: values[f"diffusion.{name}"]  # noqa: E731
    schedule, prediction = get("schedule"), get("prediction")
    found = []
    if (schedule, prediction) == ("cosine", "eps") and not get("clip"):
        # At t = 1 the cosine's alpha is 1e-4 or less, and x_0 = (x - sigma eps) / alpha.
        found.append(
            (
                "diffusion.prediction",
                "'eps'; without diffusion.clip a cosine schedule multiplies its error at t = 1 by "
                "thousands; 'v' or 'x_0' is needed",
            )
        )
    if (schedule, prediction) == ("flow", "eps"):
        found.append(
            (
                "diffusion.prediction",
                "'eps'; at t = 1 of a flow nothing says what x_0 is; 'velocity', 'v', 'x_0' or "
                "'edm' is needed",
            )
        )
    objective, learned = get("objective"), get("learned_variance")
    if schedule not in TABLES:
        for name, wrong in (
            ("objective", objective != "simple"),
            ("importance", get("importance")),
        ):
            if wrong:
                what = f"{get(name)!r}; a discrete schedule ({', '.join(TABLES)}) is needed"
                found.append((f"diffusion.{name}", what))
    if objective == "hybrid" and not learned:
        found.append(("diffusion.objective", "'hybrid'; diffusion.learned_variance is needed"))
    if objective == "simple" and learned:
        found.append(("diffusion.learned_variance", "True; objective 'simple' never trains it"))
    if objective == "vlb" and get("weighting") != "none":
        what = f"{get('weighting')!r}; 'none' is needed with objective 'vlb'"
        found.append(("diffusion.weighting", what))
    if get("weighting_gamma") and get("weighting") in ("none", "eps"):
        what = f"{get('weighting_gamma')}; of diffusion.weighting 'min_snr' and 'p2'"
        found.append(("diffusion.weighting_gamma", what))
    return found + _time_faults(values) + beta_faults(values)


def _time_faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong with the times that are trained."""
    get = lambda name: values[f"diffusion.{name}"]  # noqa: E731
    objective, found = get("objective"), []
    times, mirrored = get("times"), get("antithetic")
    if get("schedule") == "edm" and times != "log_normal_noise":
        what = f"{times!r}; times of 'edm' must be 'log_normal_noise': others are nearly all noise"
        found.append(("diffusion.times", what))
    if times == "uniform" and (get("times_mean") or get("times_std")):
        name = "times_mean" if get("times_mean") else "times_std"
        found.append((f"diffusion.{name}", f"{get(name)}; diffusion.times 'uniform' has none"))
    elif get("times_mean") and not get("times_std"):
        what = f"{get('times_mean')}; it goes with diffusion.times_std; both 0: the paper's"
        found.append(("diffusion.times_mean", what))
    if objective != "simple" and times != "uniform":
        what = f"{times!r}; 'uniform' is needed with objective {objective!r}"
        found.append(("diffusion.times", what))
    if mirrored and (times == "log_normal_noise" or get("times_mean")):
        found.append(("diffusion.antithetic", "True; such times have no mirror"))
    if get("importance") and (mirrored or times != "uniform"):
        name = "antithetic" if mirrored else "times"
        what = f"{get(name)!r}; with diffusion.importance the losses choose the times"
        found.append((f"diffusion.{name}", what))
    return found


def beta_faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong with a schedule of betas."""
    start, end = values["diffusion.beta_start"], values["diffusion.beta_end"]
    schedule, num_steps = values["diffusion.schedule"], values["diffusion.num_steps"]
    if schedule not in ("linear", "scaled_linear"):
        return []
    if start > end:
        return [("diffusion.beta_start", f"{start}; at most diffusion.beta_end {end} is needed")]
    # As in diffusion.schedules.from_betas, whose MIN_ALPHA this is: there it would be found
    # only after JAX is loaded.
    power = 1 if schedule == "linear" else 2
    low, high = start ** (1 / power), end ** (1 / power)
    span = (high - low) / max(num_steps - 1, 1)
    betas = ((low + span * i) ** power for i in range(num_steps))
    if sum(math.log1p(-beta) for beta in betas) < 2 * math.log(1e-18):
        what = f"with {num_steps} steps nothing of the signal is left; a smaller one is needed"
        return [("diffusion.beta_end", f"{end}; {what}")]
    return []


def build(values: Mapping[str, Any], stage1: "Stage1 | None" = None) -> "Experiment":
    """Build the model, its codec and its optimiser."""
    # Here and not above: the schema reads FIELDS before anything heavy may be loaded.
    from gen_jax.codecs import rgb, with_codec
    from gen_jax.errors import ConfigError
    from gen_jax.launch.experiment import Experiment, make_optimizer
    from gen_jax.models.diffusion import diffusion_model
    from gen_jax.nn.blocks import TENSOR_DIMS

    if stage1 is not None and stage1.codec.num_categories is not None:
        raise ConfigError(
            "stage1: its codes are whole numbers; family 'autoregressive' models these"
        )
    shape = tuple(values["data.shape"]) if stage1 is None else stage1.code_shape
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ConfigError(f"stage1: square grids of codes are needed, got codes of {shape}")
    try:
        network = make_network(values, shape)
    except ValueError as error:  # with a first stage only: else the schema has found it
        raise ConfigError(f"model: over codes of {shape}: {error}") from error
    schedule, num_steps = make_schedule(values)
    model = diffusion_model(
        network,
        schedule,
        _prediction(values),
        shape=shape,
        num_steps=num_steps,
        num_classes=values["model.num_classes"] or None,
        clip=values["diffusion.clip"],
        class_dropout=values["model.class_dropout"],
        context_dim=values["model.context_dim"] or None,
        low_res_factor=values["model.low_res_factor"] or None,
        learned_variance=values["diffusion.learned_variance"],
        objective=values["diffusion.objective"],
        weighting=_weighting(values),
        time_sampler=_time_sampler(values, schedule, num_steps),
        importance_batch=values["data.batch_size"] if values["diffusion.importance"] else None,
        pairing=values["diffusion.pairing"],
        bin_width=2 / 255 if stage1 is None else None,
        default_grid="karras" if values["diffusion.schedule"] == "edm" else "uniform",
    )
    codec, weights = (rgb(), {}) if stage1 is None else (stage1.codec, stage1.weights)
    return Experiment(
        model=with_codec(model, codec),
        optimizers={"net": make_optimizer(values)},
        frozen={"codec": weights},
        stage1_digest=None if stage1 is None else stage1.digest,
        tensor_dims=TENSOR_DIMS,
    )


def make_network(values: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    """Make the network that a config describes, for x of a shape."""
    import jax.numpy as jnp

    from gen_jax.nn.dit import DiT
    from gen_jax.nn.unet import UNet

    resolution, _, channels = shape
    # One label more, for none, where conditions are left out in training.
    num_classes = values["model.num_classes"] + bool(values["model.class_dropout"])
    shared = {
        "resolution": resolution,
        "out_channels": channels * (1 + values["diffusion.learned_variance"]),
        "dropout": values["model.dropout"],
        "num_classes": num_classes if values["model.num_classes"] else None,
        "dtype": jnp.dtype(values["model.dtype"]),
        "remat": values["model.remat"],
        # EDM shows a quarter of the noise level's logarithm, and embeds that as it is.
        "time": (
            ("scale", 1.0 if values["diffusion.prediction"] == "edm" else 1000.0),
            ("offset", values["model.time_offset"]),
        ),
    }
    if values["model.network"] == "dit":
        names: tuple[str, ...] = (*_DIT, "depth", "mlp_ratio")
        return DiT(**shared, **{name: values[f"model.{name}"] for name in names})
    waves = {"cos_first": values["model.cos_first"], "shift": values["model.frequency_shift"]}
    shared["time"] += tuple(waves.items())
    names = (*_UNET, *_UNET_OPTIONS)
    options = {name: values[f"model.{name}"] for name in names}
    return UNet(**shared, context_dim=values["model.context_dim"] or None, **options)


def make_schedule(values: Mapping[str, Any]) -> tuple[Any, int | None]:
    """Make the schedule that a config describes, and its number of steps, if it is discrete."""
    from gen_jax import diffusion as process

    kind, num_steps = values["diffusion.schedule"], values["diffusion.num_steps"]
    if kind == "flow":
        return process.rectified_flow(), None
    if kind == "edm":
        return process.variance_exploding(values["diffusion.sigma_max"]), None
    return process.from_betas(make_betas(values)), num_steps


def make_betas(values: Mapping[str, Any]) -> Any:
    """Give the variances beta_1 to beta_T of a discrete schedule that a config describes."""
    from gen_jax.diffusion import schedules

    kind, num_steps = values["diffusion.schedule"], values["diffusion.num_steps"]
    if kind == "cosine":
        return schedules.cosine_betas(num_steps)
    make = schedules.linear_betas if kind == "linear" else schedules.scaled_linear_betas
    return make(num_steps, values["diffusion.beta_start"], values["diffusion.beta_end"])


def _prediction(values: Mapping[str, Any]) -> Any:
    from gen_jax import diffusion as process

    kinds = {
        "eps": process.epsilon,
        "x_0": process.x_0,
        "v": process.v,
        "velocity": process.velocity,
        "edm": process.edm(values["diffusion.sigma_data"]),
    }
    return kinds[values["diffusion.prediction"]]


def _weighting(values: Mapping[str, Any]) -> Any:
    from gen_jax import diffusion as process

    gamma = values["diffusion.weighting_gamma"]
    arguments = (gamma,) if gamma else ()  # 0: the paper's
    kinds = {
        "none": lambda: None,
        "eps": process.simple,
        "min_snr": lambda: process.min_snr(*arguments),
        "p2": lambda: process.p2(*arguments),
    }
    return kinds[values["diffusion.weighting"]]()


def _time_sampler(values: Mapping[str, Any], schedule: Any, num_steps: int | None) -> Any:
    from gen_jax import diffusion as process

    mean, std = values["diffusion.times_mean"], values["diffusion.times_std"]
    moments = (mean, std) if std else ()  # without a deviation, the paper's
    kind = values["diffusion.times"]
    if kind == "log_normal_noise":
        return process.log_normal_noise(schedule, *moments)
    if kind == "logit_normal":
        sampler, mirrored = process.logit_normal(*moments), None
    elif num_steps is None:
        sampler, mirrored = process.continuous(), None
    else:
        sampler, mirrored = process.discrete(num_steps), num_steps
    return process.antithetic(sampler, mirrored) if values["diffusion.antithetic"] else sampler
