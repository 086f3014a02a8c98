"""A classifier of MNIST digits, clean and at any noise level of ddpm_mnist.

It guides diffusion models (``sample --classifier``) and judges samples (``evaluate --classifier``).

    gen-jax train --config configs/classifier_mnist.py --workdir runs/classifier \\
        --config.data.source=npz:mnist.npz
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("classifier")
    config.data.update({"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 64})
    config.model.update({"channels": 16, "multipliers": (1, 2, 4)})
    config.optimizer.update({"learning_rate": 2e-3, "warmup_steps": 50, "decay": "cosine"})
    config.train.update(
        {"steps": 2000, "ema_decay": 0.99, "log_every": 100, "sample_every": 0, "save_every": 500}
    )
    return variant_of(config, variant, source="synthetic:28x28x1", shape=(28, 28, 1))
