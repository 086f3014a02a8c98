"""Normalizing flows: densities beside their Jacobians, both ways, guided, filled, classifying."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.codecs import dequantize, with_codec
from gen_jax.models.flow import flow_model
from gen_jax.nn import flow as networks
from gen_jax.ops import keys as rng
from gen_jax.ops.bijectors import Bijector
from gen_jax.protocols import Weights
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

SHAPE = (4, 4, 1)
KEYS = rng.per_example(jax.random.key(0), 0, 4)
X = 0.8 * jnp.tanh(rng.normal(KEYS, SHAPE))
LABEL = jnp.array([0, 1, 2, 1])
CASES = {
    "glow": lambda: networks.glow(SHAPE, levels=2, steps=2, width=8),
    "realnvp": lambda: networks.realnvp(SHAPE, levels=2, width=8, num_blocks=1),
    "jet": lambda: networks.jet(SHAPE, 2, 2, 8, 1, 2, channel_couplings=1),
    "tarflow": lambda: networks.tarflow(SHAPE, 2, 3, 8, 1, 2, num_classes=3),
}


def stirred(params):
    """Move parameters that begin at zero."""
    return jax.tree.map(lambda p: p + 0.1 * jnp.sin(jnp.arange(p.size).reshape(p.shape)), params)


@pytest.mark.parametrize("name", CASES)
def test_densities_are_exact_and_both_ways_agree_before_and_after_training(name):
    told = {"label": LABEL} if name == "tarflow" else {}
    model = flow_model(CASES[name](), SHAPE, num_classes=3 if told else None)
    adam = {"net": optax.adam(1e-3)}
    batch = {"x": X, **told}
    state = jax.jit(lambda key: init_state(model, adam, key, batch))(jax.random.key(0))
    state = state.replace(params=stirred(state.params))
    step = make_train_step(model, adam)

    @jax.jit
    def trained(state):
        return jax.lax.scan(
            lambda state, _: step(state, {}, batch, jax.random.key(1)), state, None, length=200
        )

    @jax.jit
    def both(params):
        weights = Weights(params)
        nats = model.density.log_prob(weights, batch, KEYS).nats
        z = model.latents.encode(weights, X, told)

        def one(x, label):
            given = {"label": label[None]} if told else {}
            return model.latents.encode(weights, x.reshape(1, *SHAPE), given)[0]

        jacobian = jax.vmap(jax.jacfwd(one))(X.reshape(4, -1), LABEL)
        return nats, z, jacobian, model.latents.decode(weights, z, told)

    found = [state.params]
    if name in ("glow", "tarflow"):
        after, metrics = trained(state)
        assert metrics["flow/loss"][-1] < metrics["flow/loss"][0]
        found.append(after.params)
    for params in found:
        nats, z, jacobian, again = both(params)
        _, log_det = np.linalg.slogdet(np.asarray(jacobian, np.float64))
        normal = -0.5 * np.sum(np.square(z), 1) - 8 * math.log(2 * math.pi)
        np.testing.assert_allclose(nats, normal + log_det, rtol=1e-3, atol=2e-3)
        np.testing.assert_allclose(again, X, atol=2e-4)


def test_a_causal_flow_is_guided_and_may_take_rounds():
    bijector = CASES["tarflow"]()
    model = flow_model(
        bijector, SHAPE, num_classes=3, class_dropout=0.3, autoregressive=True, noise=0.1
    )
    params, _ = jax.jit(model.init)(jax.random.key(0), {"x": X, "label": LABEL}, {})
    weights, cond = Weights(stirred(params)), {"label": LABEL}

    @jax.jit
    def drawn(guidance):
        draw = lambda **how: model.sampler.draw(weights, KEYS, cond, denoise=False, **how)  # noqa: E731
        one = model.sampler.draw(weights, KEYS[1:2], {"label": LABEL[1:2]}, denoise=False)
        rounds = draw(jacobi=4), draw(jacobi=4, guidance=guidance)
        return draw(), draw(guidance=guidance), *rounds, one

    plain, guided, rounds, _, one = drawn(1.0)
    np.testing.assert_allclose(guided, plain, atol=1e-4)
    np.testing.assert_allclose(rounds, plain, atol=1e-4)
    np.testing.assert_allclose(one, plain[1:2], atol=1e-4)
    _, guided, _, rounds, _ = drawn(3.0)
    np.testing.assert_allclose(guided, rounds, atol=1e-4)
    assert float(jnp.abs(guided - plain).max()) > 1e-3
    # Encoding as it decodes: a guided path leads back too.
    z = model.latents.encode(weights, plain, cond, guidance=2.0)
    np.testing.assert_allclose(
        model.latents.decode(weights, z, cond, guidance=2.0), plain, atol=1e-4
    )
    assert model.density is None  # of noisy x; no number over pixels


def through(there, back):
    """A bijector of one function for each number, with the logarithm of its slope."""

    def forward(params, x, told):
        y, slope = there(x)
        return y, jnp.sum(slope.reshape(len(x), -1), axis=1)

    def inverse(params, y, told):
        x = back(y)
        return x, -forward(params, x, told)[1]

    return Bijector(lambda key, x, told: {}, forward, inverse)


def uniform():
    """What makes standard normals of numbers spread evenly over [-1, 1]."""

    def there(x):
        z = jax.scipy.special.ndtri((x + 1) / 2)
        log_normal = -0.5 * z**2 - 0.5 * math.log(2 * math.pi)
        return z, -math.log(2) - log_normal

    return through(there, lambda z: 2 * jax.scipy.special.ndtr(z) - 1)


def test_uniform_noise_has_eight_bits():
    model = with_codec(flow_model(uniform(), SHAPE), dequantize())
    image = jax.random.randint(jax.random.key(1), (4, *SHAPE), 0, 256).astype(jnp.uint8)
    nats = model.density.log_prob(Weights({"net": {}}), {"image": image}, KEYS).nats
    np.testing.assert_allclose(-nats / 16 / math.log(2), 8, atol=1e-4)


def test_bins_filled_by_a_flow_give_a_bound_on_the_same_probability():
    """The mean of exp(bound) is the probability of the pixels, whatever fills the bins."""
    shape, num = (2, 2, 1), 20_000
    # Standard normals at 0.01 of the range: densities change within a bin.
    narrow = through(lambda x: (100 * x, jnp.full_like(x, math.log(100.0))), lambda z: z / 100)
    image = jnp.array([128, 129, 127, 130], jnp.uint8).reshape(1, *shape)
    filler = networks.dequantizer(shape, steps=2, width=4)
    model = with_codec(flow_model(narrow, shape, dequantizer=filler), dequantize(fill=False))
    params, _ = model.init(jax.random.key(2), {"image": image.repeat(8, 0)}, {})
    params = {"net": {**params["net"], "dequantizer": stirred(params["net"]["dequantizer"])}}

    @jax.jit
    def bounds(keys):
        batch = {"image": image.repeat(num, 0)}
        return model.density.log_prob(Weights(params), batch, keys).nats

    nats = bounds(rng.per_example(jax.random.key(3), 0, num))
    edges = (jnp.array([128, 129, 127, 130]) / 128.0 - 1) * 100
    cdf = jax.scipy.special.ndtr
    expected = jnp.sum(jnp.log(cdf(edges + 100 / 128) - cdf(edges)))
    weights = jnp.exp(nats - nats.max())
    estimate = nats.max() + jnp.log(weights.mean())
    error = float(weights.std() / weights.mean() / num**0.5)
    assert abs(float(estimate - expected)) < 4 * error + 1e-3
    assert float(nats.mean()) < float(expected)
    assert model.density.kind == "bound"


def moons(key, num):
    which, angle, noise = jax.random.split(key, 3)
    upper = jax.random.bernoulli(which, 0.5, (num,))
    t = math.pi * jax.random.uniform(angle, (num,))
    x = jnp.where(upper, jnp.cos(t), 1 - jnp.cos(t)) - 0.5
    y = jnp.where(upper, jnp.sin(t), 0.5 - jnp.sin(t)) - 0.25
    return jnp.stack([x, y], 1) + 0.1 * jax.random.normal(noise, (num, 2)), upper.astype(jnp.int32)


@pytest.mark.nightly
def test_moons_are_learned_their_density_is_one_and_their_classes_are_told_apart():
    model = flow_model(
        networks.spline_flow(2, layers=4, widths=(32,), num_classes=2), (2,), num_classes=2
    )
    adam = {"net": optax.adam(5e-3)}
    step = make_train_step(model, adam)

    def batch(key, num):
        x, label = moons(key, num)
        return {"x": x, "label": label}

    @jax.jit
    def trained(key):
        state = init_state(model, adam, key, batch(key, 256))

        def one(state, number):
            return step(state, {}, batch(jax.random.fold_in(key, number), 256), key)[0], None

        return jax.lax.scan(one, state, jnp.arange(300))[0]

    state = trained(jax.random.key(0))
    weights = Weights(state.params)
    side = jnp.linspace(-5, 5, 401)
    grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    held = batch(jax.random.key(9), 2000)

    @jax.jit
    def judged(x, label):
        told = {"x": x, "label": label}
        nats = model.density.log_prob(weights, told, rng.per_example(jax.random.key(0), 0, len(x)))
        return nats.nats

    for label in (0, 1):
        nats = judged(grid, jnp.full(len(grid), label))
        assert float(jnp.exp(nats).sum() * 0.025**2) == pytest.approx(1, abs=5e-3)
    # A Gaussian of each class's own moments has -2.0 nats; the law itself about -0.5.
    assert float(judged(held["x"], held["label"]).mean()) > -0.9
    predicted = jax.jit(model.predict)(weights, held["x"], {})
    right = predicted.log_probs.argmax(1) == held["label"]
    assert float(right.mean()) > 0.97
    each = jnp.stack([judged(held["x"], jnp.full(2000, label)) for label in (0, 1)], 1)
    np.testing.assert_allclose(predicted.log_probs, jax.nn.log_softmax(each, 1), atol=1e-3)


def test_the_noise_of_training_is_taken_off_along_the_gradient():
    """Of normals: x + s^2 grad log p(x) is (1 - s^2) x."""
    model = flow_model(through(lambda x: (x, 0 * x), lambda z: z), (3,), noise=0.5)
    rough, fine = (
        model.sampler.draw(Weights({"net": {}}), KEYS, {}, denoise=denoise)
        for denoise in (False, True)
    )
    np.testing.assert_allclose(fine, 0.75 * rough, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"class_dropout": 0.1}, "without num_classes"),
        ({"class_dropout": 0.1, "num_classes": 2}, "cannot be guided"),
        ({"noise": -1.0}, "noise"),
        ({"noise": 0.1, "dequantizer": uniform()}, "filled by a flow"),
    ],
)
def test_what_does_not_go_together_is_refused(given, fault):
    with pytest.raises(ValueError, match=fault):
        flow_model(uniform(), (2,), **given)
    with pytest.raises(ValueError, match="levels"):
        networks.glow((6, 6, 1), levels=2)
    with pytest.raises(ValueError, match="odd number"):
        networks.jet((6, 6, 1), patch=2)
