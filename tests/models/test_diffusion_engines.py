"""What looks at the whole batch does so on any engine: pairing, and the history of losses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax import diffusion as process
from gen_jax.models.diffusion import diffusion_model
from gen_jax.train.engines import make_engine
from gen_jax.train.sharding import Rules, make_mesh

pytestmark = pytest.mark.slow

SHAPE = (4, 4, 1)
BATCH = {"x": np.random.default_rng(0).standard_normal((16, *SHAPE)).astype(np.float32)}


class Network(nn.Module):
    """Small, and nowhere linear in the batch by itself."""

    outputs: int = 1

    @nn.compact
    def __call__(self, x, t, label=None, keys=None, context=None):
        h = nn.Dense(8)(x.reshape(len(x), -1)) + t[:, None]
        h = nn.Dense(16 * self.outputs)(nn.tanh(h))
        return h.reshape(*x.shape[:3], self.outputs)


def paired():
    flow = process.rectified_flow()
    return diffusion_model(Network(), flow, process.velocity, shape=SHAPE, pairing=True)


def by_importance():
    return diffusion_model(
        Network(outputs=2),
        process.cosine(8),
        process.epsilon,
        shape=SHAPE,
        num_steps=8,
        learned_variance=True,
        objective="vlb",
        importance_batch=16,
    )


def train(make, engine, devices, steps=24):
    mesh = make_mesh(devices=devices)
    engine = make_engine(engine, make(), {"net": optax.sgd(1e-5)}, mesh, Rules({}, min_size=1))
    batch, key = engine.put(BATCH), engine.key(0)
    state = engine.init(key, batch)
    step = engine.compile(state, {}, batch, key)
    for _ in range(steps):
        state, metrics = step(state, {}, batch, key)
    return jax.device_get((state.params, state.stats, metrics))


@pytest.fixture(scope="module")
def alone():
    return {make: train(make, "jit", jax.devices()[:1]) for make in (paired, by_importance)}


@pytest.mark.parametrize("make", [paired, by_importance])
@pytest.mark.parametrize("engine", ["jit", "shard_map", "pmap"])
def test_eight_devices_train_as_one(make, engine, alone):
    found = train(make, engine, jax.devices())
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(alone[make]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_history_is_full_and_was_used(alone):
    _, stats, _ = alone[by_importance]
    assert float(stats["net"].seen.sum()) == 24 * 16
    assert float(jnp.min(stats["net"].seen)) >= 10
