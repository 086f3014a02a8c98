"""Discrete VAEs with a Gumbel-softmax relaxation, as DALL-E's: its network and its schedules."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import Family, boolean, choice, integer, number, prefixed
from gen_jax.nn.geometry import dvae_faults

__all__ = ["FAMILY"]


def _network(values: Mapping[str, Any]) -> dict[str, str]:
    height, width, _ = values["data.shape"]
    given = {name: values[f"model.{name}"] for name in ("num_groups", "hidden")}
    return prefixed("model", dvae_faults(resolution=(height, width), **given))


FAMILY = Family(
    fields={
        "model.num_codes": integer(2, default=8192, change="frozen", doc="size of the codebook"),
        "model.hidden": integer(
            4, default=256, change="frozen", doc="channels of the first group of blocks"
        ),
        "model.initial": integer(
            1, default=128, change="frozen", doc="channels of the decoder's first layer"
        ),
        "model.num_groups": integer(
            1,
            8,
            default=4,
            change="frozen",
            doc="groups of blocks; each but the first halves the resolution",
        ),
        "model.num_blocks": integer(
            1, default=2, change="frozen", doc="residual blocks of each group"
        ),
        "model.likelihood": choice("logit_laplace", "gaussian", change="frozen", doc="p(x | z)"),
        "model.temperature_start": number(
            0, above=True, default=1.0, doc="first temperature of the Gumbel-softmax relaxation"
        ),
        "model.temperature_end": number(0, above=True, default=1.0 / 16, doc="last temperature"),
        "model.temperature_steps": integer(
            0, default=150_000, doc="steps from the first to the last temperature"
        ),
        "model.kl_start": number(0, default=0.0, doc="first weight of the KL"),
        "model.kl_end": number(0, default=6.6, doc="last weight of the KL"),
        "model.kl_steps": integer(
            0, default=5_000, doc="steps from the first to the last weight of the KL"
        ),
        "model.straight_through": boolean(
            default=False,
            doc="give the decoder one-hot codes in training, with straight-through gradients",
        ),
        **parts.ADVERSARY,
        **parts.DTYPE,
    },
    rules=(_network, parts.adversary_faults),
    players=("net", "disc"),
    tiny={
        "data.holdout": lambda size: min(size, 16),
        "model.num_codes": 16,
        "model.hidden": 8,
        "model.initial": 4,
        "model.num_groups": 2,
        "model.num_blocks": 1,
        "model.dtype": "float32",
    },
)
