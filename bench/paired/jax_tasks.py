"""The tasks of ``bench/paired`` with gen_jax: its networks, models and whole training step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gen_jax import codecs, diffusion
from gen_jax.models.autoregressive import autoregressive_model
from gen_jax.models.diffusion import diffusion_model
from gen_jax.nn.dit import DiT
from gen_jax.nn.transformer import CausalTransformer
from gen_jax.nn.unet import UNet
from gen_jax.ops import keys as rng
from gen_jax.train.engines import jit_engine
from gen_jax.train.sharding import make_mesh

import sizes  # isort: skip  beside this file


def config_model(name, *overrides):
    """Build a shipped experiment, of arrays in memory."""
    from gen_jax.launch.build.experiment import build
    from gen_jax.launch.config.files import load_config

    return build(load_config(name, list(overrides)))


def train_step(model, optimizers, batch):
    engine = jit_engine(model, optimizers, make_mesh(devices=jax.devices()[:1]))
    key, batch = engine.key(0), engine.put(batch)
    state = engine.init(key, batch, {})
    step = engine.compile(state, {}, batch, key)
    held = [state]

    def run():
        held[0], metrics = step(held[0], {}, batch, key)
        return float(next(iter(metrics.values())))

    return run


def adamw():
    return {"net": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-4))}


def images(batch):
    return np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), np.uint8)


def unet(values):
    widths = values["widths"]
    return UNet(
        resolution=32,
        out_channels=3,
        channels=widths[0],
        multipliers=tuple(width // widths[0] for width in widths),
        num_res_blocks=values["blocks"],
        attention_resolutions=values["attention"],
        groups=values["groups"],
        dropout=0.0,
    )


def denoiser_train(network, batch):
    model = diffusion_model(
        network, diffusion.linear_beta(), diffusion.epsilon, shape=(32, 32, 3), num_steps=1000
    )
    model = codecs.with_codec(model, codecs.rgb())
    return train_step(model, adamw(), {"image": images(batch)})


def unet_forward(values, batch):
    network, x = unet(values), jnp.asarray(images(batch) / 127.5 - 1, jnp.float32)
    t = jnp.linspace(0.1, 0.9, batch)
    variables = jax.jit(network.init)(jax.random.key(0), x, t)
    run = jax.jit(network.apply)
    return lambda: run(variables, x, t).block_until_ready()


def unet_sample(values, batch, steps=50):
    network, schedule = unet(values), diffusion.linear_beta()
    x, t = jnp.zeros((batch, 32, 32, 3)), jnp.ones(batch)
    variables = jax.jit(network.init)(jax.random.key(0), x, t)
    keys, times = rng.per_example(jax.random.key(1), 0, batch), diffusion.uniform_times(steps, 1000)

    @jax.jit
    def run(variables, keys):
        apply = functools.partial(network.apply, variables)
        denoise = diffusion.denoiser(apply, schedule, diffusion.epsilon)
        denoise = diffusion.clip_x_0(denoise, schedule)
        return diffusion.sample(denoise, schedule, diffusion.ddim(), times, x.shape[1:], keys)

    return lambda: run(variables, keys).block_until_ready()


def dit_train(batch):
    network = DiT(
        resolution=32,
        out_channels=3,
        patch=sizes.DIT["patch"],
        width=sizes.DIT["width"],
        depth=sizes.DIT["depth"],
        num_heads=sizes.DIT["heads"],
    )
    return denoiser_train(network, batch)


def transformer(length):
    return CausalTransformer(
        sizes.GPT["categories"],
        (length,),
        width=sizes.GPT["width"],
        depth=sizes.GPT["depth"],
        num_heads=sizes.GPT["heads"],
    )


def prior_train(batch, length=256):
    model = autoregressive_model(transformer(length), (length,))
    tokens = np.random.default_rng(0).integers(
        0, sizes.GPT["categories"], (batch, length), np.int32
    )
    return train_step(model, adamw(), {"x": tokens})


def decoding(length, batch):
    network = transformer(length)
    variables = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, length), jnp.int32))
    model = autoregressive_model(network, (length,))
    from gen_jax.protocols import Weights

    weights, keys = (
        Weights({"net": variables["params"]}),
        rng.per_example(jax.random.key(1), 0, batch),
    )
    run = jax.jit(lambda weights, keys: model.sampler.draw(weights, keys, {}))
    return lambda: run(weights, keys).block_until_ready()


def vqvae_train(batch):
    experiment = config_model("vqvae_cifar10", f"data.batch_size={batch}")
    return train_step(experiment.model, experiment.optimizers, {"image": images(batch)})


def vae_train(batch):
    experiment = config_model("vae_mnist", f"data.batch_size={batch}")
    gray = np.random.default_rng(0).integers(0, 256, (batch, 28, 28, 1), np.uint8)
    return train_step(experiment.model, experiment.optimizers, {"image": gray})


TASKS = {
    "unet_train": lambda: denoiser_train(unet(sizes.UNET), 16),
    "unet_forward": lambda: unet_forward(sizes.UNET, 16),
    "unet_sample": lambda: unet_sample(sizes.UNET, 16),
    "unet_train_64": lambda: denoiser_train(unet(sizes.UNET), 64),
    "cifar_train": lambda: denoiser_train(unet(sizes.CIFAR), 8),
    "vqvae_train": lambda: vqvae_train(64),
    "dit_train": lambda: dit_train(16),
    "prior_train": lambda: prior_train(16),
    "vae_train": lambda: vae_train(100),
    **{
        f"decode_{length}_{batch}": lambda length=length, batch=batch: decoding(length, batch)
        for length, batch in sizes.decoding_of()
    },
}
