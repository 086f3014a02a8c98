import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.models.autoregressive import autoregressive
from gen_jax.nn.transformer import CausalTransformer
from gen_jax.ops import keys as rng
from gen_jax.protocols import LOCAL, Context

KEYS = rng.per_example(jax.random.key(3), 0, 4)
SMALL = {"num_categories": 3, "length": 4, "width": 8, "depth": 2, "num_heads": 2}


def randomised(network, *arguments, **options):
    params = network.init(jax.random.key(0), *arguments, **options)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    leaves = [x + 0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return {"params": jax.tree.unflatten(tree, leaves)}


@pytest.fixture(scope="module")
def small():
    network = CausalTransformer(**SMALL)
    return network, randomised(network, jnp.zeros((1, 4), jnp.int32))


def every_sequence(categories=3, length=4):
    return jnp.array(list(itertools.product(range(categories), repeat=length)))


def test_probabilities_of_all_sequences_sum_to_one(small):
    network, variables = small
    model = autoregressive(network, (2, 2, 1))
    x = every_sequence().reshape(-1, 2, 2, 1)
    nats = model.log_prob({"net": variables["params"]}, {}, {"x": x}, KEYS, {}).nats
    assert float(jnp.exp(nats).sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(nats.std()) > 0.1, "and they are not all alike"


def test_a_token_knows_nothing_of_itself_or_of_later_ones(small):
    network, variables = small

    def logits(tokens):
        return network.apply(variables, tokens)

    x = jnp.array([[0, 1, 2, 0]])
    base = logits(x)
    for changed in range(4):
        other = logits(x.at[0, changed].set((x[0, changed] + 1) % 3))
        differs = jnp.abs(other - base).max(axis=(0, 2)) > 1e-6
        assert differs.tolist() == [position > changed for position in range(4)]


def test_the_cache_changes_nothing(small):
    network, variables = small
    x = every_sequence()[::7]
    cache, steps = network.empty_cache(len(x)), []
    for index in range(4):
        token = x[:, index - 1] if index else jnp.zeros(len(x), jnp.int32)
        logits, cache = network.apply(variables, cache, token, jnp.int32(index), method="decode")
        steps.append(logits)
    np.testing.assert_allclose(jnp.stack(steps, 1), network.apply(variables, x), atol=2e-5)


def test_samples_have_the_model_s_probabilities(small):
    network, variables = small
    model = autoregressive(network, (4,))
    params = {"net": variables["params"]}
    keys = rng.per_example(jax.random.key(5), 0, 20_000)
    samples = np.asarray(jax.jit(model.sample)(params, {}, keys, {}))
    found = np.bincount(samples @ 3 ** np.arange(3, -1, -1), minlength=81) / len(keys)
    expected = np.exp(model.log_prob(params, {}, {"x": every_sequence()}, KEYS, {}).nats)
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(expected.max() / len(keys)))


def test_the_loss_is_the_mean_of_minus_log_p_over_tokens(small):
    network, variables = small
    model = autoregressive(network, (2, 2, 1))
    params, x = {"net": variables["params"]}, every_sequence()[:4].reshape(4, 2, 2, 1)
    context = Context({}, jnp.int32(0), LOCAL, train=True)
    value, aux = model.losses["likelihood"].fn(params, {}, {"x": x}, KEYS, context)
    nats = model.log_prob(params, {}, {"x": x}, KEYS, {}).nats
    assert float(value) == pytest.approx(-float(nats.mean()) / 4, rel=1e-5)
    assert float(aux.metrics["bits_per_dim"]) == pytest.approx(float(value) / np.log(2), rel=1e-6)
    weight = jnp.array([1.0, 1.0, 0.0, 0.0])
    padded, _ = model.losses["likelihood"].fn(params, {}, {"x": x, "weight": weight}, KEYS, context)
    assert float(padded) == pytest.approx(-float(nats[:2].sum()) / 16, rel=1e-5)


def test_classes_matter_and_are_asked_for():
    network = CausalTransformer(**SMALL, num_classes=2)
    x, label = jnp.zeros((2, 4), jnp.int32), jnp.array([0, 1])
    variables = randomised(network, x, label)
    logits = network.apply(variables, x, label)
    assert float(jnp.abs(logits[0] - logits[1]).max()) > 0.01
    with pytest.raises(ValueError, match="label: missing with num_classes=2"):
        network.apply(variables, x)
    model = autoregressive(network, (4,), num_classes=2)
    samples = model.sample({"net": variables["params"]}, {}, KEYS[:2], {}, label)
    assert samples.shape == (2, 4)


def test_layers_drop_different_elements():
    """All layers stand at one place of the scanned network."""
    network = CausalTransformer(**{**SMALL, "depth": 2}, dropout=0.5)
    x = jnp.zeros((4, 4), jnp.int32)
    variables = randomised(network, x)
    same = jax.tree.map(
        lambda p: jnp.stack([p[0]] * 2) if p.shape[0] == 2 else p, variables["params"]["blocks"]
    )
    variables = {"params": {**variables["params"], "blocks": same}}
    dropped = network.apply(variables, x, None, KEYS)
    assert float(jnp.abs(dropped - network.apply(variables, x)).max()) > 0.01
    alone = network.apply(variables, x[1:2], None, KEYS[1:2])
    np.testing.assert_allclose(alone[0], dropped[1], atol=1e-5)


@pytest.mark.parametrize("remat", ["matmuls", "full"])
def test_computing_again_changes_no_gradient(remat):
    plain, again = (CausalTransformer(**SMALL, dropout=0.3, remat=r) for r in ("none", remat))
    x = every_sequence()[:4]
    variables = randomised(plain, x)

    def loss(variables, network):
        return jnp.mean(jnp.square(network.apply(variables, x, None, KEYS) - 1.0))

    grads = [jax.jit(jax.grad(loss), static_argnums=1)(variables, n) for n in (plain, again)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *grads)


def test_bfloat16_computes_and_float32_remains():
    network = CausalTransformer(**SMALL, dtype=jnp.bfloat16)
    x = jnp.zeros((1, 4), jnp.int32)
    variables = network.init(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert network.apply(variables, x).dtype == jnp.float32
    assert network.empty_cache(1).key.dtype == jnp.bfloat16


def test_what_does_not_fit_is_refused(small):
    network, variables = small
    with pytest.raises(ValueError, match="num_heads: 3 does not divide the width 8"):
        CausalTransformer(**{**SMALL, "num_heads": 3})
    with pytest.raises(ValueError, match="tokens: 4 are needed, got 5"):
        network.apply(variables, jnp.zeros((1, 5), jnp.int32))
    with pytest.raises(ValueError, match=r"network: length 9 is needed for \(3, 3, 1\), got 4"):
        autoregressive(network, (3, 3, 1))
