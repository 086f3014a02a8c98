"""DDPM on CIFAR-10 as in the paper: 35.7M parameters, batch 128, 800,000 steps.

Ho et al. 2020, Appendix B: Adam with learning rate 2e-4, warm-up over 5,000 steps and clipping at
norm 1 (from their code), dropout 0.1, random flips, moving average 0.9999.

    gen-jax train --config configs/ddpm_cifar10.py --workdir runs/cifar10 \\
    --config.data.source=tfds:cifar10
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("diffusion")
    config.data.update(
        {"source": "npz:cifar10.npz", "shape": (32, 32, 3), "batch_size": 128, "flip": True}
    )
    config.optimizer.update({"learning_rate": 2e-4, "warmup_steps": 5000})
    config.train.update(
        {
            "steps": 800_000,
            "ema_decay": 0.9999,
            "log_every": 100,
            "sample_every": 10_000,
            "save_every": 5_000,
        }
    )
    return variant_of(config, variant, source="synthetic:32x32x3", shape=(32, 32, 3))
