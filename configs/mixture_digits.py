"""Fifty Gaussians for scikit-learn's 8x8 handwritten digits: seconds on a CPU.

gen-jax train --config configs/mixture_digits.py --workdir runs/mixture
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("gaussian_mixture")
    config.data.update({"source": "digits", "shape": (8, 8, 1), "batch_size": 256})
    config.optimizer.update({"learning_rate": 2e-2, "decay": "cosine", "clip_norm": 0.0})
    config.train.update({"steps": 1000, "log_every": 250, "sample_every": 500, "ema_decay": 0.9})
    return variant_of(config, variant, source="digits", shape=(8, 8, 1))
