"""Changes of captioned scenes by instruction: InstructPix2Pix, on pairs made on the spot.

    gen-jax train --config configs/edit_scenes.py --workdir runs/edit
    gen-jax evaluate --workdir runs/edit --num 300
    gen-jax sample --workdir runs/edit --source a.png --prompt "make the red circle blue" \\
        --out b.png

Brooks et al. 2023: the image to change is beside x, and it and the text guide apart, by
``--image_guidance`` and ``--guidance`` (experiments/stages).
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("diffusion")
    config.data.update({"source": "edit_scenes:24x24x3", "shape": (24, 24, 3), "batch_size": 64})
    config.text.update(
        {"tokenizer": "words", "vocabulary": 48, "length": 12, "width": 96, "depth": 2}
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
            "beside": "source",
            "class_dropout": 0.1,
            "source_dropout": 0.1,
            "guidance": 2.0,
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
        source="edit_scenes:16x16x3",
        shape=(16, 16, 3),
        model__patch=4,
        text__width=16,
        text__depth=1,
    )
