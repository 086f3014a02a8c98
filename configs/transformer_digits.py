"""A causal transformer over the pixels of scikit-learn's handwritten digits.

Each of the 64 pixels is one of the 17 gray levels that the data has. Minutes on two cores:

    gen-jax train --config configs/transformer_digits.py --workdir runs/transformer
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("autoregressive")
    config.data.update({"source": "digits", "shape": (8, 8, 1), "batch_size": 64})
    config.model.update({"levels": 17, "width": 96, "depth": 4, "num_heads": 4, "dropout": 0.2})
    config.optimizer.update(
        {"learning_rate": 2e-3, "warmup_steps": 100, "decay": "cosine", "weight_decay": 0.1}
    )
    # 1,500 images are few: at 2,000 steps it knew them by heart.
    config.train.update({"steps": 700, "sample_every": 350, "save_every": 350})
    return variant_of(config, variant, source="digits", shape=(8, 8, 1))
