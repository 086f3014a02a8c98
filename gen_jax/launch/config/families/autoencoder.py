"""Deterministic autoencoders: plain, denoising and sparse."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import Family, choice, number

__all__ = ["FAMILY"]


def _corruption(values: Mapping[str, Any]) -> dict[str, str]:
    corruption, level = values["model.corruption"], values["model.corruption_level"]
    if corruption in ("masking", "salt_and_pepper") and level > 1:
        what = "a share of the pixels, from 0 to 1, is required"
        return {"model.corruption_level": f"got {level}; {what}"}
    return {}


FAMILY = Family(
    fields={
        **parts.AUTOENCODER,
        "model.latent": choice(
            "vector",
            "grid",
            change="frozen",
            doc="share of pixels that are corrupted; of 'gaussian', the sigma",
        ),
        "model.likelihood": choice(
            "bernoulli",
            "gaussian",
            change="frozen",
            doc="p(x | z): cross-entropy, or squared error",
        ),
        "model.corruption": choice(
            "none",
            "masking",
            "gaussian",
            "salt_and_pepper",
            doc="corruption of the encoder's input, for a denoising autoencoder",
        ),
        "model.corruption_level": number(
            0, default=0.25, doc="share of the pixels, or sigma of gaussian"
        ),
        "model.sparsity": choice(
            "none", "l1", "kl", change="frozen", doc="penalty that keeps codes sparse"
        ),
        "model.sparsity_weight": number(0, default=0.1, doc="weight of the sparsity penalty"),
        "model.sparsity_target": number(
            0,
            1,
            above=True,
            below=True,
            default=0.05,
            doc="'kl': mean activity of a unit that is aimed at",
        ),
    },
    rules=(parts.network_faults, _corruption),
    tiny=parts.TINY_AUTOENCODER,
)
