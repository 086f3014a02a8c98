"""Discrete VAEs with a Gumbel-softmax relaxation, as DALL-E's."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gen_jax.launch import autoencoders
from gen_jax.launch.schema import boolean, choice, integer, number

if TYPE_CHECKING:
    from gen_jax.launch.experiment import Experiment

FIELDS = {
    "model.num_codes": integer(2, change="frozen"),
    "model.hidden": integer(4, change="frozen"),
    "model.initial": integer(1, change="frozen"),
    "model.num_groups": integer(1, 8, change="frozen"),  # halvings, and one
    "model.num_blocks": integer(1, change="frozen"),
    "model.likelihood": choice("logit_laplace", "gaussian", change="frozen"),
    "model.temperature_start": number(0, above=True),
    "model.temperature_end": number(0, above=True),
    "model.temperature_steps": integer(0),
    "model.kl_start": number(0),
    "model.kl_end": number(0),
    "model.kl_steps": integer(0),
    "model.straight_through": boolean(),
    "model.dtype": choice("float32", "bfloat16"),
}

LATENTS = True  # has encode and decode
DISCRETE = True


def faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find what is wrong between fields that are each right by themselves."""
    found = []
    factor = 2 ** (values["model.num_groups"] - 1)
    height, width, _ = values["data.shape"]
    if height % factor or width % factor:
        found.append(
            (
                "model.num_groups",
                f"{values['model.num_groups']} groups divide by {factor}, which {height}x{width} "
                "is no multiple of",
            )
        )
    if values["model.hidden"] % 4:
        found.append(("model.hidden", f"{values['model.hidden']}; a multiple of 4 is needed"))
    return found


def build(values: Mapping[str, Any]) -> "Experiment":
    """Build the model, its codec and its optimiser."""
    # Here and not above: the schema reads FIELDS before anything heavy may be loaded.
    import jax.numpy as jnp

    from gen_jax.codecs import with_codec
    from gen_jax.launch.experiment import Experiment, make_optimizer
    from gen_jax.models.dvae import Ramp, dvae_model
    from gen_jax.nn.blocks import TENSOR_DIMS
    from gen_jax.nn.dvae import DVAEDecoder, DVAEEncoder

    height, width, channels = values["data.shape"]
    codec, likelihood = autoencoders.codec_and_likelihood(values["model.likelihood"], channels)
    shared = {
        "dtype": jnp.dtype(values["model.dtype"]),
        **{name: values[f"model.{name}"] for name in ("hidden", "num_groups", "num_blocks")},
    }
    factor = 2 ** (values["model.num_groups"] - 1)

    def ramp(name: str) -> Ramp:
        return Ramp(*(values[f"model.{name}_{part}"] for part in ("start", "end", "steps")))

    model = dvae_model(
        DVAEEncoder(values["model.num_codes"], **shared),
        DVAEDecoder(
            values["model.num_codes"],
            likelihood.num_outputs(channels),
            values["model.initial"],
            **shared,
        ),
        likelihood,
        (height // factor, width // factor),
        values["model.num_codes"],
        temperature=ramp("temperature"),
        kl_weight=ramp("kl"),
        straight_through=values["model.straight_through"],
    )
    return Experiment(
        # A density of grey levels without noise bounds no probability of pixels.
        model=with_codec(model, codec._replace(log_scale=None)),
        optimizers={"net": make_optimizer(values)},
        frozen={"codec": {}},
        tensor_dims=TENSOR_DIMS,
    )
