import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.models.autoregressive import autoregressive_model, hierarchical_model
from gen_jax.nn.pixelcnn import PixelCNN
from gen_jax.nn.transformer import CausalTransformer
from gen_jax.ops import keys as rng
from gen_jax.ops.decoding import decode
from gen_jax.protocols import LOCAL, Context, Weights
from tests.weights import filled

pytestmark = pytest.mark.slow

CONTEXT = Context(jnp.int32(0), LOCAL, train=False)
KEYS = rng.per_example(jax.random.key(3), 0, 4)
SMALL = {"num_categories": 3, "shape": (2, 2), "width": 8, "depth": 2, "num_heads": 2}
BANDS = {"num_categories": 3, "width": 6, "depth": 3, "kernel": 3, "hidden": 10}
NETWORKS = {
    "table": CausalTransformer(**SMALL),
    "axes": CausalTransformer(**SMALL, positions="axes"),
    "rotary": CausalTransformer(**{**SMALL, "width": 16}, positions="rotary"),
    "pixelcnn": PixelCNN(shape=(2, 2), **BANDS),
    "pixelcnn of 2x1 with 2 tokens each": PixelCNN(shape=(2, 1, 2), **BANDS),
}
# Larger than their reach, so that rows and columns leave the band.
WIDE = {
    "transformer": CausalTransformer(**{**SMALL, "shape": (4, 5), "width": 16}, positions="rotary"),
    "pixelcnn": PixelCNN(shape=(5, 7), **BANDS),
    "pixelcnn, kernel 5": PixelCNN(shape=(4, 6, 2), **{**BANDS, "kernel": 5}),
}


@functools.partial(jax.jit, static_argnums=0)
def run(network, variables, *arguments):
    return network.apply(variables, *arguments)


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def small(request):
    network = NETWORKS[request.param]
    return network, filled(network.init, jnp.zeros((1, 4), jnp.int32))


def log_prob(model, params, batch, keys=KEYS):
    """Give nats, as one program."""
    run = jax.jit(lambda *rest: model.density.log_prob(*rest).nats)
    return run(Weights(params), batch, keys)


def loss_of(model, name, params, batch):
    """Give a loss and what it observed, as one program."""
    fn = model.losses[name].fn
    return jax.jit(lambda *rest: fn(*rest, CONTEXT))(Weights(params), batch, KEYS)


def every_sequence(categories=3, length=4):
    return jnp.array(list(itertools.product(range(categories), repeat=length)))


def test_probabilities_of_all_sequences_sum_to_one(small):
    network, variables = small
    model = autoregressive_model(network, (2, 2, 1))
    x = every_sequence().reshape(-1, 2, 2, 1)
    nats = log_prob(model, {"net": variables["params"]}, {"x": x})
    assert float(jnp.exp(nats).sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(nats.std()) > 0.1, "and they are not all alike"


def test_a_token_knows_nothing_of_itself_or_of_later_ones(small):
    network, variables = small

    def logits(tokens):
        return run(network, variables, tokens)

    x = jnp.array([[0, 1, 2, 0]])
    base = logits(x)
    for changed in range(4):
        other = logits(x.at[0, changed].set((x[0, changed] + 1) % 3))
        differs = jnp.abs(other - base).max(axis=(0, 2)) > 1e-6
        assert differs.tolist() == [position > changed for position in range(4)]


def decode_all(network, variables, x, label=None, above=()):
    """Give the logits of every token, one after another through the cache."""
    context = jax.jit(
        lambda label, above: network.apply(variables, len(x), label, above, method="context")
    )(label, above)

    @jax.jit
    def step(cache, token, index):
        return network.apply(variables, cache, token, index, context, method="decode")

    cache, steps = network.empty_cache(len(x)), []
    for index in range(network.length):
        # At index 0 the token means nothing.
        token = x[:, index - 1] if index else jnp.full(len(x), 2, jnp.int32)
        logits, cache = step(cache, token, jnp.int32(index))
        steps.append(logits)
    return jnp.stack(steps, 1)


def test_the_cache_changes_nothing(small):
    network, variables = small
    x = every_sequence()[::7]
    np.testing.assert_allclose(
        decode_all(network, variables, x), run(network, variables, x), atol=2e-5
    )


def test_parts_of_a_sequence_give_the_same_tokens():
    network = CausalTransformer(3, (6, 2), width=8, depth=2, num_heads=2)
    assert network.parts == 1  # so short a one
    assert CausalTransformer(3, (16, 16)).parts > 1
    variables = filled(network.init, jnp.zeros((1, 12), jnp.int32))
    context = network.apply(variables, 4, method="context")

    def step(cache, token, index):
        return network.apply(variables, cache, token, index, context, method="decode")

    def draw(keys, parts):
        grown = {"parts": parts, "grow": network.grown}
        return decode(step, network.empty_cache(4), 12, keys, **grown)

    whole, parts = (jax.jit(draw, static_argnums=1)(KEYS, n) for n in (1, 5))
    np.testing.assert_array_equal(whole, parts)
    assert len(np.unique(whole)) == 3


@pytest.mark.parametrize("name", WIDE)
def test_the_cache_changes_nothing_with_classes_and_coarser_codes(name):
    network = WIDE[name].clone(num_classes=4, above=(5,), shape=(*WIDE[name].shape,))
    height, width = network.shape[:2]
    network = network.clone(shape=(height // 2 * 2, width // 2 * 2, *network.shape[2:]))
    x = jax.random.randint(jax.random.key(0), (3, network.length), 0, 3)
    codes = jax.random.randint(jax.random.key(1), (3, *(s // 2 for s in network.shape[:2])), 0, 5)
    label = jnp.array([0, 3, 4])
    variables = filled(network.init, x, label, (codes,))
    expected = run(network, variables, x, label, (codes,))
    np.testing.assert_allclose(
        decode_all(network, variables, x, label, (codes,)), expected, atol=1e-4
    )
    for changed in (
        run(network, variables, x, label[::-1], (codes,)),
        run(network, variables, x, label, ((codes + 1) % 5,)),
    ):
        assert float(jnp.abs(changed - expected).max()) > 1e-3


@pytest.mark.parametrize("name", WIDE)
def test_a_token_sees_those_before_it_and_no_other(name):
    """By gradients with respect to embedded tokens: none from itself or from a later one."""
    network = WIDE[name]
    variables = filled(network.init, jnp.zeros((1, network.length), jnp.int32))
    x = jax.random.randint(jax.random.key(0), (1, network.length), 0, 3)
    others = jnp.repeat(x, network.length, axis=0)
    others = others.at[jnp.arange(network.length), jnp.arange(network.length)].add(1) % 3
    # In one batch with the original: another shape is rounded otherwise.
    logits = run(network, variables, jnp.concatenate([others, x]))
    moved = np.asarray(jnp.abs(logits[:-1] - logits[-1:]).max(axis=-1) > 1e-6)
    assert not np.any(np.tril(moved)), "neither itself nor anything earlier"
    if name == "transformer":
        assert np.all(moved[np.triu_indices(network.length, 1)])
    else:  # what was changed last is seen by its successor, but not across a row's end
        depth = network.length // np.prod(network.shape[:2])
        row_ends = np.arange(1, network.length) % (network.shape[1] * depth) == 0
        np.testing.assert_array_equal(np.diag(moved, 1)[~row_ends], True)
        # Right above, and to the right above.
        step = network.shape[1] * depth
        assert np.all(np.diag(moved, step))
        assert moved[depth, step]


def test_samples_have_the_model_s_probabilities(small):
    network, variables = small
    model = autoregressive_model(network, (4,))
    params = {"net": variables["params"]}
    keys = rng.per_example(jax.random.key(5), 0, 20_000)
    samples = np.asarray(jax.jit(model.sampler.draw)(Weights(params), keys, {}))
    found = np.bincount(samples @ 3 ** np.arange(3, -1, -1), minlength=81) / len(keys)
    expected = np.exp(log_prob(model, params, {"x": every_sequence()}))
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(expected.max() / len(keys)))


def test_the_loss_is_the_mean_of_minus_log_p_over_tokens(small):
    network, variables = small
    model = autoregressive_model(network, (2, 2, 1))
    params, x = {"net": variables["params"]}, every_sequence()[:4].reshape(4, 2, 2, 1)
    value, aux = loss_of(model, "likelihood", params, {"x": x})
    nats = log_prob(model, params, {"x": x})
    assert float(value) == pytest.approx(-float(nats.mean()) / 4, rel=1e-5)
    assert float(aux.metrics["bits_per_dim"]) == pytest.approx(float(value) / np.log(2), rel=1e-6)
    weight = jnp.array([1.0, 1.0, 0.0, 0.0])
    padded, _ = loss_of(model, "likelihood", params, {"x": x, "weight": weight})
    assert float(padded) == pytest.approx(-float(nats[:2].sum()) / 16, rel=1e-5)


@pytest.mark.parametrize("network", [NETWORKS["table"], NETWORKS["pixelcnn"]])
def test_classes_matter_and_are_asked_for(network):
    network = network.clone(num_classes=2)
    x, label = jnp.zeros((2, 4), jnp.int32), jnp.array([0, 1])
    variables = filled(network.init, x, label)
    logits = run(network, variables, x, label)
    assert float(jnp.abs(logits[0] - logits[1]).max()) > 0.01
    with pytest.raises(ValueError, match="label: missing with num_classes=2"):
        network.apply(variables, x)
    model = autoregressive_model(network, (4,), num_classes=2)
    samples = jax.jit(model.sampler.draw)(
        Weights({"net": variables["params"]}), KEYS[:2], {"label": label}
    )
    assert samples.shape == (2, 4)


def test_layers_drop_different_elements():
    """All layers stand at one place of the scanned network."""
    network = CausalTransformer(**{**SMALL, "depth": 2}, dropout=0.5)
    x = jnp.zeros((4, 4), jnp.int32)
    variables = filled(network.init, x)
    same = jax.tree.map(
        lambda p: jnp.stack([p[0]] * 2) if p.shape[0] == 2 else p, variables["params"]["blocks"]
    )
    variables = {"params": {**variables["params"], "blocks": same}}
    dropped = run(network, variables, x, None, (), KEYS)
    assert float(jnp.abs(dropped - run(network, variables, x)).max()) > 0.01
    alone = run(network, variables, x[1:2], None, (), KEYS[1:2])
    np.testing.assert_allclose(alone[0], dropped[1], atol=1e-5)


@pytest.mark.parametrize("remat", ["full", pytest.param("matmuls", marks=pytest.mark.nightly)])
def test_computing_again_changes_no_gradient(remat):
    plain, again = (CausalTransformer(**SMALL, dropout=0.3, remat=r) for r in ("none", remat))
    x = every_sequence()[:4]
    variables = filled(plain.init, x)

    def loss(variables, network):
        return jnp.mean(jnp.square(run(network, variables, x, None, (), KEYS) - 1.0))

    grads = [jax.jit(jax.grad(loss), static_argnums=1)(variables, n) for n in (plain, again)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *grads)


def test_bfloat16_computes_and_float32_remains():
    network = CausalTransformer(**SMALL, dtype=jnp.bfloat16)
    x = jnp.zeros((1, 4), jnp.int32)
    variables = filled(network.init, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert run(network, variables, x).dtype == jnp.float32
    assert network.empty_cache(1).key[0].dtype == jnp.bfloat16


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="num_heads: 3 does not divide the width 8"):
        CausalTransformer(**{**SMALL, "num_heads": 3})
    with pytest.raises(ValueError, match="heads of 4; with rotary positions"):
        CausalTransformer(**SMALL, positions="rotary")
    with pytest.raises(ValueError, match="positions: got .*one of table, axes, rotary is required"):
        CausalTransformer(**SMALL, positions="sines")
    with pytest.raises(ValueError, match="kernel: got 4; an odd number from 3"):
        PixelCNN(shape=(2, 2), **{**BANDS, "kernel": 4})
    for network in (NETWORKS["pixelcnn"], NETWORKS["table"]):
        variables = filled(network.init, jnp.zeros((1, 4), jnp.int32))
        with pytest.raises(ValueError, match="tokens: got 5; 4 are required"):
            network.apply(variables, jnp.zeros((1, 5), jnp.int32))
    with pytest.raises(ValueError, match=r"network: got length 4; 9 is required for \(3, 3, 1\)"):
        autoregressive_model(network, (3, 3, 1))
    with pytest.raises(
        ValueError, match="class_dropout: got 0.1; 0 is required without num_classes"
    ):
        autoregressive_model(network, (2, 2), class_dropout=0.1)


@pytest.mark.parametrize("kind", ["table", "pixelcnn"])
def test_guidance_goes_from_no_class_over_the_class_to_more_of_it(kind):
    network = NETWORKS[kind].clone(num_classes=2)
    x, label = every_sequence(), jnp.zeros(81, jnp.int32)
    params = {"net": filled(network.init, x[:1], label[:1])["params"]}
    model = autoregressive_model(network, (2, 2), num_classes=2, class_dropout=0.5)
    assert model.sampler.options["guidance"].default is None
    assert "guidance" not in autoregressive_model(network, (2, 2), num_classes=2).sampler.options
    keys = rng.per_example(jax.random.key(5), 0, 5000)
    draw = jax.jit(model.sampler.draw)

    def sample(label, **options):
        return draw(Weights(params), keys, {"label": label}, **options)

    labels = jnp.zeros(5000, jnp.int32)
    plain = sample(labels)
    np.testing.assert_array_equal(sample(labels, guidance=1.0), plain)
    without = sample(labels, guidance=0.0)
    np.testing.assert_array_equal(sample(jnp.full(5000, 2)), without)
    # Frequencies of the first token under guidance 2: p(x | c)^2 / p(x), normalized.
    logits = [
        jax.nn.log_softmax(run(network, {"params": params["net"]}, x[:1], jnp.array([c]))[0, 0])
        for c in (0, 2)
    ]
    expected = jax.nn.softmax(2 * logits[0] - logits[1])
    more = sample(labels, guidance=2.0)[:, 0, 0]
    np.testing.assert_allclose(np.bincount(more, minlength=3) / 5000, expected, atol=0.03)


def test_labels_are_left_out_of_a_share_of_the_examples():
    network = NETWORKS["table"].clone(num_classes=2)
    x, label = jnp.zeros((400, 2, 2), jnp.int32), jnp.ones(400, jnp.int32)
    params = {"net": filled(network.init, x.reshape(400, 4)[:1], label[:1])["params"]}
    keys = rng.per_example(jax.random.key(5), 0, 400)

    def value(share, train):
        model = autoregressive_model(network, (2, 2), num_classes=2, class_dropout=share)
        context = Context(jnp.int32(0), LOCAL, train=train)
        batch = {"x": x, "label": label}
        return float(
            jax.jit(
                lambda: model.losses["likelihood"].fn(Weights(params), batch, keys, context)[0]
            )()
        )

    with_class, mixed = value(0.0, True), value(0.3, True)
    assert value(0.3, False) == pytest.approx(with_class)
    model = autoregressive_model(network, (2, 2), num_classes=2)
    none = -log_prob(model, params, {"x": x[:1], "label": jnp.array([2])}, KEYS[:1]) / 4
    share = (mixed - with_class) / (float(none[0]) - with_class)
    assert share == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / 400))


def test_tokens_of_one_position_leave_no_trace_in_their_own_logits():
    """Not even by rounding: in bfloat16 a sum less one of its terms would."""
    network = PixelCNN(shape=(2, 2, 3), **BANDS, dtype=jnp.bfloat16)
    x = jax.random.randint(jax.random.key(0), (1, 12), 0, 3)
    variables = filled(network.init, x)
    for index in range(12):
        every = jnp.repeat(x, 3, axis=0).at[:, index].set(jnp.arange(3))
        logits = np.asarray(run(network, variables, every))[:, : index + 1]
        np.testing.assert_array_equal(logits, logits[:1].repeat(3, axis=0))


@pytest.fixture(scope="module", params=["transformer", "pixelcnn"])
def pyramid(request):
    """A 1x1 top of 3 categories over a 2x1 bottom of 2."""
    shapes = {"top": (1, 1), "bottom": (2, 1)}
    if request.param == "transformer":
        make = lambda **own: CausalTransformer(**{**SMALL, **own})  # noqa: E731
    else:
        make = lambda **own: PixelCNN(**{**BANDS, **own})  # noqa: E731
    networks = {
        "top": make(shape=(1, 1)),
        "bottom": make(shape=(2, 1), num_categories=2, above=(3,)),
    }
    model = hierarchical_model(networks, shapes)
    x = {
        "top": jnp.repeat(jnp.arange(3), 4).reshape(12, 1, 1),
        "bottom": jnp.tile(jnp.array(list(itertools.product(range(2), repeat=2))), (3, 1)).reshape(
            12, 2, 1
        ),
    }
    params = {
        name: filled(network.init, x[name][:1].reshape(1, -1), None, above)["params"]
        for (name, network), above in zip(networks.items(), ((), (x["top"][:1],)), strict=True)
    }
    return model, params, x


def test_probabilities_of_a_hierarchy_sum_to_one(pyramid):
    model, params, x = pyramid
    nats = log_prob(model, params, {"x": x})
    assert float(jnp.exp(nats).sum()) == pytest.approx(1.0, abs=1e-5)
    # And the bottom hangs on the top.
    by_top = nats.reshape(3, 4) - jax.nn.logsumexp(nats.reshape(3, 4), axis=1, keepdims=True)
    assert float(jnp.abs(by_top[0] - by_top[1]).max()) > 1e-3


def test_samples_of_a_hierarchy_have_its_probabilities(pyramid):
    model, params, x = pyramid
    keys = rng.per_example(jax.random.key(5), 0, 20_000)
    samples = jax.jit(model.sampler.draw)(Weights(params), keys, {})
    index = 4 * samples["top"][:, 0, 0] + samples["bottom"][:, :, 0] @ jnp.array([2, 1])
    found = np.bincount(np.asarray(index), minlength=12) / len(keys)
    expected = np.exp(log_prob(model, params, {"x": x}))
    np.testing.assert_allclose(found, expected, atol=5 * np.sqrt(expected.max() / len(keys)))


def test_each_grid_has_a_loss_of_its_own(pyramid):
    model, params, x = pyramid
    nats = [float(loss_of(model, name, params, {"x": x})[0]) for name in ("top", "bottom")]
    total = -float(jnp.mean(log_prob(model, params, {"x": x})))
    assert nats[0] + 2 * nats[1] == pytest.approx(total, rel=1e-5)
    assert {name: loss.player for name, loss in model.losses.items()} == {
        "top": "top", "bottom": "bottom",
    }  # fmt: skip
    with pytest.raises(ValueError, match="'bottom' needs above for top"):
        hierarchical_model(
            {"top": NETWORKS["table"], "bottom": NETWORKS["table"]},
            {"top": (2, 2), "bottom": (2, 2)},
        )
