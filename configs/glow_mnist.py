"""Glow on MNIST (Kingma & Dhariwal 2018), at a size for two cores.

    gen-jax train --config configs/glow_mnist.py --workdir runs/glow \\
        --config.data.source=npz:mnist.npz

``--config.model.kind=realnvp`` and ``jet`` are other flows of the same family, and
``--config.model.num_classes=10`` makes one of each class, and a classifier.
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("normalizing_flow")
    config.data.update({"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 64})
    config.optimizer.update({"learning_rate": 2e-3, "decay": "cosine"})
    config.train.update(
        {"steps": 3000, "ema_decay": 0.995, "log_every": 100, "sample_every": 1000,
         "save_every": 1000}
    )  # fmt: skip
    return variant_of(config, variant, source="synthetic:28x28x1", shape=(28, 28, 1))
