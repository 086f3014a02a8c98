"""A GAN of MNIST digits, in R3GAN's form (Huang et al. 2024), at a size for two cores.

    gen-jax train --config configs/gan_mnist.py --workdir runs/gan \\
        --config.data.source=npz:mnist.npz

By class: ``--config.model.num_classes=10``. 4,000 steps took 23 minutes on two cores that did other
work beside (experiments/gan).
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("gan")
    config.data.update({"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 64})
    # 7, 14 and 28 pixels.
    config.model.update({"widths": (64, 32, 16), "penalty_every": 4})
    config.optimizer.update({"learning_rate": 1e-3, "decay": "cosine"})
    config.train.update(
        {"steps": 6000, "ema_decay": 0.998, "log_every": 100, "sample_every": 1000,
         "save_every": 1000}
    )  # fmt: skip
    return variant_of(config, variant, source="synthetic:28x28x1", shape=(28, 28, 1))
