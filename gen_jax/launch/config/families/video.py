"""Films: a diffusion model of images, frozen, and layers over time (Blattmann et al. 2023)."""

from collections.abc import Mapping
from typing import Any

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import Family, integers, number

__all__ = ["FAMILY"]


def _stage(values: Mapping[str, Any]) -> dict[str, str]:
    if values["stages.image"]:
        return {}
    what = "the work directory of a run of family 'diffusion' is required"
    return {"stages.image": f"got ''; {what}"}


FAMILY = Family(
    fields={
        **parts.stages("image"),
        "data.shape": integers(
            1,
            length=4,
            default=(8, 16, 16, 3),
            change="frozen",
            doc="frames, height, width and channels of a film",
        ),
        "model.guidance": number(
            0,
            default=0.0,
            doc="scale of classifier-free guidance where a request says nothing; 0: none",
        ),
        **parts.TEXT,
        **parts.REMAT,
    },
    rules=(_stage,),
    tiny={},
)
