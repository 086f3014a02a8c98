"""unCLIP, or DALL-E 2, on captioned scenes: a text's image as CLIP sees it, and then its pixels.

    gen-jax train --config configs/clip_scenes.py --workdir runs/clip_scenes
    gen-jax train --config configs/unclip_prior_scenes.py --workdir runs/unclip_prior_scenes
    gen-jax train --config configs/unclip_scenes.py --workdir runs/unclip
    gen-jax sample --workdir runs/unclip --prompt "a red circle above a blue square" --out a.png
    gen-jax sample --workdir runs/unclip --prompt "" --like a.png --out variations.png

Ramesh et al. 2022: the prior draws embeddings of images from texts, and this, the decoder, images
from embeddings. Embeddings are left out of a tenth of its training, texts out of half of it. Its
work directory holds CLIP and prior (experiments/stages).
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny``."""
    config = defaults("diffusion")
    config.data.update({"source": "scenes:24x24x3", "shape": (24, 24, 3), "batch_size": 64})
    config.stages.update(
        {
            "clip": "runs/clip_scenes",
            "text": "runs/clip_scenes",
            "prior": "runs/unclip_prior_scenes",
        }
    )
    config.diffusion.update({"schedule": "cosine", "prediction": "v"})
    config.model.update(
        {
            "network": "dit",
            "patch": 3,
            "width": 128,
            "depth": 4,
            "num_heads": 4,
            "dropout": 0.0,
            "class_dropout": 0.5,
            "embedding_dropout": 0.1,
            "guidance": 2.0,
        }
    )
    config.optimizer.update({"learning_rate": 1.5e-3, "warmup_steps": 200, "decay": "cosine"})
    config.train.update(
        {
            "steps": 4000,
            "ema_decay": 0.998,
            "log_every": 100,
            "sample_every": 2000,
            "save_every": 1000,
        }
    )
    return variant_of(config, variant, source="scenes:16x16x3", shape=(16, 16, 3), model__patch=4)
