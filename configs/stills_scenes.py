"""Stills of films of colored shapes, the images that ``configs/video_scenes.py`` sets in motion.

gen-jax train --config configs/stills_scenes.py --workdir runs/stills_scenes
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("diffusion")
    config.data.update({"source": "moving_scenes:16x16x3", "shape": (16, 16, 3), "batch_size": 64})
    config.text.update(
        {"tokenizer": "words", "vocabulary": 48, "length": 10, "width": 96, "depth": 2}
    )
    config.diffusion.update({"schedule": "cosine", "prediction": "v"})
    config.model.update(
        {
            "network": "dit",
            "patch": 2,
            "width": 128,
            "depth": 4,
            "num_heads": 4,
            "dropout": 0.0,
            "class_dropout": 0.1,
            "guidance": 3.0,
        }
    )
    config.optimizer.update({"learning_rate": 1.5e-3, "warmup_steps": 200, "decay": "cosine"})
    config.train.update(
        {
            "steps": 3000,
            "ema_decay": 0.998,
            "log_every": 100,
            "sample_every": 1000,
            "save_every": 1000,
        }
    )
    return variant_of(
        config,
        variant,
        source="moving_scenes:16x16x3",
        shape=(16, 16, 3),
        model__patch=4,
        text__width=16,
        text__depth=1,
    )
