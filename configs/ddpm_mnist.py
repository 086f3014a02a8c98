"""DDPM on MNIST, with a network that two CPU cores can train in an hour or two.

gen-jax train --config configs/ddpm_mnist.py --workdir runs/mnist \\
    --config.data.source=npz:mnist.npz
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("diffusion")
    config.data.update({"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 32})
    config.model.update(
        {
            "channels": 32,
            "multipliers": (1, 2, 2),
            "num_res_blocks": 1,
            "attention_resolutions": (7,),
            "groups": 8,
            "dropout": 0.0,
        }
    )
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 200, "decay": "cosine"})
    config.train.update(
        {
            "steps": 6000,
            "ema_decay": 0.999,
            "log_every": 100,
            "sample_every": 1500,
            "save_every": 500,
        }
    )
    return variant_of(config, variant, source="synthetic:28x28x1", shape=(28, 28, 1))
