"""Adversarial autoencoders."""

from gen_jax.launch.config import parts
from gen_jax.launch.config.fields import Family, choice, integers

__all__ = ["FAMILY"]

FAMILY = Family(
    fields={
        **parts.AUTOENCODER,
        "model.likelihood": choice(
            "bernoulli",
            "gaussian",
            change="frozen",
            doc="p(x | z): cross-entropy, or squared error",
        ),
        "model.disc_widths": integers(
            1,
            default=(1000, 1000),
            change="frozen",
            doc="width of each hidden layer of the discriminator of codes",
        ),
    },
    rules=(parts.network_faults,),
    tiny={**parts.TINY_AUTOENCODER, "model.disc_widths": (16, 16)},
    players=("net", "disc"),
)
