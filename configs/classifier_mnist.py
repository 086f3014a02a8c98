"""A classifier of MNIST digits, clean and at any noise level of ddpm_mnist.

It guides diffusion models (``sample --classifier``) and judges samples (``evaluate --classifier``).

    gen-jax train --config configs/classifier_mnist.py --workdir runs/classifier \\
        --config.data.source=npz:mnist.npz
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variant: str = "") -> ConfigDict:
    """Give the experiment, or its ``tiny`` variant."""
    config = common.classifier()
    config.data.update({"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 64})
    config.model.update({"channels": 16, "multipliers": (1, 2, 4)})
    config.optimizer.update({"learning_rate": 2e-3, "warmup_steps": 50, "decay": "cosine"})
    config.train.update(
        {"steps": 2000, "ema_decay": 0.99, "log_every": 100, "sample_every": 0, "save_every": 500}
    )
    if variant == "tiny":
        config = common.tiny(config, "synthetic:28x28x1", (28, 28, 1))
        config.model.update({"channels": 8, "multipliers": (1,), "groups": 4})
        return config
    if variant:
        raise ValueError(f"variant: 'tiny' or none is known, got {variant!r}")
    return config
