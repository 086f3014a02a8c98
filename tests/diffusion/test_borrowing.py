"""The mathematics works with any callable: a bare function, an NNX module, an Equinox module."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gen_jax import diffusion as process
from gen_jax.ops import keys as rng

SCHEDULE = process.cosine(100)


class NnxNet(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(3, 2, rngs=nnx.Rngs(0))

    def __call__(self, x, t):
        return self.layer(jnp.concatenate([x, t[:, None]], axis=-1))


class EquinoxNet(eqx.Module):
    layer: eqx.nn.Linear

    def __init__(self):
        self.layer = eqx.nn.Linear(3, 2, key=jax.random.key(0))

    def __call__(self, x, t):
        return jax.vmap(self.layer)(jnp.concatenate([x, t[:, None]], axis=-1))


def bare(x, t):
    return 0.1 * x + t[:, None]


NETWORKS = {"bare": lambda: bare, "nnx": NnxNet, "equinox": EquinoxNet}


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("solver", [process.ddim(0.5), process.ddpm()], ids=["ddim", "ddpm"])
def test_any_network_is_sampled(kind, solver):
    network = NETWORKS[kind]()
    denoise = process.denoiser(network, SCHEDULE, process.v)
    times = process.uniform_times(10, 100)
    keys = rng.per_example(jax.random.key(0), 0, 4)
    x = jax.jit(lambda keys: process.sample(denoise, SCHEDULE, solver, times, (2,), keys))(keys)
    assert x.shape == (4, 2)
    assert np.isfinite(x).all()


def fit_step(network, kind, batch, t, eps):
    """Take one step of gradient descent in each framework's own way."""

    def loss(network):
        each = process.denoising_loss(network, SCHEDULE, process.epsilon, batch, t, eps)
        return jnp.mean(each)

    if kind == "nnx":
        value, grads = nnx.value_and_grad(loss)(network)
        state = nnx.state(network, nnx.Param)
        nnx.update(network, jax.tree.map(lambda p, g: p - 0.05 * g, state, grads))
        return value, network
    value, grads = eqx.filter_value_and_grad(loss)(network)
    return value, eqx.apply_updates(network, jax.tree.map(lambda g: -0.05 * g, grads))


@pytest.mark.parametrize("kind", ["nnx", "equinox"])
def test_any_network_is_trained(kind):
    network = NETWORKS[kind]()
    keys = rng.per_example(jax.random.key(1), 0, 256)
    time_keys, noise_keys, data_keys = rng.split(keys, 3)
    batch, eps = 0.3 * rng.normal(data_keys, (2,)), rng.normal(noise_keys, (2,))
    t = process.discrete(100)(time_keys)
    values = []
    for _ in range(30):
        value, network = fit_step(network, kind, batch, t, eps)
        values.append(float(value))
    assert values[-1] < 0.6 * values[0]
