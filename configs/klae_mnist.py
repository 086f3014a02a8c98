"""KL autoencoder on MNIST: the first stage of configs/latent_mnist.py (Rombach et al. 2022).

Codes are 7x7 grids of 3 channels, a fifth of the pixels. Minutes on two cores:

    gen-jax train --config configs/klae_mnist.py --workdir runs/klae_mnist \\
        --config.data.source=npz:mnist.npz
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("vae")
    config.data.update(
        {"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 32, "holdout": 5000}
    )
    config.model.update(
        {
            "network": "conv",
            "channels": 16,
            "multipliers": (1, 2, 2),
            "latent": "grid",
            "latent_dim": 3,
            "likelihood": "gaussian",
            "sigma": "fixed",
            "beta": 0.02,
        }
    )
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 100, "decay": "cosine"})
    config.train.update({"steps": 1500, "log_every": 100, "sample_every": 500, "save_every": 500})
    return variant_of(config, variant, source="digits", shape=(8, 8, 1))
