"""DDPM on scikit-learn's 8x8 handwritten digits: minutes on two CPU cores."""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("diffusion")
    config.data.update({"source": "digits", "shape": (8, 8, 1), "batch_size": 64})
    config.model.update(
        {
            "channels": 32,
            "multipliers": (1, 2),
            "num_res_blocks": 1,
            "attention_resolutions": (4,),
            "groups": 8,
            "dropout": 0.0,
        }
    )
    config.optimizer.update({"learning_rate": 2e-3, "warmup_steps": 50, "decay": "cosine"})
    config.train.update(
        {"steps": 750, "ema_decay": 0.99, "log_every": 50, "sample_every": 375, "save_every": 250}
    )
    return variant_of(config, variant, source="digits", shape=(8, 8, 1))
