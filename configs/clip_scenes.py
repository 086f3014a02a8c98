"""CLIP over captioned scenes: which caption belongs to which picture.

    gen-jax train --config configs/clip_scenes.py --workdir runs/clip
    gen-jax evaluate --workdir runs/clip
    gen-jax rank --workdir runs/clip --images a.npz --prompt "two red circles" --out best.png

``--config.model.loss=sigmoid`` is SigLIP's.
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("clip")
    config.data.update({"source": "scenes:24x24x3", "shape": (24, 24, 3), "batch_size": 256})
    config.text.update({"vocabulary": 48, "length": 14})
    config.optimizer.update({"learning_rate": 2e-3, "warmup_steps": 100, "decay": "cosine"})
    config.train.update({"steps": 1500, "ema_decay": 0.99, "log_every": 100, "save_every": 500})
    return variant_of(config, variant, source="scenes:16x16x3", shape=(16, 16, 3))
