"""Imagen's cascade on captioned scenes: 16x16 pixels from a text, and these made 32x32.

    gen-jax train --config configs/cascade_scenes.py:base --workdir runs/base
    gen-jax train --config configs/cascade_scenes.py --workdir runs/cascade
    gen-jax sample --workdir runs/cascade --prompt "a red circle above a blue square" --out a.png

Saharia et al. 2022: the second model is told the small image with noise of any level on it, the
level (Ho et al. 2022), and the text. Its work directory holds the first (experiments/stages).
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``base``, ``tiny`` or ``base_tiny``."""
    base = variant.startswith("base")
    side = 16 if base else 32
    config = defaults("diffusion")
    config.data.update(
        {"source": f"scenes:{side}x{side}x3", "shape": (side, side, 3), "batch_size": 64}
    )
    config.text.update(
        {"tokenizer": "words", "vocabulary": 48, "length": 14, "width": 96, "depth": 2}
    )
    config.diffusion.update({"schedule": "cosine", "prediction": "v"})
    config.model.update(
        {
            "network": "dit",
            "patch": side // 8,
            "width": 128,
            "depth": 4,
            "num_heads": 4,
            "dropout": 0.0,
            "class_dropout": 0.1,
            "guidance": 3.0 if base else 1.5,
        }
    )
    if not base:
        config.stages.base = "runs/base"
        config.model.update({"low_res_factor": 2, "low_res_noise": True})
    config.optimizer.update({"learning_rate": 1.5e-3, "warmup_steps": 200, "decay": "cosine"})
    config.train.update(
        {
            "steps": 4000 if base else 1500,
            "ema_decay": 0.998,
            "log_every": 100,
            "sample_every": 2000,
            "save_every": 1000,
        }
    )
    return variant_of(
        config,
        variant.removeprefix("base").removeprefix("_"),
        source=f"scenes:{side}x{side}x3",
        shape=(side, side, 3),
        model__patch=side // 4,
        text__width=16,
        text__depth=1,
    )
