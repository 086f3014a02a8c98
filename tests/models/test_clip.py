"""CLIP: its loss beside a double loop, on any devices; what it measures; ranking."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.models.clip import clip_model
from gen_jax.nn.text import TextTransformer
from gen_jax.nn.vit import ViT
from gen_jax.ops import keys as rng
from gen_jax.ops.contrastive import contrastive_losses, sigmoid_losses
from gen_jax.protocols import LOCAL, Context, Weights
from gen_jax.train.engines import make_engine
from gen_jax.train.sharding import Rules, make_mesh
from gen_jax.train.state import init_state

NUM = 16
X = jax.random.normal(jax.random.key(1), (NUM, 8, 8, 1))
TEXT = jnp.stack([jnp.full(NUM, 1), 3 + jnp.arange(NUM) % 6, jnp.full(NUM, 2)], axis=1)
SHAPES = (ViT(8, 4, 8, 1, 2), TextTransformer(10, 3, 8, 1, 2), 4, 3)


def loops(u, v, tokens, scale, bias=None):
    """Compute the loss by loops over all pairs, in float64."""
    u, v = np.asarray(u, np.float64), np.asarray(v, np.float64)
    same = (np.asarray(tokens)[:, None] == np.asarray(tokens)[None]).all(-1)
    total = 0.0
    for i in range(len(u)):
        if bias is not None:
            for j in range(len(u)):
                z = 1 if same[i, j] else -1
                total += math.log1p(math.exp(-z * (scale * u[i] @ v[j] + bias)))
            continue
        for a, b in ((u, v), (v, u)):
            odds = [math.exp(scale * a[i] @ b[j]) for j in range(len(u))]
            right = sum(odd for j, odd in enumerate(odds) if same[i, j])
            total -= math.log(right / sum(odds)) / 2
    return total / len(u)


@pytest.mark.parametrize(("kind", "other"), [("softmax", "shard_map"), ("sigmoid", "pmap")])
def test_the_loss_is_that_of_all_pairs_on_one_device_and_on_eight(kind, other):
    model = clip_model(*SHAPES, kind)
    batch = {"x": X, "prompt": TEXT}
    sgd = {"net": optax.sgd(0.5)}
    state = jax.jit(lambda key: init_state(model, sgd, key, batch))(jax.random.key(0))
    weights = Weights(state.params)
    u, v = jax.jit(lambda: (model.matching.image(weights, X), model.matching.text(weights, TEXT)))()
    np.testing.assert_allclose(np.linalg.norm(u, axis=1), 1, atol=1e-5)
    bias = -10.0 if kind == "sigmoid" else None
    wanted = loops(u, v, TEXT, model.matching.scale(weights), bias)
    results = []
    for name, devices in (("jit", 1), (other, 8)):
        mesh = make_mesh(devices=jax.devices()[:devices])
        engine = make_engine(name, model, sgd, mesh, Rules({}))
        placed = engine.put(jax.tree.map(np.asarray, batch))
        key = engine.key(0)
        shardings = jax.tree.map(lambda x: x.sharding, engine.abstract(placed))
        own = jax.device_put(jax.device_get(state), shardings)
        own, metrics = engine.compile(own, {}, placed, key)(own, {}, placed, key)
        assert float(metrics["clip/loss"]) == pytest.approx(wanted, rel=2e-5)
        results.append(jax.device_get(own.params))
    # Gradients that grow with the number of devices are the usual bug.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), *results)


def test_what_a_loss_must_be_in_the_limit():
    eye = jnp.eye(4)
    same = jnp.eye(4, dtype=bool)
    np.testing.assert_allclose(contrastive_losses(eye, eye, same, 0.0), math.log(4), rtol=1e-6)
    np.testing.assert_allclose(contrastive_losses(eye, eye, same, 100.0), 0, atol=1e-6)
    everything = jnp.ones((4, 4), bool)
    slope = jax.grad(lambda u: jnp.sum(contrastive_losses(u, eye, everything, 5.0)))(eye)
    np.testing.assert_allclose(slope, 0, atol=1e-6)  # all equal: nothing to learn
    order = jnp.array([2, 0, 3, 1])
    found = contrastive_losses(eye[order], eye, same[order], 3.0)
    np.testing.assert_allclose(found, contrastive_losses(eye, eye, same, 3.0)[order], rtol=1e-6)
    parts = [sigmoid_losses(eye, eye[i : i + 2], same[:, i : i + 2], 4.0, -1.0) for i in (0, 2)]
    whole = sigmoid_losses(eye, eye, same, 4.0, -1.0)
    np.testing.assert_allclose(parts[0] + parts[1], whole, rtol=1e-6)


def test_padding_of_a_short_batch_counts_for_nothing():
    model = clip_model(*SHAPES)
    batch = {"x": X[:6], "prompt": TEXT[:6]}
    params, _ = model.init(jax.random.key(0), batch, {})
    padded = {
        "x": jnp.concatenate([X[:6], X[5:6], X[5:6]]),
        "prompt": jnp.concatenate([TEXT[:6], TEXT[5:6], TEXT[5:6]]),
        "weight": jnp.array([1.0] * 6 + [0.0] * 2),
    }
    context = Context(jnp.int32(0), LOCAL, train=False)

    def loss(batch):
        keys = rng.per_example(jax.random.key(0), 0, len(batch["x"]))
        return jax.jit(lambda: model.losses["clip"].fn(Weights(params), batch, keys, context)[0])()

    short, long = loss(batch), loss(padded)
    assert float(long) * 8 / 6 == pytest.approx(float(short), rel=1e-5)
