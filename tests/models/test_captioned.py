"""LlamaGen and DALL-E: the cache beside the whole, padding, guidance, and the text's own loss."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.models.captioned import captioned_model
from gen_jax.nn.llama import Llama, TextStream
from gen_jax.nn.text import TextTransformer, up_to_end
from gen_jax.ops import keys as rng
from gen_jax.protocols import LOCAL, Context, Weights

SHAPE = (2, 2)
CODES = jnp.array([[[0, 2], [1, 1]], [[2, 2], [0, 1]], [[1, 0], [0, 0]]])
PROMPT = jnp.array([[1, 4, 2, 0], [1, 2, 0, 0], [1, 5, 6, 2]])
NULL = (1, 2, 0, 0)
KEYS = rng.per_example(jax.random.key(2), 0, 3)
KINDS = ("class", "llamagen", "dalle")


def make(kind):
    size = {"num_categories": 3, "shape": SHAPE, "width": 8, "depth": 2, "num_heads": 2}
    if kind == "class":
        return captioned_model(Llama(**size, num_classes=3), 2, 0.1)
    text = TextStream(8, 4, 8) if kind == "dalle" else TextTransformer(8, 4, 8, 1, 2)
    network = Llama(**size, context_dim=8, num_text=8 if kind == "dalle" else None)
    weight = 1 / 8 if kind == "dalle" else 0.0
    return captioned_model(
        network, class_dropout=0.1, text=text, null_text=NULL, text_weight=weight
    )


BY_KIND = [pytest.param("class", marks=pytest.mark.nightly), *KINDS[1:]]


@pytest.fixture(scope="module", params=BY_KIND)
def made(request):
    model = make(request.param)
    told = {"label": jnp.array([0, 1, 1])} if request.param == "class" else {"prompt": PROMPT}
    batch = {"x": CODES, **told}
    params, _ = model.init(jax.random.key(3), batch, {})
    weights = Weights(jax.tree.map(lambda p: 4 * p, params))  # away from uniform
    log_prob = jax.jit(lambda x, told: model.density.log_prob(weights, {"x": x, **told}, KEYS).nats)
    return request.param, model, told, weights, log_prob


def test_probabilities_of_all_grids_sum_to_one(made):
    _, _, told, _, log_prob = made
    every = np.array(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2)
    for row in range(3):
        own = {name: jnp.repeat(x[row : row + 1], len(every), axis=0) for name, x in told.items()}
        assert np.exp(log_prob(jnp.asarray(every), own)).sum() == pytest.approx(1, abs=1e-4)


def test_prefix_and_cache_draw_what_the_whole_says(made):
    """From many keys each grid comes as often as its exact probability says."""
    _, model, told, weights, log_prob = made
    num = 3000
    keys = rng.per_example(jax.random.key(9), 0, num)
    own = {name: jnp.repeat(x[:1], num, axis=0) for name, x in told.items()}
    drawn = np.asarray(jax.jit(lambda: model.sampler.draw(weights, keys, own))())
    index = drawn.reshape(num, 4) @ np.array([27, 9, 3, 1])
    every = np.array(list(itertools.product(range(3), repeat=4))).reshape(-1, 2, 2)
    rows = {name: jnp.repeat(x[:1], 81, axis=0) for name, x in told.items()}
    expected = num * np.exp(log_prob(jnp.asarray(every), rows))
    seen = np.bincount(index, minlength=81)
    chi = np.sum((seen - expected) ** 2 / np.maximum(expected, 1e-9))
    assert chi < 80 + 4 * np.sqrt(160), chi


def test_padding_and_the_rest_of_the_batch_change_nothing(made):
    kind, model, told, weights, log_prob = made
    draw = jax.jit(lambda keys, told: model.sampler.draw(weights, keys, told, guidance=2.0))
    plain = draw(KEYS, told)
    turned = {name: x[::-1] for name, x in told.items()}
    np.testing.assert_array_equal(draw(KEYS[::-1], turned)[::-1], plain)
    if kind != "class":
        behind = {"prompt": jnp.where(up_to_end(PROMPT, 2), PROMPT, 7)}
        np.testing.assert_allclose(log_prob(CODES, behind), log_prob(CODES, told), atol=1e-5)
        np.testing.assert_array_equal(draw(KEYS, behind), plain)


def test_guidance_one_is_the_condition_s_and_zero_is_without(made):
    kind, model, told, weights, _ = made
    draw = jax.jit(lambda told, w: model.sampler.draw(weights, KEYS, told, guidance=w, top_k=1))
    alone = jax.jit(lambda told: model.sampler.draw(weights, KEYS, told, top_k=1))
    np.testing.assert_array_equal(draw(told, 1.0), alone(told))
    null = jnp.broadcast_to(jnp.array(NULL), PROMPT.shape)
    without = {"label": jnp.full(3, 2)} if kind == "class" else {"prompt": null}
    np.testing.assert_array_equal(draw(told, 0.0), alone(without))


def test_dalle_s_loss_weighs_text_and_codes_and_ends_at_the_text_s_end():
    model = make("dalle")
    batch = {"x": CODES, "prompt": PROMPT}
    params, _ = model.init(jax.random.key(3), batch, {})
    context = Context(jnp.int32(0), LOCAL, train=False)
    loss = jax.jit(
        lambda batch: model.losses["likelihood"].fn(Weights(params), batch, KEYS, context)
    )
    value, aux = loss(batch)
    bits = aux.metrics
    wanted = np.log(2) * (bits["text_bits"] / 8 + 7 / 8 * bits["bits_per_dim"])
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)
    behind = {**batch, "prompt": jnp.where(up_to_end(PROMPT, 2), PROMPT, 7)}
    assert float(loss(behind)[0]) == pytest.approx(float(value), rel=1e-5)
