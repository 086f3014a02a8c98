"""Codes of captioned scenes, for models of text and tokens.

    gen-jax train --config configs/vqvae_scenes.py --workdir runs/vqvae_scenes

36 codes of 128 for 24x24 pixels; ``configs/dalle_scenes.py`` is the prior over it.
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("vqvae")
    config.data.update({"source": "scenes:24x24x3", "shape": (24, 24, 3), "batch_size": 64})
    config.model.update({"factors": (4,), "channels": 64, "num_embeddings": 128})
    config.model.embedding_dim = 32
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 100, "decay": "cosine"})
    config.train.update({"steps": 3000, "log_every": 100, "sample_every": 1000, "save_every": 1000})
    return variant_of(config, variant, source="scenes:16x16x3", shape=(16, 16, 3))
