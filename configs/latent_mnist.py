"""Latent diffusion on MNIST: a DDPM over the codes of configs/klae_mnist.py (Rombach et al. 2022).

gen-jax train --config configs/latent_mnist.py --workdir runs/latent_mnist \\
    --config.stage1=runs/klae_mnist --config.data.source=npz:mnist.npz
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("diffusion")
    config.stage1 = "runs/klae_mnist"
    config.data.update(
        {"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 32, "holdout": 5000}
    )
    config.model.update(
        {
            "channels": 48,
            "multipliers": (1,),
            "num_res_blocks": 2,
            "attention_resolutions": (7,),
            "groups": 8,
            "dropout": 0.0,
            "num_classes": 10,
        }
    )
    config.diffusion.update({"schedule": "cosine", "prediction": "v", "clip": False})
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 200, "decay": "cosine"})
    config.train.update({"steps": 4000, "log_every": 100, "sample_every": 1000, "save_every": 500})
    return variant_of(config, variant, source="digits", shape=(8, 8, 1), data__holdout=16)
