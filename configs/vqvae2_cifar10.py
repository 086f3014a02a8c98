"""VQ-VAE-2 on 32x32 color images: 8x8 codes under 4x4, each of 512 (Razavi et al. 2019).

    gen-jax train --config configs/vqvae2_cifar10.py --workdir runs/vqvae2_cifar10 \\
        --config.data.source=npz:cifar10.npz

``--config.model.factors="(4, 2, 2)"`` makes it three grids.
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
    # Vectors of length 1: the top's, which the bottom could do without, would shrink to a point.
    config.model.update({"factors": (4, 2), "cosine": True})
    config.optimizer.update({"learning_rate": 3e-4, "warmup_steps": 100, "decay": "cosine"})
    config.train.update({"steps": 5000, "log_every": 100, "sample_every": 1000})
    return variant_of(config, variant, source="synthetic:8x8x3", shape=(8, 8, 3))
