"""What does not go together in a model, without JAX; see :mod:`gen_jax.diffusion.rules`."""

from collections.abc import Mapping

__all__ = ["class_dropout_faults", "vae_faults"]


def class_dropout_faults(*, class_dropout: float, conditional: bool) -> Mapping[str, str]:
    """Find conditions that are to be left out where there are none."""
    if class_dropout and not conditional:
        return {"class_dropout": f"got {class_dropout}; 0 is required without num_classes"}
    return {}


def vae_faults(
    *, num_importance: int, beta: float, free_bits: float, kl_warmup: int, sigma: str
) -> Mapping[str, str]:
    """Find what a bound of several importance samples, which has no KL, cannot do.

    Args:
        num_importance: K.
        beta: weight of the KL.
        free_bits: nats below which it is not pressed.
        kl_warmup: steps over which it rises.
        sigma: of a Gaussian likelihood: ``"fixed"``, ``"learned"`` or ``"optimal"``.
    """
    if num_importance <= 1:
        return {}
    faults = {
        name: f"got {value}; {needed} is required with num_importance > 1, whose bound has no KL"
        for name, value, needed in (
            ("beta", beta, 1),
            ("free_bits", free_bits, 0),
            ("kl_warmup", kl_warmup, 0),
        )
        if value != needed
    }
    if sigma == "optimal":
        faults["sigma"] = "got 'optimal'; 'fixed' or 'learned' is required with num_importance > 1"
    return faults
