"""unCLIP's prior on captioned scenes: embeddings of images, drawn from texts.

    gen-jax train --config configs/clip_scenes.py --workdir runs/clip_scenes
    gen-jax train --config configs/unclip_prior_scenes.py --workdir runs/unclip_prior_scenes
    gen-jax evaluate --workdir runs/unclip_prior_scenes

Ramesh et al. 2022, section 2.2; ``configs/unclip_scenes.py`` makes images of them.
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("embedding_prior")
    config.data.update({"source": "scenes:24x24x3", "shape": (24, 24, 3), "batch_size": 256})
    config.stages.clip = "runs/clip_scenes"
    config.optimizer.update({"learning_rate": 1.5e-3, "warmup_steps": 200, "decay": "cosine"})
    config.train.update(
        {"steps": 2000, "ema_decay": 0.998, "log_every": 100, "sample_every": 0, "save_every": 1000}
    )
    return variant_of(config, variant, source="scenes:16x16x3", shape=(16, 16, 3))
