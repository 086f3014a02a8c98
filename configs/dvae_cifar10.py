"""A small discrete VAE on 32x32 color images: 8x8 codes of 512, with shorter schedules.

gen-jax train --config configs/dvae_cifar10.py --workdir runs/dvae_cifar10 \\
        --config.data.source=npz:cifar10.npz
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("dvae")
    config.data.update(
        {
            "source": "npz:cifar10.npz",
            "shape": (32, 32, 3),
            "batch_size": 32,
            "holdout": 5000,
            "flip": True,
        }
    )
    config.model.update(
        {
            "num_codes": 512,
            "hidden": 48,
            "initial": 64,
            "num_groups": 3,
            "temperature_steps": 3000,
            "kl_end": 1.0,
            "kl_steps": 1500,
        }
    )
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 100, "decay": "cosine"})
    config.train.update({"steps": 4000, "ema_decay": 0.99, "log_every": 100, "sample_every": 1000})
    return variant_of(config, variant, source="synthetic:16x16x3", shape=(16, 16, 3))
