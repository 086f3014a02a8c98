"""Text to image by diffusion, over captioned scenes whose facts can be measured.

    gen-jax train --config configs/text_scenes.py --workdir runs/text
    gen-jax sample --workdir runs/text --prompt "a red circle above a blue square" --out a.png
    gen-jax evaluate --workdir runs/text --num 300

A diffusion transformer with the text's vectors among its tokens, and a transformer that reads the
text, trained together (experiments/text). ``:unet`` has a U-Net with cross-attention in its place.
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny`` or ``unet``."""
    config = defaults("diffusion")
    config.data.update({"source": "scenes:24x24x3", "shape": (24, 24, 3), "batch_size": 64})
    config.text.update(
        {"tokenizer": "words", "vocabulary": 48, "length": 14, "width": 96, "depth": 2}
    )
    config.diffusion.update({"schedule": "cosine", "prediction": "v"})
    config.model.update(
        {
            "network": "dit",
            "patch": 3,
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
            "steps": 6000,
            "ema_decay": 0.998,
            "log_every": 100,
            "sample_every": 2000,
            "save_every": 1000,
        }
    )
    if variant == "unet":
        config.model.update(
            {
                "network": "unet",
                "channels": 32,
                "multipliers": (1, 2, 2),
                "num_res_blocks": 1,
                "attention_resolutions": (12, 6),
                "groups": 8,
            }
        )
        config.optimizer.learning_rate = 1e-3
        return config
    return variant_of(
        config,
        variant,
        source="scenes:16x16x3",
        shape=(16, 16, 3),
        model__patch=4,
        text__width=16,
        text__depth=1,
    )
