"""VQ-VAE on MNIST: 7x7 codes of 128.

Minutes on two cores:

gen-jax train --config configs/vqvae_mnist.py --workdir runs/vqvae_mnist \\
        --config.data.source=npz:mnist.npz
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("vqvae")
    config.data.update(
        {"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 32, "holdout": 5000}
    )
    config.model.update({"channels": 64, "hidden": 32, "num_embeddings": 128, "embedding_dim": 16})
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 100, "decay": "cosine"})
    config.train.update({"steps": 3000, "log_every": 100, "sample_every": 1000})
    return variant_of(config, variant, source="digits", shape=(8, 8, 1))
