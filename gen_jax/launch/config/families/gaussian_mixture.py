"""Mixtures of Gaussians: the family of the tutorial "How to add a family"."""

from gen_jax.launch.config.fields import Family, integer

__all__ = ["FAMILY"]

FAMILY = Family(
    fields={
        "model.num_components": integer(1, default=50, change="frozen", doc="number of components")
    },
    tiny={"model.num_components": 10},
)
