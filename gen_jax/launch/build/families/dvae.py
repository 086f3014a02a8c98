"""Discrete VAEs with a Gumbel-softmax relaxation, as DALL-E's."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from gen_jax.launch.build import autoencoders
from gen_jax.launch.build.adversary import autoencoding
from gen_jax.launch.build.experiment import Experiment, Stage1
from gen_jax.models.dvae import Ramp, dvae_model
from gen_jax.nn.dvae import DVAEDecoder, DVAEEncoder

__all__ = ["build"]


def build(values: Mapping[str, Any], stage1: Stage1 | None = None) -> Experiment:
    """Build the model, its codec and its optimizers."""
    del stage1
    height, width, channels = values["data.shape"]
    codec, likelihood = autoencoders.codec_and_likelihood(values["model.likelihood"], channels)
    num_codes, initial = values["model.num_codes"], values["model.initial"]
    names = ("hidden", "num_groups", "num_blocks")
    shared = {name: values[f"model.{name}"] for name in names}
    shared["dtype"] = jnp.dtype(values["model.dtype"])
    factor = 2 ** (values["model.num_groups"] - 1)

    def ramp(name: str) -> Ramp:
        return Ramp(*(values[f"model.{name}_{part}"] for part in ("start", "end", "steps")))

    model = dvae_model(
        DVAEEncoder(num_codes, **shared),
        DVAEDecoder(num_codes, likelihood.num_outputs(channels), initial, **shared),
        likelihood,
        (height // factor, width // factor),
        num_codes,
        temperature=ramp("temperature"),
        kl_weight=ramp("kl"),
        straight_through=values["model.straight_through"],
    )
    # A density of gray levels without noise bounds no probability of pixels.
    codec = codec._replace(log_scale=None)
    return autoencoding(
        model,
        codec,
        values,
        last="^head$",
        mean=likelihood.mean,
        low=0.0 if values["model.likelihood"] == "logit_laplace" else -1.0,
    )
