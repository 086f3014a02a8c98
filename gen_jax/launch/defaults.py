"""What each field of a config says where nobody has said anything.

For models that come without a config of ours, and for saved configs of earlier versions, which lack
the fields that were added since: a new field's default is what was done before it. The same as
``configs/common.py`` gives, which a test sees to; that file is the place to read about the fields,
and installed packages do not have it.
"""

import copy
from collections.abc import Mapping
from typing import Any

__all__ = ["completed", "defaults_of"]


COMMON: Mapping[str, Any] = {
    "data": {
        "batch_size": 128,
        "crop": 0,
        "dir": "",
        "flip": False,
        "holdout": 0,
        "max_bad_fraction": 0.001,
        "num_workers": 0,
        "on_bad": "error",
        "shape": (8, 8, 1),
        "skip_steps": (),
        "source": "digits",
        "timeout_s": 300.0,
    },
    "mesh": {"data": -1, "fsdp": 1, "min_size": 65536, "overrides": (), "tensor": 1},
    "optimizer": {
        "b1": 0.9,
        "b2": 0.999,
        "clip_norm": 1.0,
        "decay": "constant",
        "eps": 1e-08,
        "learning_rate": 0.001,
        "moments": "float32",
        "warmup_steps": 0,
        "weight_decay": 0.0,
    },
    "profile": {"start": 0, "steps": 5},
    "seed": 0,
    "train": {
        "ema_decay": 0.999,
        "engine": "jit",
        "init_from": "",
        "keep": 2,
        "log_every": 50,
        "max_bad_steps": 5,
        "microbatches": 1,
        "sample_every": 500,
        "save_every": 500,
        "spike_sigma": 0.0,
        "spike_window": 128,
        "steps": 1000,
    },
}

FAMILIES: Mapping[str, Any] = {
    "adversarial_autoencoder": {
        "model": {
            "activation": "tanh",
            "attention": False,
            "channels": 32,
            "disc_widths": (1000, 1000),
            "dtype": "float32",
            "groups": 8,
            "latent_dim": 50,
            "likelihood": "bernoulli",
            "multipliers": (1, 2, 2),
            "network": "mlp",
            "num_res_blocks": 1,
            "projected": 0,
            "widths": (200, 200),
        }
    },
    "autoencoder": {
        "model": {
            "activation": "tanh",
            "attention": False,
            "channels": 32,
            "corruption": "none",
            "corruption_level": 0.25,
            "dtype": "float32",
            "groups": 8,
            "latent": "vector",
            "latent_dim": 50,
            "likelihood": "bernoulli",
            "multipliers": (1, 2, 2),
            "network": "mlp",
            "num_res_blocks": 1,
            "projected": 0,
            "sparsity": "none",
            "sparsity_target": 0.05,
            "sparsity_weight": 0.1,
            "widths": (200, 200),
        }
    },
    "autoregressive": {
        "model": {
            "class_dropout": 0.0,
            "depth": 8,
            "dropout": 0.0,
            "dtype": "float32",
            "hidden": 512,
            "kernel": 5,
            "levels": 256,
            "mlp_ratio": 4,
            "network": "transformer",
            "num_classes": 0,
            "num_heads": 8,
            "positions": "table",
            "remat": "none",
            "width": 256,
        },
        "stage1": "",
    },
    "classifier": {
        "diffusion": {
            "beta_end": 0.02,
            "beta_start": 0.0001,
            "num_steps": 1000,
            "schedule": "linear",
            "sigma_max": 80.0,
        },
        "model": {
            "attention_resolutions": (),
            "channels": 32,
            "dropout": 0.0,
            "dtype": "float32",
            "groups": 8,
            "multipliers": (1, 2, 2),
            "noisy": True,
            "num_classes": 10,
            "num_heads": 1,
            "num_res_blocks": 1,
            "remat": "none",
        },
    },
    "diffusion": {
        "diffusion": {
            "antithetic": False,
            "beta_end": 0.02,
            "beta_start": 0.0001,
            "clip": True,
            "importance": False,
            "learned_variance": False,
            "num_steps": 1000,
            "objective": "simple",
            "pairing": False,
            "prediction": "eps",
            "schedule": "linear",
            "sigma_data": 0.5,
            "sigma_max": 80.0,
            "times": "uniform",
            "times_mean": 0.0,
            "times_std": 0.0,
            "weighting": "none",
            "weighting_gamma": 0.0,
        },
        "model": {
            "activation": "auto",
            "adaptive": False,
            "attention_resolutions": (16,),
            "block": "resnet",
            "centred": False,
            "channels": 128,
            "class_dropout": 0.0,
            "context_depth": 1,
            "context_dim": 0,
            "cos_first": False,
            "depth": 12,
            "dropout": 0.1,
            "dtype": "float32",
            "epsilon": 1e-06,
            "frequency_shift": 1,
            "groups": 32,
            "head_dim": 0,
            "low_res_factor": 0,
            "middle_attention": True,
            "middle_norm": True,
            "mlp_ratio": 4,
            "multipliers": (1, 2, 2, 2),
            "network": "unet",
            "num_classes": 0,
            "num_heads": 1,
            "num_res_blocks": 2,
            "patch": 2,
            "remat": "none",
            "resample": "conv",
            "scale_skips": False,
            "time_offset": 0.0,
            "width": 384,
        },
        "stage1": "",
    },
    "dvae": {
        "model": {
            "dtype": "float32",
            "hidden": 256,
            "initial": 128,
            "kl_end": 6.6,
            "kl_start": 0.0,
            "kl_steps": 5000,
            "likelihood": "logit_laplace",
            "num_blocks": 2,
            "num_codes": 8192,
            "num_groups": 4,
            "straight_through": False,
            "temperature_end": 0.0625,
            "temperature_start": 1.0,
            "temperature_steps": 150000,
        }
    },
    "vae": {
        "model": {
            "activation": "tanh",
            "attention": False,
            "beta": 1.0,
            "binarise": "stochastic",
            "channels": 32,
            "components": 10,
            "dtype": "float32",
            "free_bits": 0.0,
            "groups": 8,
            "kl_warmup": 0,
            "latent": "vector",
            "latent_dim": 50,
            "likelihood": "bernoulli",
            "log_sigma": 0.0,
            "multipliers": (1, 2, 2),
            "network": "mlp",
            "num_classes": 0,
            "num_importance": 1,
            "num_res_blocks": 1,
            "projected": 0,
            "sigma": "optimal",
            "widths": (200, 200),
        }
    },
    "vqvae": {
        "model": {
            "attention": True,
            "binarise": "none",
            "channels": 128,
            "codebook": "ema",
            "commitment_cost": 2.0,
            "cosine": False,
            "decay": 0.99,
            "dtype": "float32",
            "embedding_dim": 64,
            "factors": (4,),
            "groups": 32,
            "hidden": 32,
            "levels": 1,
            "likelihood": "gaussian",
            "log_sigma": 0.0,
            "multipliers": (1, 2, 2),
            "network": "hierarchy",
            "num_blocks": 2,
            "num_embeddings": 512,
            "num_res_blocks": 2,
            "projected": 0,
            "quantizer": "vector",
            "revive_below": 0.05,
            "scalar_levels": (8, 5, 5, 5),
        }
    },
}


def defaults_of(family: str) -> dict[str, Any]:
    """Give a config of a family, without a purpose.

    Raises:
        KeyError: for an unknown family.
    """
    return {"family": family, **copy.deepcopy({**COMMON, **FAMILIES[family]})}


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Add the fields that a saved config lacks, each with its default."""
    family = config.get("family")
    if not isinstance(family, str) or family not in FAMILIES:
        return dict(config)
    return _merged(defaults_of(family), config)


def _merged(default: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**default, **config}
    for name, value in default.items():
        if isinstance(value, Mapping) and isinstance(config.get(name), Mapping):
            merged[name] = _merged(value, config[name])
    return merged
