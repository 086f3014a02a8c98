"""Adversarial autoencoder on MNIST (Makhzani et al. 2015), with 8 latent dimensions.

gen-jax train --config configs/aae_mnist.py --workdir runs/aae_mnist \\
    --config.data.source=npz:mnist.npz
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("adversarial_autoencoder")
    config.data.update({"source": "npz:mnist.npz", "shape": (28, 28, 1), "holdout": 5000})
    config.model.update({"widths": (1000, 1000), "latent_dim": 8, "activation": "relu"})
    config.optimizer.update({"learning_rate": 2e-4, "decay": "cosine", "b1": 0.5})
    config.train.update(
        {"steps": 15_000, "log_every": 200, "sample_every": 5000, "save_every": 2500}
    )
    return variant_of(config, variant, source="digits", shape=(8, 8, 1))
