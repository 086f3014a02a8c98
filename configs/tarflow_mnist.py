"""TarFlow on MNIST by class (Zhai et al. 2024), at a size for two cores.

    gen-jax train --config configs/tarflow_mnist.py --workdir runs/tarflow \\
        --config.data.source=npz:mnist.npz
    gen-jax sample --workdir runs/tarflow --num 100 --guidance 2 --out digits.png

With the noise of the paper, for pictures, there is no likelihood:
``--config.model.noise=0.1 --config.model.dequantization=none``.
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("normalizing_flow")
    config.data.update({"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 64})
    config.model.update({"kind": "tarflow", "num_classes": 10, "class_dropout": 0.1})
    config.optimizer.update({"learning_rate": 2e-3, "decay": "cosine", "b2": 0.95})
    config.train.update(
        {"steps": 4000, "ema_decay": 0.995, "log_every": 100, "sample_every": 1000,
         "save_every": 1000}
    )  # fmt: skip
    return variant_of(config, variant, source="synthetic:28x28x1", shape=(28, 28, 1))
