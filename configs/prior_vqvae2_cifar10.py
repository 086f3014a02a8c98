"""A prior over the codes of configs/vqvae2_cifar10.py: the top, and the bottom given the top.

gen-jax encode --workdir runs/vqvae2_cifar10 --out codes/vqvae2_cifar10
gen-jax train --config configs/prior_vqvae2_cifar10.py --workdir runs/prior_vqvae2_cifar10 \\
        --config.stage1=runs/vqvae2_cifar10 --config.data.source=codes:codes/vqvae2_cifar10
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("autoregressive")
    config.stage1 = "runs/vqvae2_cifar10"
    config.data.update(
        {"source": "npz:cifar10.npz", "shape": (32, 32, 3), "batch_size": 64, "holdout": 5000}
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
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 200, "decay": "cosine"})
    config.train.update({"steps": 3000, "log_every": 100, "sample_every": 1000, "save_every": 1000})
    return variant_of(config, variant, source="synthetic:8x8x3", shape=(8, 8, 3))
