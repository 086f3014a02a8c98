"""What does not go together in an optimizer, without JAX; see :mod:`gen_jax.diffusion.rules`."""

from collections.abc import Mapping

__all__ = ["OPTIMIZERS", "learning_rate_faults", "optimizer_faults"]


def learning_rate_faults(*, decay: str, warmup_steps: int, total_steps: int) -> Mapping[str, str]:
    """Find a cosine that ends before it begins."""
    if decay not in ("constant", "cosine"):
        return {"decay": f"got {decay!r}; 'constant' or 'cosine' is required"}
    if decay == "cosine" and warmup_steps >= total_steps:
        what = f"less than the {total_steps} steps of training is required with a cosine"
        return {"warmup_steps": f"got {warmup_steps}; {what}"}
    return {}


OPTIMIZERS = ("adamw", "lion", "adafactor", "muon", "sgd")


def optimizer_faults(*, name: str, moments: str) -> Mapping[str, str]:
    """Find an unknown optimizer, and moments in half the memory of one that has none."""
    if name not in OPTIMIZERS:
        return {"name": f"got {name!r}; one of {', '.join(OPTIMIZERS)} is required"}
    if moments != "float32" and name != "adamw":
        return {"moments": f"got {moments!r}; 'float32' is required for {name}"}
    return {}
