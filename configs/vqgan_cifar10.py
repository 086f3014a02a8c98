"""VQGAN on 32x32 color images: the VQ-VAE of vqvae_cifar10 with a perceptual loss and an adversary.

Esser et al. 2021, with LPIPS of AlexNet, which needs the extra [perceptual], and the adaptive
weight. 1,500 steps took seven and a half minutes on two cores (experiments/vqgan):

    gen-jax train --config configs/vqgan_cifar10.py --workdir runs/vqgan_cifar10 \\
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
    config.model.update(
        {"adversary": "patch", "perceptual": "alexnet", "disc_widths": (32, 64), "disc_groups": 8}
    )
    # Of the discriminator alone: momentum does harm where the other player moves the target.
    config.optimizer.disc.update({"learning_rate": 4e-4, "b1": 0.5, "b2": 0.9, "clip_norm": 0.0})
    tiny = variant_of(config, variant, source="synthetic:8x8x3", shape=(8, 8, 3))
    if variant == "tiny":
        tiny.model.update({"perceptual": "none", "disc_widths": (8,), "disc_groups": 4})
    return tiny
