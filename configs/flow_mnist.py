"""A rectified flow on MNIST with classes, for classifier-free guidance (Liu et al. 2023).

gen-jax train --config configs/flow_mnist.py --workdir runs/flow_mnist \\
    --config.data.source=npz:mnist.npz
gen-jax sample --workdir runs/flow_mnist --num 100 --guidance 2 --solver heun --steps 10 --out a.png
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
            "num_classes": 10,
            "class_dropout": 0.1,
        }
    )
    config.diffusion.update({"schedule": "flow", "prediction": "velocity", "times": "logit_normal"})
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 200, "decay": "cosine"})
    config.train.update({"steps": 6000, "log_every": 100, "sample_every": 1500, "save_every": 500})
    return variant_of(config, variant, source="synthetic:28x28x1", shape=(28, 28, 1))
