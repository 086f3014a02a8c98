"""VAR's prior: block-causal as it is decoded, scale by scale, and exact."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.models.next_scale import next_scale_model
from gen_jax.nn.next_scale import NextScale
from gen_jax.nn.text import TextTransformer
from gen_jax.ops import keys as rng
from gen_jax.ops.multi_scale import multi_scale
from gen_jax.protocols import Weights

SCALES = (1, 2)
QUANTIZER = multi_scale(SCALES, 3, 4)
Z = jax.random.normal(jax.random.key(0), (3, 2, 2, 4))
EVERY = np.array(list(itertools.product(range(3), repeat=5)))
FROZEN = {"codec": QUANTIZER.init(jax.random.key(1), Z)}
CODES = QUANTIZER.quantize(*FROZEN["codec"], Z).codes
KEYS = rng.per_example(jax.random.key(2), 0, 3)
NULL = (1, 2, 0, 0)
TOLD = {
    "label": {"label": jnp.array([0, 1, 1])},
    "text": {"prompt": jnp.array([[1, 4, 2, 0], [1, 2, 0, 0], [1, 5, 6, 2]])},
}


def partial(weights, codes, num):
    return QUANTIZER.partial(*weights, codes, num)


def stirred(params):
    """Move parameters that begin at zero."""
    return jax.tree.map(lambda p: p + 0.5 * jnp.sin(jnp.arange(p.size).reshape(p.shape)), params)


def make(kind):
    text = TextTransformer(8, 4, 8, 1, 2) if kind == "text" else None
    network = NextScale(
        3, SCALES, 4, 8, 2, 2, num_classes=3 if text is None else None,
        context_dim=8 if text is not None else None,
    )  # fmt: skip
    classes = None if text is not None else 2
    null = NULL if text is not None else ()
    return next_scale_model(network, partial, classes, 0.1, text=text, null_text=null)


@pytest.fixture(scope="module", params=["text", pytest.param("label", marks=pytest.mark.nightly)])
def made(request):
    model, told = make(request.param), TOLD[request.param]
    params, _ = model.init(jax.random.key(3), {"x": CODES, **told}, FROZEN)
    weights = Weights(stirred(params), {}, FROZEN)
    log_prob = jax.jit(lambda x, told: model.density.log_prob(weights, {"x": x, **told}, KEYS).nats)
    return model, told, weights, log_prob


def greedy(model, weights, told, **options):
    return np.asarray(
        jax.jit(lambda: model.sampler.draw(weights, KEYS, told, top_k=1, **options))()
    )


def of_all(log_prob, told, row):
    """Return the probability of each of the 243 rows of codes, under one condition."""
    own = {name: jnp.repeat(x[row : row + 1], len(EVERY), axis=0) for name, x in told.items()}
    return np.exp(log_prob(jnp.asarray(EVERY), own))


def test_probabilities_of_all_codes_sum_to_one(made):
    _, told, _, log_prob = made
    assert of_all(log_prob, told, 0).sum() == pytest.approx(1, abs=1e-4)


def test_what_is_drawn_scale_by_scale_comes_as_often_as_its_probability_says(made):
    """The cache, one scale at a time, sees what the whole sequence under its mask sees."""
    model, told, weights, log_prob = made
    num = 4000
    keys = rng.per_example(jax.random.key(9), 0, num)
    own = {name: jnp.repeat(x[:1], num, axis=0) for name, x in told.items()}
    drawn = np.asarray(jax.jit(lambda: model.sampler.draw(weights, keys, own))())
    expected = num * of_all(log_prob, told, 0)
    seen = np.bincount(drawn @ 3 ** np.arange(4, -1, -1), minlength=len(EVERY))
    chi = np.sum((seen - expected) ** 2 / expected)
    assert chi < 242 + 4 * np.sqrt(2 * 242), chi
    wrong = num * of_all(log_prob, told, 2)  # of another condition
    assert np.sum((seen - wrong) ** 2 / wrong) > 242 + 4 * np.sqrt(2 * 242)


def test_a_change_at_one_scale_never_reaches_an_earlier_one_or_its_own():
    network = NextScale(5, (1, 2, 3), 4, 8, 2, 2)
    said = jax.random.normal(jax.random.key(4), (2, 13, 4))
    params = stirred(network.init(jax.random.key(5), said))
    run = jax.jit(lambda said: network.apply(params, said))
    # What stands at the last scale's places is a sum of the codes before: change one of these.
    before, after = run(said), run(said.at[:, 6].add(1.0))
    same = np.abs(before - after).max(axis=(0, 2))
    assert (same[:5] == 0).all()
    assert (same[5:] > 0).all()  # a scale sees itself, both ways


def test_guidance_one_and_zero_and_batches(made):
    model, told, weights, _ = made
    plain = greedy(model, weights, told)
    np.testing.assert_array_equal(greedy(model, weights, told, guidance=1.0), plain)
    turned = {name: x[::-1] for name, x in told.items()}
    draw = jax.jit(lambda keys, told: model.sampler.draw(weights, keys, told, guidance=2.0))
    np.testing.assert_array_equal(draw(KEYS[::-1], turned)[::-1], draw(KEYS, told))
