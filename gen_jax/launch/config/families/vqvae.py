"""VQ-VAE and VQ-VAE-2, with vector, residual or finite scalar quantization."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import (
    Family,
    boolean,
    choice,
    integer,
    integers,
    number,
    prefixed,
)
from gen_jax.nn.geometry import hierarchy_faults
from gen_jax.ops.rules import scalar_faults, vector_faults

__all__ = ["FAMILY"]


def _network(values: Mapping[str, Any]) -> dict[str, str]:
    if values["model.network"] == "conv":
        return parts.conv_faults(values)
    height, width, _ = values["data.shape"]
    names = ("factors", "channels")
    given = {name: values[f"model.{name}"] for name in names}
    return prefixed("model", hierarchy_faults(resolution=(height, width), **given))


def _scales(values: Mapping[str, Any]) -> dict[str, str]:
    if values["model.quantizer"] != "multi_scale":
        return {}
    height, width, _ = values["data.shape"]
    conv = values["model.network"] == "conv"
    factors = values["model.factors"]
    factor = 2 ** (len(values["model.multipliers"]) - 1) if conv else factors[0]
    scales, grid = values["model.scales"], (height // factor, width // factor)
    if len(factors) > 1 and not conv:
        return {"model.quantizer": "got 'multi_scale'; it goes with a single factor"}
    grows = list(scales) == sorted(set(scales)) and bool(scales)
    if not grows or grid != (scales[-1],) * 2:
        what = f"sides that grow to {grid[0]} are required, of a grid of {grid[0]}x{grid[1]}"
        return {"model.scales": f"got {tuple(scales)}; {what}"}
    return {}


def _quantizer(values: Mapping[str, Any]) -> dict[str, str]:
    if values["model.quantizer"] == "finite_scalar":
        return prefixed("model", scalar_faults(values["model.scalar_levels"]))
    cosine, levels = values["model.cosine"], values["model.levels"]
    return prefixed("model", vector_faults(cosine=cosine, levels=levels))


FAMILY = Family(
    fields={
        "model.network": choice(
            "hierarchy",
            "conv",
            change="frozen",
            doc="'hierarchy' is VQ-VAE's and VQ-VAE-2's, 'conv' VQ-GAN's",
        ),
        "model.factors": integers(
            2,
            default=(4,),
            change="frozen",
            doc="how much smaller each grid is than the one below: (4,) VQ-VAE, (4, 2) VQ-VAE-2",
        ),
        **parts.conv(channels=128, num_res_blocks=2, groups=32, attention=True),
        "model.hidden": integer(
            1, default=32, change="frozen", doc="hierarchy: channels inside a residual block"
        ),
        "model.num_blocks": integer(
            0, default=2, change="frozen", doc="hierarchy: residual blocks of each grid"
        ),
        "model.likelihood": choice("gaussian", "bernoulli", change="frozen", doc="p(x | z)"),
        **parts.binarize("none"),
        **parts.log_sigma("free"),
        "model.quantizer": choice(
            "vector",
            "finite_scalar",
            "multi_scale",
            change="frozen",
            doc="how vectors become codes; 'multi_scale' is VAR's, from coarse to fine",
        ),
        "model.scales": integers(
            1,
            default=(1, 2, 3, 5, 7),
            change="frozen",
            doc="multi_scale: sides of the grids, the last that of the whole grid",
        ),
        "model.num_phi": integer(
            0, default=4, change="frozen", doc="multi_scale: convolutions that scales share"
        ),
        "model.num_embeddings": integer(
            2, default=512, change="frozen", doc="vector: size of the codebook"
        ),
        "model.embedding_dim": integer(
            1, default=64, change="frozen", doc="vector: dimensions of a codebook vector"
        ),
        "model.levels": integer(
            1,
            default=1,
            change="frozen",
            doc="vector: quantizers of the residual, one after another; 1 is plain",
        ),
        "model.codebook": choice(
            "ema",
            "gradient",
            change="frozen",
            doc="vector: learn the codebook by moving averages, or by gradients",
        ),
        "model.cosine": boolean(
            default=False,
            change="frozen",
            doc="vector: compare directions only (cosine similarity)",
        ),
        "model.decay": number(
            0, 1, below=True, default=0.99, doc="vector: decay of the codebook's moving averages"
        ),
        "model.revive_below": number(
            0,
            default=0.05,
            doc="vector: restart codes used less than this share of equal use; 0 restarts none",
        ),
        "model.scalar_levels": integers(
            2, default=(8, 5, 5, 5), change="frozen", doc="finite_scalar: levels of each dimension"
        ),
        # The paper's 0.25 in the units of its authors' code, where errors are means over pixels of
        # data of variance 1 and means over dims; here they are sums, in nats.
        "model.commitment_cost": number(
            0, default=2.0, doc="vector: beta, weight of the commitment loss"
        ),
        **parts.ADVERSARY,
        **parts.DTYPE,
    },
    rules=(_network, _scales, _quantizer, parts.adversary_faults),
    # Averaged weights meet a codebook that is an average itself: over as many steps.
    defaults={"train.ema_decay": 0.99},
    tiny={
        "data.holdout": lambda size: min(size, 16),
        "model.factors": lambda factors: (2,) * len(factors),
        "model.channels": 16,
        "model.hidden": 8,
        "model.num_blocks": 1,
        "model.num_embeddings": 16,
        "model.embedding_dim": 4,
    },
    players=("net", "disc"),
)
