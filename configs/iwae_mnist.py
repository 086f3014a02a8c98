"""IWAE with 50 importance samples on stochastically binarized MNIST (Burda et al. 2016).

A step costs some ten times a VAE's, so that on two cores it pays to begin with a trained VAE: copy
its work directory, and the same line goes on from there. Without the copy it begins at random.

    cp -r runs/vae_mnist runs/iwae_mnist
    gen-jax train --config configs/iwae_mnist.py --workdir runs/iwae_mnist \\
        --config.data.source=npz:mnist.npz
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("vae")
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
    return variant_of(config, variant, source="digits", shape=(8, 8, 1))
