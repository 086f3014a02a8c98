"""A gated PixelCNN over the codes of configs/vqvae_mnist.py, class by class.

    gen-jax encode --workdir runs/vqvae_mnist --out codes/mnist
    gen-jax train --config configs/prior_mnist.py --workdir runs/prior_mnist \\
        --config.stage1=runs/vqvae_mnist --config.data.source=codes:codes/mnist

With ``npz:mnist.npz`` in place of ``codes:codes/mnist`` the first stage runs at every step.
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("autoregressive")
    config.stage1 = "runs/vqvae_mnist"
    config.data.update(
        {"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 64, "holdout": 5000}
    )
    config.model.update(
        {
            "network": "pixelcnn",
            "width": 64,
            "depth": 8,
            "kernel": 3,
            "hidden": 256,
            "dropout": 0.1,
            "num_classes": 10,
            "class_dropout": 0.1,
        }
    )
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 100, "decay": "cosine"})
    config.train.update({"steps": 2500, "log_every": 100, "sample_every": 1000, "save_every": 1000})
    return variant_of(config, variant, source="digits", shape=(8, 8, 1))
