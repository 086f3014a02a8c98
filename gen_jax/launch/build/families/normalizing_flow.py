"""Normalizing flows."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp

from gen_jax.codecs import dequantize, rgb, with_codec
from gen_jax.launch.build.experiment import Experiment, Stage1, make_optimizer
from gen_jax.models.flow import flow_model
from gen_jax.nn import flow
from gen_jax.ops.bijectors import Bijector

__all__ = ["build"]

# What each flow is made of, beside its shape, classes and precision.
_FLOWS: Mapping[str, tuple[Callable[..., Bijector], Mapping[str, str]]] = {
    "glow": (flow.glow, {"levels": "levels", "steps": "steps", "width": "width"}),
    "realnvp": (
        flow.realnvp,
        {"levels": "levels", "width": "width", "num_blocks": "num_res_blocks"},
    ),
    **{
        name: (
            make,
            {part: part for part in ("patch", "blocks", "width", "depth", "num_heads")},
        )
        for name, make in (("jet", flow.jet), ("tarflow", flow.tarflow))
    },
}


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizers."""
    del stage1
    shape, num_classes = tuple(values["data.shape"]), values["model.num_classes"] or None
    make, names = _FLOWS[values["model.kind"]]
    bijector = make(
        shape,
        num_classes=num_classes,
        dtype=jnp.dtype(values["model.dtype"]),
        **{argument: values[f"model.{name}"] for argument, name in names.items()},
    )
    how = values["model.dequantization"]
    model = flow_model(
        bijector,
        shape,
        num_classes=num_classes,
        class_dropout=values["model.class_dropout"],
        noise=values["model.noise"],
        dequantizer=flow.dequantizer(shape) if how == "variational" else None,
        autoregressive=values["model.kind"] == "tarflow",
    )
    codec = rgb() if how == "none" else dequantize(fill=how == "uniform")
    return Experiment(with_codec(model, codec), {"net": make_optimizer(values)})
