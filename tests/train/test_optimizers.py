import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.errors import ConfigError
from gen_jax.launch.build.experiment import abstract_state, build
from gen_jax.launch.config.files import load_config
from gen_jax.train.optimizers import adamw, by_subtree, learning_rate, named
from gen_jax.train.rules import OPTIMIZERS


def test_warm_up_then_constant():
    rate = learning_rate(0.8, warmup_steps=4, decay="constant", total_steps=10)
    np.testing.assert_allclose([rate(n) for n in range(6)], [0.2, 0.4, 0.6, 0.8, 0.8, 0.8], 1e-6)


def test_warm_up_then_cosine_to_zero():
    rate = learning_rate(1.0, warmup_steps=2, decay="cosine", total_steps=12)
    np.testing.assert_allclose(rate(2), 1.0)
    np.testing.assert_allclose(rate(7), 0.5, atol=1e-6)
    np.testing.assert_allclose(rate(12), 0.0, atol=1e-6)


@pytest.mark.parametrize("warmup", [0, 1])
def test_short_warm_ups_reach_the_peak_at_once(warmup):
    rate = learning_rate(1.0, warmup_steps=warmup, decay="constant", total_steps=5)
    assert float(rate(warmup)) == 1.0


def test_impossible_schedules_are_refused():
    with pytest.raises(ValueError, match="decay: got 'step'; 'constant' or 'cosine' is required"):
        learning_rate(1.0, warmup_steps=0, decay="step", total_steps=5)
    with pytest.raises(
        ValueError, match="warmup_steps: got 5; less than the 5 steps of training is required"
    ):
        learning_rate(1.0, warmup_steps=5, decay="cosine", total_steps=5)


PARAMS = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}


@pytest.mark.parametrize(
    ("config", "overrides"),
    [
        ("transformer_digits", ()),
        ("transformer_digits", ("model.network=pixelcnn", "model.num_heads=1")),
        ("ddpm_digits", ("model.context_dim=8", "model.attention_resolutions=(8,)")),
        ("ddpm_digits", ("model.network=dit", "model.num_classes=3")),
        ("vqvae_cifar10", ()),
        ("dvae_cifar10", ()),
        ("aae_mnist", ()),
    ],
)
def test_decay_knows_roles_in_every_network(config, overrides):
    """Stacked scales and the biases of heads have two dimensions and more."""
    values = load_config(f"configs/{config}.py:tiny", list(overrides))
    params = abstract_state(build(values), values["data"]["shape"]).params
    adam = adamw(0.1, weight_decay=0.5)
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), params)
    zeros = jax.tree.map(np.zeros_like, ones)
    updates, _ = adam.update(zeros, adam.init(ones), ones)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        name = path[-1].key
        spared = name.endswith(("bias", "scale")) or update.ndim < 2
        assert (np.asarray(update) == (0 if spared else np.float32(-0.05))).all(), path


def test_decay_pulls_kernels_and_spares_biases():
    optimizer = adamw(0.1, weight_decay=0.5)
    zeros = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0.0)


def test_the_first_step_is_adam_s():
    """m / (sqrt(v) + eps), both corrected, is the gradient's sign where eps is small."""
    optimizer = adamw(0.1, clip_norm=0.0)
    grads = {"kernel": jnp.full((2, 2), -3.0), "bias": jnp.full(2, 0.5)}
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["kernel"], 0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], -0.1, rtol=1e-5)


@pytest.mark.parametrize(("limit", "seen"), [(1.0, 1.0), (0.0, 60.0), (100.0, 60.0)])
def test_clipping_bounds_the_global_norm(limit, seen):
    """A large eps makes the first step proportional to the gradient that Adam saw."""
    optimizer = adamw(1e6, eps=1e6, clip_norm=limit)
    grads = {"kernel": jnp.full((2, 2), 18.0), "bias": jnp.full(2, 24.0 * np.sqrt(2))}
    updates, _ = optimizer.update(grads, optimizer.init(PARAMS), PARAMS)
    norm = np.sqrt(sum(np.square(u).sum() for u in updates.values()))
    assert norm == pytest.approx(seen, rel=1e-3)


def test_a_subtree_without_gradient_stays_and_forgets_nothing():
    optimizer = by_subtree({"a": adamw(0.1), "b": adamw(0.1)})
    params = {"a": {"w": jnp.ones(3)}, "b": {"w": jnp.ones(3)}}
    ones = jax.tree.map(jnp.ones_like, params)
    state = optimizer.init(params)
    _, state = optimizer.update(ones, state, params)
    half = {"a": ones["a"], "b": {"w": jnp.zeros(3)}}
    updates, after = optimizer.update(half, state, params)
    assert np.all(updates["a"]["w"] != 0)
    np.testing.assert_array_equal(updates["b"]["w"], 0)
    chex.assert_trees_all_equal(after["b"], state["b"])
    # And then goes on as if that turn had not been.
    resumed, _ = optimizer.update(ones, after, params)
    expected, _ = optimizer.update(ones, state, params)
    np.testing.assert_array_equal(resumed["b"]["w"], expected["b"]["w"])
    with pytest.raises(ValueError, match=r"got \['a'\]; one for each of \['a', 'b'\] is required"):
        by_subtree({"a": adamw(0.1)}).init(params)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_named_optimizer_descends_and_decays_what_has_a_direction(name):
    params = {"kernel": jnp.full((4, 4), 2.0), "bias": jnp.full(4, 2.0)}
    optimizer = named(name, 0.05, weight_decay=0.0, clip_norm=0.0)

    def loss(params):
        return sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(params))

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    state, before = optimizer.init(params), loss(params)
    for _ in range(60):
        params, state = step(params, state)
    assert loss(params) < 0.5 * before
    # Without a gradient only decay is left, and only where there is a direction.
    ones = {"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}
    decayed = named(name, 0.1, weight_decay=0.5)
    nothing = jax.tree.map(jnp.zeros_like, ones)
    updates, _ = decayed.update(nothing, decayed.init(ones), ones)
    np.testing.assert_allclose(updates["kernel"], -0.05, atol=1e-6)


def test_unknown_optimizers_and_halved_moments_of_others_are_refused():
    with pytest.raises(ValueError, match="name: got 'adam'; one of adamw, lion"):
        named("adam", 0.1)
    with pytest.raises(ValueError, match="moments: got '16bit'; 'float32' is required for lion"):
        named("lion", 0.1, moments="16bit")
    with pytest.raises(ConfigError, match="optimizer.moments: got '16bit'"):
        load_config("vae_mnist", ["optimizer.name=lion", "optimizer.moments=16bit"])
