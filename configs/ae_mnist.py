"""The deep autoencoder of Hinton & Salakhutdinov 2006 on MNIST: 784-1000-500-250-30 and back.

Trained from scratch with Adam, where the paper pretrained layer by layer. Minutes on two cores:

    gen-jax train --config configs/ae_mnist.py --workdir runs/ae_mnist \\
        --config.data.source=npz:mnist.npz

Denoising: --config.model.corruption=masking (or gaussian, or salt_and_pepper). Sparse:
--config.model.sparsity=kl (or l1).
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("autoencoder")
    config.data.update({"source": "npz:mnist.npz", "shape": (28, 28, 1), "holdout": 5000})
    config.model.update({"widths": (1000, 500, 250), "latent_dim": 30, "activation": "relu"})
    config.optimizer.update({"learning_rate": 1e-3, "decay": "cosine"})
    config.train.update({"steps": 5000, "log_every": 200, "sample_every": 2500, "save_every": 1000})
    return variant_of(config, variant, source="digits", shape=(8, 8, 1))
