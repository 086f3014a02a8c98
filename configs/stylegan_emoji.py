"""StyleGAN2 with adaptive augmentation (ADA) on emoji, at a size for two cores.

Karras et al. 2020a and b. ``experiments/translation/emoji.py`` makes the file:

    gen-jax train --config configs/stylegan_emoji.py --workdir runs/stylegan \\
        --config.data.source=npz:emoji_google.npz
    gen-jax sample --workdir runs/stylegan --num 64 --truncation 0.7 --out emoji.png
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("gan")
    config.data.update(
        {"source": "npz:emoji_google.npz", "shape": (32, 32, 3), "batch_size": 32, "flip": True}
    )
    config.model.update(
        {
            "network": "style",
            "game": "non_saturating",
            "penalty": "r1",
            "penalty_every": 16,
            "widths": (96, 96, 48, 24),
            "adapted_over": 100_000,
        }
    )
    config.optimizer.update({"learning_rate": 2e-3, "decay": "cosine"})
    config.train.update({"steps": 6000, "ema_decay": 0.998, "log_every": 100, "sample_every": 1000})
    return variant_of(config, variant, source="synthetic:8x8x3", shape=(8, 8, 3))
