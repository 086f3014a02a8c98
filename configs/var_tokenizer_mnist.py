"""VAR's tokenizer: codes of MNIST from coarse to fine.

    gen-jax train --config configs/var_tokenizer_mnist.py --workdir runs/var_tokenizer_mnist \\
        --config.data.source=npz:mnist.npz
    gen-jax reconstruct --workdir runs/var_tokenizer_mnist --scales --out scales.png

Tian et al. 2024; ``configs/var_mnist.py`` is the prior over it.
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("vqvae")
    config.data.update(
        {"source": "npz:mnist.npz", "shape": (28, 28, 1), "batch_size": 32, "holdout": 5000}
    )
    config.model.update(
        {
            "quantizer": "multi_scale",
            "scales": (1, 2, 3, 5, 7),
            "num_embeddings": 128,
            "embedding_dim": 16,
            "channels": 64,
        }
    )
    config.optimizer.update({"learning_rate": 1e-3, "warmup_steps": 100, "decay": "cosine"})
    config.train.update({"steps": 3000, "log_every": 100, "sample_every": 1000, "save_every": 1000})
    tiny = variant_of(config, variant, source="synthetic:8x8x1", shape=(8, 8, 1))
    if variant == "tiny":
        tiny.model.scales = (1, 2, 4)
    return tiny
