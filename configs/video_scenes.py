"""Films of colored shapes from a text: a model of stills, frozen, and layers over time.

    gen-jax train --config configs/stills_scenes.py --workdir runs/stills_scenes
    gen-jax train --config configs/video_scenes.py --workdir runs/video
    gen-jax sample --workdir runs/video --prompt "a large red circle moves left" --out a.gif

Blattmann et al. 2023 (VideoLDM); the layers are in ``gen_jax/nn/temporal.py`` (experiments/video).
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("video")
    config.data.update(
        {"source": "moving_scenes:8x16x16x3", "shape": (8, 16, 16, 3), "batch_size": 16}
    )
    config.stages.image = "runs/stills_scenes"
    config.model.guidance = 3.0
    config.optimizer.update({"learning_rate": 1.5e-3, "warmup_steps": 100, "decay": "cosine"})
    config.train.update(
        {
            "steps": 2000,
            "ema_decay": 0.998,
            "log_every": 100,
            "sample_every": 1000,
            "save_every": 500,
        }
    )
    return variant_of(config, variant, source="moving_scenes:3x16x16x3", shape=(3, 16, 16, 3))
