"""Defaults shared by all experiments."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Give every field that does not belong to a family."""
    return ConfigDict(
        {
            "family": "",
            "seed": 0,
            "data": {
                "source": "digits",
                "dir": "",
                "shape": (8, 8, 1),
                "batch_size": 128,
                "holdout": 0,
                "flip": False,
                "crop": 0,
                "num_workers": 0,
                "timeout_s": 300.0,  # for one batch
                "on_bad": "error",  # or "skip": an unreadable example is replaced by the next
                "max_bad_fraction": 0.001,  # of the examples that may be
                "skip_steps": (),  # batches to leave out, after a rollback
            },
            "optimizer": {
                "learning_rate": 1e-3,
                "warmup_steps": 0,
                "decay": "constant",
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "clip_norm": 1.0,
                "moments": "float32",
            },
            "train": {
                "init_from": "",  # a work directory whose averaged weights to begin with
                "steps": 1000,
                "microbatches": 1,
                "ema_decay": 0.999,
                "log_every": 50,
                "sample_every": 500,
                "save_every": 500,
                "keep": 2,
                "max_bad_steps": 5,
                "spike_window": 128,
                "spike_sigma": 0.0,  # 0: a loss may leap as it likes
                "engine": "jit",
            },
            "profile": {"start": 0, "steps": 5},
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1, "min_size": 2**16, "overrides": ()},
        }
    )


def diffusion() -> ConfigDict:
    """Give the defaults of a diffusion model: the paper's network and linear schedule."""
    config = get_config()
    config.family = "diffusion"
    config.stage1 = ""
    config.model = ConfigDict(
        {
            "network": "unet",
            "channels": 128,
            "multipliers": (1, 2, 2, 2),
            "num_res_blocks": 2,
            "attention_resolutions": (16,),
            "num_heads": 1,
            "head_dim": 0,
            "groups": 32,
            "block": "resnet",
            "adaptive": False,
            "resample": "conv",
            "scale_skips": False,
            "activation": "auto",
            "middle_attention": True,
            "middle_norm": True,
            "context_dim": 0,
            "context_depth": 1,
            # How other libraries' networks differ; see gen_jax.interop.
            "epsilon": 1e-6,
            "centred": False,
            "time_offset": 0.0,
            "cos_first": False,
            "frequency_shift": 1,
            # Of network "dit", DiT-S/2:
            "patch": 2,
            "width": 384,
            "depth": 12,
            "mlp_ratio": 4,
            "dropout": 0.1,
            "num_classes": 0,
            "class_dropout": 0.0,
            "low_res_factor": 0,
            "dtype": "float32",
            "remat": "none",
        }
    )
    config.diffusion = ConfigDict(
        {
            "schedule": "linear",
            "num_steps": 1000,
            "beta_start": 1e-4,
            "beta_end": 0.02,
            "sigma_max": 80.0,
            "sigma_data": 0.5,
            "prediction": "eps",
            "learned_variance": False,
            "objective": "simple",
            "importance": False,
            "weighting": "none",
            "weighting_gamma": 0.0,
            "times": "uniform",
            "times_mean": 0.0,
            "times_std": 0.0,
            "antithetic": False,
            "pairing": False,
            "clip": True,
        }
    )
    return config


def classifier() -> ConfigDict:
    """Give the defaults of a classifier of images with the noise of :func:`diffusion`."""
    noise = diffusion()
    config = get_config()
    config.family = "classifier"
    config.model = ConfigDict(
        {
            "channels": 32,
            "multipliers": (1, 2, 2),
            "num_res_blocks": 1,
            "attention_resolutions": (),
            "num_heads": 1,
            "groups": 8,
            "dropout": 0.0,
            "num_classes": 10,
            "noisy": True,
            "dtype": "float32",
            "remat": "none",
        }
    )
    names = ("schedule", "num_steps", "beta_start", "beta_end", "sigma_max")
    config.diffusion = ConfigDict({name: noise.diffusion[name] for name in names})
    return config


def autoregressive() -> ConfigDict:
    """Give the defaults of an autoregressive model: a transformer over pixels."""
    config = get_config()
    config.family = "autoregressive"
    config.stage1 = ""
    config.model = ConfigDict(
        {
            "network": "transformer",
            "levels": 256,
            "width": 256,
            "depth": 8,
            "num_heads": 8,
            "mlp_ratio": 4,
            "positions": "table",
            "kernel": 5,
            "hidden": 512,
            "dropout": 0.0,
            "num_classes": 0,
            "class_dropout": 0.0,
            "dtype": "float32",
            "remat": "none",
        }
    )
    return config


def _autoencoder(family: str) -> ConfigDict:
    """Give what all families of autoencoders have, with the network of Burda et al. 2016."""
    config = get_config()
    config.family = family
    config.model = ConfigDict(
        {
            "network": "mlp",
            "widths": (200, 200),
            "activation": "tanh",
            "channels": 32,
            "multipliers": (1, 2, 2),
            "num_res_blocks": 1,
            "groups": 8,
            "attention": False,
            "projected": 0,
            "latent_dim": 50,
            "likelihood": "bernoulli",
            "dtype": "float32",
        }
    )
    return config


def vae() -> ConfigDict:
    """Give the defaults of a variational autoencoder."""
    config = _autoencoder("vae")
    config.model.update(
        {
            "latent": "vector",
            "binarise": "stochastic",
            "sigma": "optimal",
            "log_sigma": 0.0,
            "components": 10,
            "beta": 1.0,
            "free_bits": 0.0,
            "kl_warmup": 0,
            "num_importance": 1,
            "num_classes": 0,
        }
    )
    return config


def autoencoder() -> ConfigDict:
    """Give the defaults of a plain autoencoder."""
    config = _autoencoder("autoencoder")
    config.model.update(
        {
            "latent": "vector",
            "corruption": "none",
            "corruption_level": 0.25,
            "sparsity": "none",
            "sparsity_weight": 0.1,
            "sparsity_target": 0.05,
        }
    )
    return config


def adversarial_autoencoder() -> ConfigDict:
    """Give the defaults of an adversarial autoencoder."""
    config = _autoencoder("adversarial_autoencoder")
    config.model.update({"disc_widths": (1000, 1000)})
    return config


def vqvae() -> ConfigDict:
    """Give the defaults of a VQ-VAE: the network of the paper's CIFAR-10 experiments, K = 512."""
    config = get_config()
    # Averaged weights meet a codebook that is an average itself: over as many steps.
    config.train.ema_decay = 0.99
    config.family = "vqvae"
    config.model = ConfigDict(
        {
            "network": "hierarchy",
            "factors": (4,),
            # Of network "conv", VQ-GAN's:
            "multipliers": (1, 2, 2),
            "num_res_blocks": 2,
            "groups": 32,
            "attention": True,
            "projected": 0,
            "channels": 128,
            "hidden": 32,
            "num_blocks": 2,
            "likelihood": "gaussian",
            "binarise": "none",
            "log_sigma": 0.0,
            "quantizer": "vector",
            "num_embeddings": 512,
            "embedding_dim": 64,
            "levels": 1,
            "codebook": "ema",
            "cosine": False,
            "decay": 0.99,
            "revive_below": 0.05,
            "scalar_levels": (8, 5, 5, 5),
            # The paper's 0.25 in the units of its authors' code, where errors are means over pixels
            # of data of variance 1 and means over dims; here they are sums, in nats.
            "commitment_cost": 2.0,
            "dtype": "float32",
        }
    )
    return config


def dvae() -> ConfigDict:
    """Give the defaults of a discrete VAE: DALL-E's network, likelihood and schedules."""
    config = get_config()
    config.family = "dvae"
    config.model = ConfigDict(
        {
            "num_codes": 8192,
            "hidden": 256,
            "initial": 128,
            "num_groups": 4,
            "num_blocks": 2,
            "likelihood": "logit_laplace",
            "temperature_start": 1.0,
            "temperature_end": 1.0 / 16,
            "temperature_steps": 150_000,
            "kl_start": 0.0,
            "kl_end": 6.6,
            "kl_steps": 5_000,
            "straight_through": False,
            "dtype": "float32",
        }
    )
    return config


def tiny(config: ConfigDict, source: str, shape: tuple[int, int, int]) -> ConfigDict:
    """Shrink any experiment until it runs anywhere within seconds, on data that is always there."""
    config.data.update({"source": source, "shape": shape, "batch_size": 8})
    config.train.update(
        {"steps": 2, "log_every": 1, "sample_every": 0, "save_every": 2, "microbatches": 1}
    )
    config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, 1)
    return config


def tiny_autoencoder(config: ConfigDict, source: str, shape: tuple[int, int, int]) -> ConfigDict:
    """Shrink an autoencoder's experiment, keeping its kind of network and two layers or levels."""
    config = tiny(config, source, shape)
    config.data.holdout = min(config.data.holdout, 16)
    config.model.update(
        {
            "widths": (32, 16),
            "latent_dim": min(config.model.latent_dim, 4),
            "channels": 8,
            "multipliers": (1, 2),
            "num_res_blocks": 1,
            "groups": 4,
        }
    )
    if "disc_widths" in config.model:
        config.model.disc_widths = (16, 16)
    if "num_importance" in config.model:
        config.model.num_importance = min(config.model.num_importance, 3)
    return config


def tiny_vqvae(config: ConfigDict, source: str, shape: tuple[int, int, int]) -> ConfigDict:
    """Shrink a VQ-VAE's experiment, keeping its number of grids."""
    config = tiny(config, source, shape)
    config.data.holdout = min(config.data.holdout, 16)
    config.model.update(
        {
            "factors": (2,) * len(config.model.factors),
            "channels": 16,
            "hidden": 8,
            "num_blocks": 1,
            "num_embeddings": 16,
            "embedding_dim": 4,
        }
    )
    return config


def tiny_autoregressive(config: ConfigDict, source: str, shape: tuple[int, int, int]) -> ConfigDict:
    """Shrink an autoregressive experiment, keeping two layers and two heads."""
    config = tiny(config, source, shape)
    config.data.holdout = min(config.data.holdout, 16)
    config.model.update({"width": 16, "depth": 2, "num_heads": 2, "dtype": "float32"})
    config.model.update({"kernel": 3, "hidden": 16})
    return config


def tiny_diffusion(config: ConfigDict, source: str, shape: tuple[int, int, int]) -> ConfigDict:
    """Shrink a diffusion experiment, keeping attention in the middle."""
    config = tiny(config, source, shape)
    config.model.update(
        {
            "channels": 8,
            "multipliers": (1,),
            "num_res_blocks": 1,
            "attention_resolutions": (),
            "head_dim": 0,
            "groups": 4,
            "width": 16,
            "depth": 1,
            "num_heads": 1,
        }
    )
    config.diffusion.num_steps = 20
    return config


def tiny_dvae(config: ConfigDict, source: str, shape: tuple[int, int, int]) -> ConfigDict:
    """Shrink a discrete VAE's experiment."""
    config = tiny(config, source, shape)
    config.data.holdout = min(config.data.holdout, 16)
    config.model.update(
        {"num_codes": 16, "hidden": 8, "initial": 4, "num_groups": 2, "num_blocks": 1}
    )
    config.model.dtype = "float32"
    return config
