"""KL autoencoder on CIFAR-10: the first stage of configs/latent_cifar10.py (Rombach et al. 2022).

Codes are 8x8 grids of 4 channels, a twelfth of the color values.

    gen-jax train --config configs/klae_cifar10.py --workdir runs/klae_cifar10 \\
        --config.data.source=npz:cifar10.npz
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("vae")
    config.data.update(
        {"source": "npz:cifar10.npz", "shape": (32, 32, 3), "batch_size": 32, "holdout": 5000}
    )
    config.model.update(
        {
            "network": "conv",
            "channels": 32,
            "multipliers": (1, 2, 2),
            "latent": "grid",
            "latent_dim": 4,
            "likelihood": "gaussian",
            "sigma": "fixed",
            "beta": 0.01,
        }
    )
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 100, "decay": "cosine"})
    config.train.update({"steps": 5000, "log_every": 100, "sample_every": 500, "save_every": 500})
    return variant_of(config, variant, source="synthetic:32x32x3", shape=(32, 32, 3))
