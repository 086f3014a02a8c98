"""A restricted Boltzmann machine on binarized MNIST, by persistent contrastive divergence.

    gen-jax train --config configs/rbm_mnist.py --workdir runs/rbm \\
        --config.data.source=npz:mnist.npz
    gen-jax evaluate --workdir runs/rbm --num 500

``--config.model.kind=dbm --config.model.hidden='(500,1000)' --config.model.gibbs_steps=5`` is a
deep one.
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("boltzmann")
    config.data.update({"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 100})
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 0, "decay": "cosine"})
    config.train.update(
        {"steps": 12_000, "log_every": 200, "sample_every": 3000, "save_every": 3000}
    )
    return variant_of(config, variant, source="synthetic:28x28x1", shape=(28, 28, 1))
