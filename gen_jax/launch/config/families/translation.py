"""From images to images: pix2pix and CycleGAN."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import Family, boolean, choice, integer, number
from gen_jax.models.rules import PATCH_GAMES

__all__ = ["FAMILY"]


def _data(values: Mapping[str, Any]) -> dict[str, str]:
    """Refuse data of the other kind: pairs come in one source, and no pairs in two."""
    paired, other = values["model.kind"] == "pairs", values["data.other"]
    if paired and other:
        return {"data.other": f"got {other!r}; of pairs the source holds both"}
    if not paired and not other:
        return {"data.other": "a source of images of the other kind is required without pairs"}
    return {}


def _network(values: Mapping[str, Any]) -> dict[str, str]:
    factor, sides = 2 ** values["model.halvings"], values["data.shape"][:2]
    if any(side % factor for side in sides):
        return {"model.halvings": f"divide by {factor}; {sides[0]}x{sides[1]} is no multiple of it"}
    groups, widths = values["model.disc_groups"], values["model.disc_widths"]
    if groups and any(width % groups for width in widths[1:]):
        return {"model.disc_groups": f"{groups} does not divide the widths {tuple(widths[1:])}"}
    return {}


FAMILY = Family(
    fields={
        "model.kind": choice(
            "pairs",
            "cycle",
            change="frozen",
            doc="pix2pix, of images with their sources; or CycleGAN, of two sources without pairs",
        ),
        "model.channels": integer(
            1, default=32, change="frozen", doc="channels of the first convolution"
        ),
        "model.halvings": integer(
            0, 8, default=2, change="frozen", doc="how often the network halves an image"
        ),
        "model.num_blocks": integer(
            0, default=4, change="frozen", doc="residual blocks at the lowest resolution"
        ),
        "model.skips": boolean(
            default=True, change="frozen", doc="add what goes down to what comes up, as a U-Net"
        ),
        "model.disc_widths": parts.ADVERSARY["model.disc_widths"],
        "model.disc_groups": parts.ADVERSARY["model.disc_groups"],
        "model.game": choice(
            *PATCH_GAMES, default="least_squares", doc="what both players minimize, for each patch"
        ),
        "model.l1_weight": number(0, default=100.0, doc="pairs: weight of the mean absolute error"),
        "model.cycle_weight": number(0, default=10.0, doc="cycle: weight of the cycle's error"),
        "model.identity_weight": number(
            0, default=5.0, doc="cycle: weight of what an image that needs no change is changed by"
        ),
        "model.pool": integer(
            1, default=50, change="frozen", doc="cycle: translated images kept to be shown again"
        ),
        **parts.DTYPE,
    },
    rules=(_data, _network),
    defaults={
        "optimizer.learning_rate": 2e-4,
        "optimizer.b1": 0.5,
        "optimizer.clip_norm": 0.0,
    },
    tiny={
        **parts.TINY_ADVERSARY,
        "model.channels": 8,
        "model.halvings": 1,
        "model.num_blocks": 1,
        "model.pool": 4,
    },
    players=("gen", "disc"),
)
