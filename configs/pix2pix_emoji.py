"""pix2pix from one style of emoji to another (Isola et al. 2017), at a size for two cores.

``experiments/translation/emoji.py`` makes the file, of images with their sources:

    gen-jax train --config configs/pix2pix_emoji.py --workdir runs/pix2pix \\
        --config.data.source=npz:emoji_google.npz
    gen-jax translate --workdir runs/pix2pix --from photos/ --out translated/
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("translation")
    config.data.update(
        {
            "source": "npz:emoji_google.npz",
            "shape": (32, 32, 3),
            "batch_size": 16,
            "flip": True,
            "crop": 2,
        }
    )
    config.model.update({"disc_widths": (32, 64)})
    config.optimizer.update({"decay": "cosine", "gen": {"learning_rate": 1e-3}})
    config.train.update({"steps": 3000, "ema_decay": 0.995, "log_every": 100, "sample_every": 1000})
    return variant_of(config, variant, source="synthetic:8x8x3", shape=(8, 8, 3))
