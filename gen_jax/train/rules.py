"""What does not go together in an optimizer, without JAX; see :mod:`gen_jax.diffusion.rules`."""

from collections.abc import Mapping

__all__ = ["learning_rate_faults"]


def learning_rate_faults(*, decay: str, warmup_steps: int, total_steps: int) -> Mapping[str, str]:
    """Find a cosine that ends before it begins."""
    if decay not in ("constant", "cosine"):
        return {"decay": f"got {decay!r}; 'constant' or 'cosine' is required"}
    if decay == "cosine" and warmup_steps >= total_steps:
        what = f"less than the {total_steps} steps of training is required with a cosine"
        return {"warmup_steps": f"got {warmup_steps}; {what}"}
    return {}
