"""VAR over MNIST: codes from coarse to fine, one run of the network a scale.

    gen-jax train --config configs/var_mnist.py --workdir runs/var \\
        --config.stage1=runs/var_tokenizer_mnist --config.data.source=npz:mnist.npz
    gen-jax sample --workdir runs/var --num 100 --out digits.png

Tian et al. 2024; the first stage is that of ``configs/var_tokenizer_mnist.py``.
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("next_scale")
    config.data.update(
        {"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 64, "holdout": 5000}
    )
    config.stage1 = "runs/var_tokenizer_mnist"
    config.model.update({"num_classes": 10, "class_dropout": 0.1, "guidance": 1.5})
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 200, "decay": "cosine"})
    config.train.update(
        {
            "steps": 5000,
            "ema_decay": 0.998,
            "log_every": 100,
            "sample_every": 1000,
            "save_every": 1000,
        }
    )
    return variant_of(config, variant, source="synthetic:8x8x1", shape=(8, 8, 1))
