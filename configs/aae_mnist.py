"""Adversarial autoencoder on MNIST (Makhzani et al. 2015), with 8 latent dimensions.

gen-jax train --config configs/aae_mnist.py --workdir runs/aae_mnist \\
    --config.data.source=npz:mnist.npz
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """Give the experiment, or its ``tiny`` variant."""
    config = common.adversarial_autoencoder()
    config.data.update({"source": "npz:mnist.npz", "shape": (28, 28, 1), "holdout": 5000})
    config.model.update({"widths": (1000, 1000), "latent_dim": 8, "activation": "relu"})
    config.optimizer.update({"learning_rate": 2e-4, "decay": "cosine", "b1": 0.5})
    config.train.update(
        {"steps": 15_000, "log_every": 200, "sample_every": 5000, "save_every": 2500}
    )
    if variant == "tiny":
        return common.tiny_autoencoder(config, "digits", (8, 8, 1))
    if variant:
        raise ValueError(f"variant: 'tiny' or none is known, got {variant!r}")
    return config
