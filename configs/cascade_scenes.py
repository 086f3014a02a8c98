"""Imagen's cascade on captioned scenes: 16x16 pixels from a text, and these made 32x32.

    gen-jax train --config configs/cascade_base_scenes.py --workdir runs/cascade_base_scenes
    gen-jax train --config configs/cascade_scenes.py --workdir runs/cascade
    gen-jax sample --workdir runs/cascade --prompt "a red circle above a blue square" --out a.png

Saharia et al. 2022: the second model is told the small image with noise of any level on it, the
level (Ho et al. 2022), and the text. Its work directory holds the first (experiments/stages).
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("diffusion")
    config.data.update({"source": "scenes:32x32x3", "shape": (32, 32, 3), "batch_size": 64})
    config.stages.base = "runs/cascade_base_scenes"
    config.text.update(
        {"tokenizer": "words", "vocabulary": 48, "length": 14, "width": 96, "depth": 2}
    )
    config.diffusion.update({"schedule": "cosine", "prediction": "v"})
    config.model.update(
        {
            "network": "dit",
            "patch": 4,
            "width": 128,
            "depth": 4,
            "num_heads": 4,
            "dropout": 0.0,
            "class_dropout": 0.1,
            "guidance": 1.5,
            "low_res_factor": 2,
            "low_res_noise": True,
        }
    )
    config.optimizer.update({"learning_rate": 1.5e-3, "warmup_steps": 200, "decay": "cosine"})
    config.train.update(
        {
            "steps": 1500,
            "ema_decay": 0.998,
            "log_every": 100,
            "sample_every": 500,
            "save_every": 500,
        }
    )
    return variant_of(
        config,
        variant,
        source="scenes:32x32x3",
        shape=(32, 32, 3),
        model__patch=8,
        text__width=16,
        text__depth=1,
    )
