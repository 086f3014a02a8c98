"""Classifiers of clean or noisy images."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.families import diffusion
from gen_jax.launch.config.fields import Family, boolean, prefixed
from gen_jax.nn.geometry import unet_faults

__all__ = ["FAMILY"]

_NETWORK = {
    "channels": 32,
    "multipliers": (1, 2, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (),
    "num_heads": 1,
    "groups": 8,
    "dropout": 0.0,
}
_NOISE = ("schedule", "num_steps", "beta_start", "beta_end", "zero_terminal_snr", "sigma_max")


def _network(values: Mapping[str, Any]) -> dict[str, str]:
    if faults := parts.square(values):
        return faults
    names = ("channels", "multipliers", "attention_resolutions", "num_heads", "groups")
    side = values["data.shape"][0]
    given = {name: values[f"model.{name}"] for name in names}
    return prefixed("model", unet_faults(resolution=side, **given))


FAMILY = Family(
    fields={
        **{
            f"model.{name}": diffusion.FAMILY.fields[f"model.{name}"]._replace(default=default)
            for name, default in _NETWORK.items()
        },
        **parts.num_classes(least=2),
        "model.noisy": boolean(
            default=True, change="frozen", doc="train on noisy images, to guide a diffusion model"
        ),
        **{f"diffusion.{name}": diffusion.FAMILY.fields[f"diffusion.{name}"] for name in _NOISE},
        **parts.DTYPE,
        **parts.REMAT,
    },
    rules=(_network, diffusion.betas, diffusion.zero_snr),
    rules_for_new=(diffusion.signal,),
    tiny={"model.channels": 8, "model.multipliers": (1,), "model.groups": 4},
)
