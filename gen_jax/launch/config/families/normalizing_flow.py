"""Normalizing flows."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import Family, choice, integer, number, prefixed
from gen_jax.models.rules import flow_faults
from gen_jax.nn.geometry import flow_faults as network_faults

__all__ = ["FAMILY"]


def _network(values: Mapping[str, Any]) -> dict[str, str]:
    kind, levels = values["model.kind"], values["model.levels"]
    given: dict[str, Any] = {"resolution": values["data.shape"][:2]}
    if kind in ("glow", "realnvp"):
        given["levels"] = levels if kind == "glow" else levels - 1
    else:
        given |= {name: values[f"model.{name}"] for name in ("patch", "width", "num_heads")}
        given["even_tokens"] = kind == "jet"
    return prefixed("model", network_faults(**given))


def _noise(values: Mapping[str, Any]) -> dict[str, str]:
    noise, how = values["model.noise"], values["model.dequantization"]
    if bool(noise) != (how == "none"):
        needed = "'none'" if noise else "'uniform' or 'variational'"
        wanted = f"got {how!r}; {needed} is required with model.noise {noise}"
        return {"model.dequantization": wanted}
    return {}


def _model(values: Mapping[str, Any]) -> dict[str, str]:
    faults = flow_faults(
        class_dropout=values["model.class_dropout"],
        conditional=values["model.num_classes"] > 0,
        noise=values["model.noise"],
        variational=values["model.dequantization"] == "variational",
        autoregressive=values["model.kind"] == "tarflow",
    )
    return prefixed("model", faults)


_frozen: Any = {"change": "frozen"}

FAMILY = Family(
    fields={
        "model.kind": choice(
            "glow",
            "realnvp",
            "jet",
            "tarflow",
            **_frozen,
            doc="the flow: of convolutions, of transformers, or of causal transformers",
        ),
        "model.levels": integer(
            1, 10, default=2, **_frozen, doc="glow, realnvp: resolutions, each half of the last"
        ),
        "model.steps": integer(1, default=8, **_frozen, doc="glow: steps of each level"),
        "model.width": integer(
            1, default=64, **_frozen, doc="channels between the layers of each network"
        ),
        "model.num_res_blocks": integer(
            0, default=2, **_frozen, doc="realnvp: residual blocks of each network"
        ),
        "model.patch": integer(1, default=4, **_frozen, doc="jet, tarflow: side of a token"),
        "model.blocks": integer(
            1,
            default=4,
            **_frozen,
            doc="tarflow: causal maps; jet: groups of four couplings of channels and one of tokens",
        ),
        "model.depth": integer(
            1, default=2, **_frozen, doc="jet, tarflow: layers of each transformer"
        ),
        "model.num_heads": integer(
            1, default=2, **_frozen, doc="jet, tarflow: heads of each attention layer"
        ),
        "model.dequantization": choice(
            "uniform",
            "variational",
            "none",
            **_frozen,
            doc="what fills the bins of gray levels: noise, a flow of its own, or nothing",
        ),
        "model.noise": number(
            0,
            default=0.0,
            **_frozen,
            doc="deviation of noise on images from -1 to 1, taken off samples; there is no "
            "likelihood then",
        ),
        **parts.num_classes(),
        **parts.class_dropout("frozen"),
        **parts.DTYPE,
    },
    rules=(_network, _noise, _model),
    defaults={"optimizer.learning_rate": 1e-3, "optimizer.warmup_steps": 100},
    tiny={
        "model.levels": lambda levels: min(levels, 2),
        "model.steps": 2,
        "model.width": 8,
        "model.num_res_blocks": 1,
        "model.patch": 2,
        "model.blocks": 2,
        "model.depth": 1,
        "model.num_heads": 2,
    },
)
