"""Boltzmann machines beside all of their states."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from gen_jax.models.boltzmann import dbm_model, rbm_model
from gen_jax.ops import boltzmann, keys as rng
from gen_jax.ops.boltzmann import Restricted
from gen_jax.protocols import LOCAL, Context, Weights
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

KEY = jax.random.key(0)
NUM = 20_000


def machine(visible, hidden, scale=0.8, *, real=False):
    keys = jax.random.split(KEY, 4)
    weight = scale * jax.random.normal(keys[0], (visible, hidden))
    biases = [
        jax.random.normal(key, (n,)) for key, n in zip(keys[1:3], (visible, hidden), strict=True)
    ]
    log_scale = 0.3 * jax.random.normal(keys[3], (visible,)) if real else None
    return Restricted(weight, *biases, log_scale)


def states(num):
    return jnp.asarray((np.arange(2**num)[:, None] >> np.arange(num)) & 1, jnp.float32)


def joint(own):
    """Give the probability of each state of visible units (rows) and hidden ones (columns)."""
    v, h = (states(n) for n in own.weight.shape)
    each = jax.vmap(lambda v: -boltzmann.energy(own, jnp.broadcast_to(v, (len(h), len(v))), h))(v)
    return jax.nn.softmax(each.ravel()).reshape(each.shape), jax.nn.logsumexp(each)


def number_of(v):
    return np.asarray(v, np.int64) @ (2 ** np.arange(v.shape[1]))


def test_partition_functions_are_the_sum_over_all_states_from_both_sides():
    own = machine(5, 3)
    _, expected = joint(own)
    swapped = Restricted(own.weight.T, own.hidden, own.visible)
    for each in (own, swapped):
        assert float(boltzmann.exact_log_z(each, chunk=4)) == pytest.approx(
            float(expected), abs=1e-4
        )
    with pytest.raises(ValueError, match="at most 20"):
        boltzmann.exact_log_z(machine(21, 22))


def test_real_numbers_are_integrated_over():
    own = machine(2, 3, real=True)
    side = jnp.linspace(-12, 12, 601)
    grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    numbers = jnp.log(jnp.exp(-boltzmann.free_energy(own, grid)).sum() * 0.04**2)
    exact = float(boltzmann.exact_log_z(own))
    assert float(numbers) == pytest.approx(exact, abs=1e-3)
    estimate, stderr = jax.jit(lambda key: boltzmann.annealed_log_z(own, key, 200, 100))(KEY)
    assert abs(float(estimate) - exact) < 4 * float(stderr) + 1e-3


def test_annealed_importance_sampling_is_right_within_its_error_and_unbiased():
    own = machine(6, 4, scale=2.0)
    exact = boltzmann.exact_log_z(own)

    @jax.jit
    def estimates(keys):
        return jax.vmap(lambda key: boltzmann.annealed_log_z(own, key, 50, 20))(keys)

    found, errors = estimates(jax.random.split(jax.random.key(1), 100))
    # The logarithm errs low; Z itself does not err.
    ratios = np.exp(np.asarray(found - exact, np.float64))
    assert abs(ratios.mean() - 1) < 3.5 * ratios.std() / 10
    assert np.mean(np.abs(found - exact) < 3 * errors) > 0.93


def likely(counts, expected):
    """Whether counts are those of probabilities, by a chi-squared test."""
    return scipy.stats.chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 1e-4


def drawn(key, own):
    """Draw visible units from all states."""
    probabilities, _ = joint(own)
    number = jax.random.categorical(key, jnp.log(probabilities.sum(1)), shape=(NUM,))
    return states(own.weight.shape[0])[number]


def test_gibbs_steps_and_swaps_keep_the_law():
    own = machine(4, 3, scale=1.5)
    keys = rng.per_example(KEY, 0, NUM)
    v = jax.jit(boltzmann.gibbs)(own, keys, drawn(KEY, own), 3)
    expected = np.asarray(joint(own)[0].sum(1), np.float64)
    assert likely(np.bincount(number_of(v), minlength=16), expected)

    # Two temperatures, each in its own law; after a swap both still are.
    betas = jnp.array([0.4, 1.0])
    scaled = [
        Restricted(beta * own.weight, beta * own.visible, beta * own.hidden) for beta in betas
    ]
    both = jnp.stack([drawn(jax.random.key(i), each) for i, each in enumerate(scaled)])
    h = jnp.stack(
        [boltzmann.sample_hidden(own, keys, v, beta) for v, beta in zip(both, betas, strict=True)]
    )
    after = boltzmann.swapped(own, jax.random.key(5), both, h, betas, 0)
    moved = (after != both).any(-1).mean()
    assert 0.1 < float(moved) < 0.95
    for v, each in zip(after, scaled, strict=True):
        expected = np.asarray(joint(each)[0].sum(1), np.float64)
        assert likely(np.bincount(number_of(v), minlength=16), expected)
    np.testing.assert_array_equal(boltzmann.swapped(own, KEY, both, h, betas, 1), both)  # nobody


def test_the_loss_has_the_gradient_of_the_likelihood_and_no_weights_mean_independence():
    model = rbm_model((2, 2, 1), 3, negative="pcd", chains=NUM)
    own = machine(4, 3)
    params = {"net": {"weight": own.weight, "visible": own.visible, "hidden": own.hidden}}
    stats = {"net": {"chains": drawn(KEY, own)[None]}}  # the machine's own law
    x = states(4)[jnp.array([3, 5, 5, 14])].reshape(4, 2, 2, 1)
    keys = rng.per_example(KEY, 0, 4)
    context = Context(jnp.int32(0), LOCAL, True)

    def loss(params):
        return model.losses["cd"].fn(Weights(params, stats), {"x": x}, keys, context)[0]

    def nats(params):
        return -model.density.log_prob(Weights(params), {"x": x}, keys).nats.mean()

    assert model.density.kind == "exact"
    for a, b in zip(
        jax.tree.leaves(jax.grad(loss)(params)),
        jax.tree.leaves(jax.grad(nats)(params)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=4 / NUM**0.5)
    alone = {"net": {**params["net"], "weight": jnp.zeros((4, 3))}}
    of_bits = x.reshape(4, -1) * own.visible[None] - jax.nn.softplus(own.visible)[None]
    assert float(nats(alone)) == pytest.approx(-float(of_bits.sum(1).mean()), abs=1e-4)


@pytest.mark.parametrize("negative", ["pcd", "cd", "tempering"])
def test_two_patterns_are_learned(negative):
    """Of eight pixels: all of one half, or all of the other."""
    model = rbm_model((8,), 4, negative=negative, chains=20, temperatures=3)
    patterns = jnp.asarray([[1] * 4 + [0] * 4, [0] * 4 + [1] * 4] * 10, jnp.float32)
    batch, sgd = {"x": patterns}, {"net": optax.sgd(0.1)}
    step = make_train_step(model, sgd)

    @jax.jit
    def trained(key):
        state = init_state(model, sgd, key, batch)
        state, _ = jax.lax.scan(lambda s, _: step(s, {}, batch, key), state, None, length=1500)
        weights = Weights(state.params, state.stats)
        keys = rng.per_example(key, 0, 200)
        nats = model.density.log_prob(weights, batch, keys).nats
        drawn = model.sampler.draw(weights, keys, {}, steps=50, output="draw")
        again = model.latents.decode(weights, model.latents.encode(weights, patterns, {}), {})
        return nats, drawn, again, state.stats

    nats, drawn, again, stats = trained(KEY)
    assert float(nats.mean()) > -1.5  # log 2 = 0.69 is the least that two patterns cost
    assert float(jnp.abs(again - patterns).mean()) < 0.1
    near = jnp.abs(drawn[:, None] - patterns[None, :2]).sum(-1).min(1)
    assert float((near <= 1).mean()) > 0.9
    if negative != "cd":
        assert set(np.unique(stats["net"]["chains"])) <= {0.0, 1.0}


def test_a_deep_machine_is_a_bound_on_all_of_its_states():
    model = dbm_model((4,), (3, 2), chains=100, rounds=30)
    x = states(4)
    params, stats = model.init(KEY, {"x": x}, {})
    params = jax.tree.map(
        lambda p: p + 0.7 * jnp.sin(1.0 + jnp.arange(p.size).reshape(p.shape)), params
    )
    weights = Weights(params, stats)
    bounds = model.density.log_prob(weights, {"x": x}, rng.per_example(KEY, 0, 16)).nats
    # E(v, h, g), written out, of all states.
    net, offset = params["net"], stats["net"]["offsets"]
    v, h, g = (
        part.reshape(-1, n)
        for part, n in zip(jnp.split(states(9), [4, 7], axis=1), (4, 3, 2), strict=True)
    )
    centered = [
        part - offset[name][None] for part, name in ((v, "visible"), (h, "middle"), (g, "top"))
    ]
    energies = -(v @ net["visible"] + h @ net["middle"] + g @ net["top"])
    energies -= jnp.einsum("bi,ij,bj->b", centered[0], net["first"], centered[1])
    energies -= jnp.einsum("bi,ij,bj->b", centered[1], net["second"], centered[2])
    log_joint = jax.nn.log_softmax(-energies)
    exact = jax.nn.logsumexp(log_joint.reshape(32, 16), axis=0)  # v counts fastest
    assert (bounds <= exact + 1e-4).all()
    assert float((exact - bounds).max()) < 0.3
    assert (model.density.kind, model.density.options) == ("bound", {})

    sgd = {"net": optax.sgd(0.1)}
    two = {"x": x[jnp.array([3, 12] * 8)]}
    step = make_train_step(model, sgd)

    @jax.jit
    def trained(key):
        state = init_state(model, sgd, key, two)
        state, _ = jax.lax.scan(lambda s, _: step(s, {}, two, key), state, None, length=1500)
        weights = Weights(state.params, state.stats)
        keys = rng.per_example(key, 0, 16)
        return model.density.log_prob(weights, two, keys).nats, model.sampler.draw(
            weights, rng.per_example(key, 0, 100), {}, steps=50, output="draw"
        )

    nats, drawn = trained(KEY)
    assert float(nats.min()) > -2
    assert np.isin(number_of(drawn), (3, 12)).mean() > 0.75


def test_what_is_out_of_range_is_refused():
    for make, fault in (
        (lambda: rbm_model((4,), 0), "hidden"),
        (lambda: rbm_model((4,), 2, negative="sleep"), "negative"),
        (lambda: rbm_model((4,), 2, negative="tempering", temperatures=1), "temperatures"),
        (lambda: dbm_model((4,), (2,)), "2 whole numbers"),
    ):
        with pytest.raises(ValueError, match=fault):
            make()
    assert rbm_model((40,), 30).density.kind == "estimate"
    assert math.isclose(
        float(boltzmann.exact_log_z(machine(1, 1, scale=0.0))),
        float(jax.nn.softplus(machine(1, 1).visible[0]) + jax.nn.softplus(machine(1, 1).hidden[0])),
        abs_tol=1e-5,
    )
