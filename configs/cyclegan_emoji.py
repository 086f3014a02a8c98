"""CycleGAN between two styles of emoji, without pairs (Zhu et al. 2017), at a size for two cores.

``experiments/translation/emoji.py`` makes both files:

    gen-jax train --config configs/cyclegan_emoji.py --workdir runs/cyclegan \\
        --config.data.source=npz:emoji_google.npz --config.data.other=npz:emoji_twitter.npz
    gen-jax translate --workdir runs/cyclegan --from photos/ --out translated/
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("translation")
    config.data.update(
        {
            "source": "npz:emoji_google.npz",
            "other": "npz:emoji_twitter.npz",
            "shape": (32, 32, 3),
            "batch_size": 8,
            "flip": True,
        }
    )
    config.model.update({"kind": "cycle", "skips": False, "disc_widths": (32, 64)})
    config.optimizer.update({"decay": "cosine"})
    config.train.update({"steps": 3000, "ema_decay": 0.995, "log_every": 100, "sample_every": 1000})
    tiny = variant_of(config, variant, source="synthetic:8x8x3", shape=(8, 8, 3))
    if variant == "tiny":
        tiny.data.other = "synthetic:8x8x3"
    return tiny
