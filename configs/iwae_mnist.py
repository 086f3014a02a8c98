"""IWAE with 50 importance samples on stochastically binarised MNIST (Burda et al. 2016).

A step costs some ten times a VAE's, so that on two cores it pays to begin with a trained VAE: copy
its work directory, and the same line goes on from there. Without the copy it begins at random.

    cp -r runs/vae_mnist runs/iwae_mnist
    gen-jax train --config configs/iwae_mnist.py --workdir runs/iwae_mnist \\
        --config.data.source=npz:mnist.npz
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """Give the experiment, or its ``tiny`` variant."""
    config = common.vae()
    config.data.update(
        {"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 100, "holdout": 5000}
    )
    config.model.update({"activation": "silu", "num_importance": 50})
    config.optimizer.update({"learning_rate": 3e-4, "clip_norm": 200.0})
    config.train.update(
        {
            "steps": 135_000,  # 120,000 of them a VAE's
            "ema_decay": 0.999,
            "log_every": 100,
            "sample_every": 5000,
            "save_every": 1000,
        }
    )
    if variant == "tiny":
        return common.tiny_autoencoder(config, "digits", (8, 8, 1))
    if variant:
        raise ValueError(f"variant: 'tiny' or none is known, got {variant!r}")
    return config
