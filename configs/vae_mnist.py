"""VAE on stochastically binarized MNIST, with the network of Burda et al. 2016: 200, 200, 50.

Their tanh is a SiLU here, which learns faster (experiments/vae_mnist).

    gen-jax train --config configs/vae_mnist.py --workdir runs/vae_mnist \\
        --config.data.source=npz:mnist.npz
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("vae")
    config.data.update(
        {"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 100, "holdout": 5000}
    )
    config.model.activation = "silu"
    config.optimizer.update({"learning_rate": 1e-3, "decay": "cosine", "clip_norm": 200.0})
    config.train.update(
        {
            "steps": 120_000,
            "ema_decay": 0.999,
            "log_every": 1000,
            "sample_every": 30_000,
            "save_every": 5000,
        }
    )
    return variant_of(config, variant, source="digits", shape=(8, 8, 1))
