"""Autoregressive models with a causal transformer, over pixels."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gen_jax.launch.schema import choice, integer, number
from gen_jax.nn.geometry import transformer_faults

if TYPE_CHECKING:
    from gen_jax.launch.experiment import Experiment

FIELDS = {
    "model.levels": integer(2, 256, change="frozen"),
    "model.width": integer(1, change="frozen"),
    "model.depth": integer(1, change="frozen"),
    "model.num_heads": integer(1, change="frozen"),
    "model.mlp_ratio": integer(1, change="frozen"),
    "model.dropout": number(0, 1, below=True),
    "model.num_classes": integer(0, change="frozen"),  # 0: unconditional
    "model.dtype": choice("float32", "bfloat16"),
    "model.remat": choice("none", "matmuls", "full"),
}


def faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong between fields that are each right by themselves."""
    arguments = {name: values[f"model.{name}"] for name in ("width", "num_heads")}
    return [(f"model.{name}", fault) for name, fault in transformer_faults(**arguments).items()]


def build(values: Mapping[str, Any]) -> "Experiment":
    """Build the model, its codec and its optimiser."""
    # Here and not above: the schema reads FIELDS before anything heavy may be loaded.
    import math

    import jax.numpy as jnp

    from gen_jax.codecs import tokens, with_codec
    from gen_jax.launch.experiment import Experiment, make_optimizer
    from gen_jax.models.autoregressive import autoregressive
    from gen_jax.nn.blocks import TENSOR_DIMS
    from gen_jax.nn.transformer import CausalTransformer

    num_classes = values["model.num_classes"] or None
    names = ("width", "depth", "num_heads", "mlp_ratio", "dropout", "remat")
    network = CausalTransformer(
        num_categories=values["model.levels"],
        length=math.prod(values["data.shape"]),
        num_classes=num_classes,
        dtype=jnp.dtype(values["model.dtype"]),
        **{name: values[f"model.{name}"] for name in names},
    )
    model = autoregressive(network, values["data.shape"], num_classes)
    return Experiment(
        model=with_codec(model, tokens(values["model.levels"])),
        optimizers={"net": make_optimizer(values)},
        frozen={"codec": {}},
        num_classes=num_classes,
        tensor_dims=TENSOR_DIMS,
    )
