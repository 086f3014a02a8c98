"""Diffusion of any folder of photographs, at 64x64 pixels.

    gen-jax train --config photos64 --workdir runs/photos --config.data.source=folder:PATH
    gen-jax sample --workdir runs/photos --num 16 --out photos.png

The folder ``photos`` where nothing else is said. Photographs are cropped to the center and scaled,
and mirrored at random. A U-Net of 22 million parameters, with a cosine schedule and v. No run of it
has been trained to its end yet.
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("diffusion")
    config.data.update(
        {"source": "folder:photos", "shape": (64, 64, 3), "batch_size": 32, "flip": True}
    )
    config.diffusion.update({"schedule": "cosine", "prediction": "v"})
    config.model.update(
        {
            "channels": 64,
            "multipliers": (1, 2, 3, 4),
            "num_res_blocks": 2,
            "attention_resolutions": (16, 8),
            "num_heads": 4,
            "dropout": 0.1,
        }
    )
    config.optimizer.update({"learning_rate": 2e-4, "warmup_steps": 1000})
    config.train.update(
        {
            "steps": 200_000,
            "ema_decay": 0.9995,
            "log_every": 50,
            "sample_every": 2000,
            "save_every": 1000,
        }
    )
    return variant_of(config, variant, source="synthetic:16x16x3", shape=(16, 16, 3))
