"""VQ-VAE on 32x32 color images: 8x8 codes of 512 (van den Oord et al. 2017, section 4.1).

Ten to twenty minutes on two cores:

    gen-jax train --config configs/vqvae_cifar10.py --workdir runs/vqvae_cifar10 \\
        --config.data.source=npz:cifar10.npz
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("vqvae")
    config.data.update(
        {
            "source": "npz:cifar10.npz",
            "shape": (32, 32, 3),
            "batch_size": 32,
            "holdout": 5000,
            "flip": True,
        }
    )
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 100, "decay": "cosine"})
    config.train.update({"steps": 5000, "log_every": 100, "sample_every": 2000})
    return variant_of(config, variant, source="synthetic:8x8x3", shape=(8, 8, 3))
