"""A causal transformer over the 3,072 color values of CIFAR-10.

57 million parameters, 24 layers of 448: a prior of the size that many hosts are for. It has been
planned (experiments/scaling), not trained.

    gen-jax plan --config configs/transformer_cifar10.py --topology tpu:v5e:4x4
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("autoregressive")
    config.data.update(
        {"source": "npz:cifar10.npz", "shape": (32, 32, 3), "batch_size": 128, "flip": True}
    )
    config.model.update(
        {"width": 448, "depth": 24, "num_heads": 8, "dropout": 0.1, "dtype": "bfloat16"}
    )
    config.model.remat = "full"  # attention of 3,072 to 3,072 must not be kept for 24 layers
    config.optimizer.update({"learning_rate": 3e-4, "warmup_steps": 5000, "weight_decay": 0.01})
    config.train.update(
        {
            "steps": 300_000,
            "ema_decay": 0.9999,
            "log_every": 100,
            "sample_every": 10_000,
            "save_every": 5_000,
        }
    )
    return variant_of(config, variant, source="synthetic:8x8x3", shape=(8, 8, 3))
