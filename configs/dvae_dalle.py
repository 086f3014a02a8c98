"""DALL-E's discrete VAE: 32x32 codes of 8,192 from images of 256x256 (Ramesh et al. 2021, A.2).

The paper's network, likelihood, schedules, optimizer and batch; its learning rate ends at 1.25e-6
where this one ends at 0. For accelerators, and not trained here. ``folder:`` takes any images.

    gen-jax plan --config configs/dvae_dalle.py --topology gpu:1x8x8
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("dvae")
    config.data.update(
        {"source": "folder:images", "shape": (256, 256, 3), "batch_size": 512, "flip": True}
    )
    config.model.dtype = "bfloat16"
    config.optimizer.update(
        {"learning_rate": 1e-4, "decay": "cosine", "weight_decay": 1e-4, "clip_norm": 0.0}
    )
    config.train.update(
        {
            "steps": 1_200_000,
            "ema_decay": 0.999,
            "log_every": 100,
            "sample_every": 10_000,
            "save_every": 5_000,
        }
    )
    return variant_of(config, variant, source="synthetic:16x16x3", shape=(16, 16, 3))
