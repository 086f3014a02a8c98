"""Flow matching over the codes of configs/klae_cifar10.py (Dao et al. 2023), with classes.

gen-jax train --config configs/latent_cifar10.py --workdir runs/latent_cifar10 \\
    --config.stage1=runs/klae_cifar10 --config.data.source=npz:cifar10.npz
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("diffusion")
    config.stage1 = "runs/klae_cifar10"
    config.data.update(
        {"source": "npz:cifar10.npz", "shape": (32, 32, 3), "batch_size": 64, "holdout": 5000}
    )
    config.model.update(
        {
            "channels": 96,
            "multipliers": (1, 2),
            "num_res_blocks": 2,
            "attention_resolutions": (8, 4),
            "groups": 16,
            "dropout": 0.0,
            "num_classes": 10,
            "class_dropout": 0.1,
        }
    )
    config.diffusion.update(
        {"schedule": "flow", "prediction": "velocity", "times": "logit_normal", "clip": False}
    )
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 200, "decay": "cosine"})
    config.train.update({"steps": 20_000, "log_every": 100, "sample_every": 2000})
    return variant_of(
        config, variant, source="synthetic:32x32x3", shape=(32, 32, 3), data__holdout=16
    )
