"""Every family keeps the protocols. One row a family."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.launch.configfile import load_config
from gen_jax.launch.experiment import build
from gen_jax.launch.schema import families
from gen_jax.ops import keys as rng
from gen_jax.train.engines import jit_engine
from gen_jax.train.sharding import make_mesh

FAMILIES = {"diffusion": "configs/ddpm_digits.py:tiny"}
BATCH_SIZE = 16


def test_every_family_has_a_row():
    assert set(FAMILIES) == set(families())


def one_device_mesh():
    devices = np.array(jax.devices()[:1])
    return jax.sharding.Mesh(devices, ("data",))


class Built:
    def __init__(self, family):
        config = load_config(FAMILIES[family], [])
        self.experiment = build(config)
        image = np.random.default_rng(0).integers(
            0, 256, (BATCH_SIZE, *config["data"]["shape"]), np.uint8
        )
        self.host_batch = {"image": image, "label": np.arange(BATCH_SIZE, dtype=np.int32) % 10}
        self.batch = jax.tree.map(jnp.asarray, self.host_batch)
        self.sgd = {player: optax.sgd(1e-2) for player in self.experiment.optimizers}

    def train(self, mesh, steps, **options):
        engine = jit_engine(self.experiment.model, self.sgd, mesh, **options)
        batch, key = engine.put(self.host_batch), engine.key(0)
        state = engine.init(key, batch)
        for _ in range(steps):
            state, metrics = engine.step(state, self.experiment.frozen, batch, key)
        assert engine.step._cache_size() == 1, "the step compiles once"
        return jax.device_get(state), jax.device_get(metrics)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def built(request):
    return Built(request.param)


@pytest.fixture(scope="module")
def reference(built):
    return built.train(one_device_mesh(), 10)


def assert_close(a, b, rtol=1e-5):
    """Compare the norm of each leaf's difference with the norm of the leaf."""
    for path, x in jax.tree_util.tree_flatten_with_path(a)[0]:
        y = np.asarray(dict(jax.tree_util.tree_flatten_with_path(b)[0])[path], np.float64)
        error, norm = np.linalg.norm(np.asarray(x) - y), np.linalg.norm(y)
        assert error <= rtol * norm + 1e-7, jax.tree_util.keystr(path)


def test_eight_devices_train_as_one(built, reference):
    state, metrics = built.train(make_mesh(), 10)
    assert_close(state.params, reference[0].params)
    assert_close(state.stats, reference[0].stats)
    for name, value in metrics.items():
        assert value == pytest.approx(reference[1][name], rel=1e-4, abs=1e-6), name


def test_first_gradients_are_equal_on_eight_devices(built):
    """One step of SGD is the gradient; unlike Adam it shows one that is eight times too big."""
    one, metrics = built.train(one_device_mesh(), 1)
    eight, _ = built.train(make_mesh(), 1)
    assert_close(eight.params, one.params)
    assert all(value > 0 for name, value in metrics.items() if name.endswith("grad_norm"))


def test_microbatches_train_as_the_big_batch(built, reference):
    state, _ = built.train(one_device_mesh(), 10, microbatches=4)
    assert_close(state.params, reference[0].params)


def test_each_turn_moves_its_own_player(built):
    model = built.experiment.model
    params, _ = model.init(jax.random.key(0), built.batch)
    assert set(params) == set(built.experiment.optimizers)
    assert {loss.player for loss in model.losses.values()} == set(params)


def test_samples_belong_to_their_keys(built):
    model = built.experiment.model
    params, stats = model.init(jax.random.key(0), built.batch)
    keys = rng.per_example(jax.random.key(1), 0, 4)
    sample = jax.jit(lambda keys: model.sample(params, stats, keys, built.experiment.frozen))
    whole = sample(keys).astype(int)
    np.testing.assert_allclose(sample(keys[2:]).astype(int), whole[2:], atol=1)


def test_sample_options_have_defaults_that_are_accepted(built):
    for name, option in built.experiment.model.sample_options.items():
        assert option.default is None or option.ok(option.default), name
        assert option.help
        assert option.accepts
