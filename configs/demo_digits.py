"""Handwritten digits of scikit-learn by class, 8x8: what ``make demo`` trains, in about a minute.

    gen-jax train --config demo_digits --workdir runs/digits
    gen-jax sample --workdir runs/digits --num 100 --steps 50 --out digits.png --trace film.gif

The network of ``ddpm_digits`` told the class, a cosine schedule and v (experiments/ddpm_digits).
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("diffusion")
    config.data.update({"source": "digits", "shape": (8, 8, 1), "batch_size": 64})
    config.diffusion.update({"schedule": "cosine", "prediction": "v"})
    config.model.update(
        {
            "channels": 32,
            "multipliers": (1, 2),
            "num_res_blocks": 1,
            "attention_resolutions": (4,),
            "groups": 8,
            "dropout": 0.0,
            "num_classes": 10,
            "class_dropout": 0.1,
            "guidance": 1.2,
        }
    )
    config.optimizer.update({"learning_rate": 2e-3, "warmup_steps": 50, "decay": "cosine"})
    config.train.update(
        {"steps": 750, "ema_decay": 0.99, "log_every": 50, "sample_every": 375, "save_every": 250}
    )
    return variant_of(config, variant, source="digits", shape=(8, 8, 1))
