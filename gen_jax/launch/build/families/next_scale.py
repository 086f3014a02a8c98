"""VAR: a prior over codes from coarse to fine, a scale at a time."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gen_jax.codecs import with_codec
from gen_jax.errors import ConfigError
from gen_jax.launch.build import texts
from gen_jax.launch.build.experiment import Experiment, Stage1, make_optimizer
from gen_jax.models.next_scale import next_scale_model
from gen_jax.nn.next_scale import NextScale

__all__ = ["build"]


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizer."""
    assert stage1 is not None
    codec = stage1.codec
    partial = codec.partial
    if partial is None:
        raise ConfigError(
            "stage1: its codes are of one scale; a vqvae with model.quantizer 'multi_scale' is "
            "required"
        )
    codes = jax.ShapeDtypeStruct((1, *stage1.code_shape), jnp.int32)
    vectors = jax.eval_shape(lambda weights, z: partial(weights, z, 1), stage1.weights, codes)
    names = ("width", "depth", "num_heads", "mlp_ratio", "dropout")
    # One label more, for none, where conditions are left out in training.
    num_classes = values["model.num_classes"]
    network = NextScale(
        codec.num_categories,
        codec.scales,
        vectors.shape[-1],
        num_classes=num_classes + bool(values["model.class_dropout"]) if num_classes else None,
        context_dim=texts.width_of(values),
        dtype=jnp.dtype(values["model.dtype"]),
        **{name: values[f"model.{name}"] for name in names},
    )
    model = next_scale_model(
        network,
        partial,
        num_classes or None,
        values["model.class_dropout"],
        guidance=values["model.guidance"] or None,
        **texts.make_text(values),
    )
    return Experiment(
        with_codec(model, codec),
        {"net": make_optimizer(values)},
        frozen={"codec": stage1.weights},
        stage1_digest=stage1.digest,
        num_tokens=stage1.code_shape[0],
    )
