"""Boltzmann machines."""

from collections.abc import Mapping
from typing import Any

from gen_jax.codecs import binary, dequantize, with_codec
from gen_jax.launch.build.experiment import Experiment, Stage1, make_optimizer
from gen_jax.models.boltzmann import dbm_model, rbm_model

__all__ = ["build"]


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizer."""
    del stage1
    shape, hidden = tuple(values["data.shape"]), tuple(values["model.hidden"])
    steps, chains = values["model.gibbs_steps"], values["model.chains"]
    gaussian = values["model.visible"] == "gaussian"
    if values["model.kind"] == "dbm":
        rounds = values["model.mean_field_rounds"]
        model = dbm_model(shape, hidden, steps=steps, chains=chains, rounds=rounds)
    else:
        model = rbm_model(
            shape,
            hidden[0],
            gaussian=gaussian,
            negative=values["model.negative"],
            steps=steps,
            chains=chains,
            temperatures=values["model.temperatures"],
        )
    codec = dequantize() if gaussian else binary(values["model.binarize"])
    return Experiment(with_codec(model, codec), {"net": make_optimizer(values)})
