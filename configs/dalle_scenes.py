"""Text to image by tokens, over captioned scenes: LlamaGen's way, and DALL-E's.

    gen-jax train --config configs/vqvae_scenes.py --workdir runs/vqvae_scenes
    gen-jax train --config configs/dalle_scenes.py --workdir runs/dalle \\
        --config.stage1=runs/vqvae_scenes
    gen-jax sample --workdir runs/dalle --prompt "three green crosses" --num 16 --out a.png

DALL-E's predicts the text's tokens too, with an eighth of the weight. ``:llamagen`` encodes the
text, and its vectors stand before the codes.
"""

from ml_collections import ConfigDict

from gen_jax.launch.config import defaults, variant_of


def get_config(variant: str = "") -> ConfigDict:
    """Make the experiment, or its variant ``tiny`` or ``llamagen``."""
    config = defaults("autoregressive")
    config.data.update({"source": "scenes:24x24x3", "shape": (24, 24, 3), "batch_size": 64})
    config.stage1 = "runs/vqvae_scenes"
    config.text.update({"tokenizer": "words", "vocabulary": 48, "length": 14, "width": 128})
    config.model.update(
        {
            "network": "llama",
            "width": 128,
            "depth": 6,
            "num_heads": 4,
            "class_dropout": 0.1,
            "guidance": 2.0,
            "text_weight": 1 / 8,
        }
    )
    config.optimizer.update(
        {"learning_rate": 1e-3, "warmup_steps": 200, "decay": "cosine", "b2": 0.95}
    )
    config.optimizer.weight_decay = 0.05
    config.train.update(
        {
            "steps": 6000,
            "ema_decay": 0.998,
            "log_every": 100,
            "sample_every": 2000,
            "save_every": 1000,
        }
    )
    if variant == "llamagen":
        config.model.text_weight = 0.0
        return config
    return variant_of(
        config,
        variant,
        source="scenes:16x16x3",
        shape=(16, 16, 3),
        text__width=16,
        text__depth=1,
    )
