"""VQ-VAE, VQ-VAE-2 and the discrete VAE of DALL-E."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from gen_jax.models.dvae import Ramp, dvae_model
from gen_jax.models.vqvae import vqvae_model
from gen_jax.nn.dvae import DVAEDecoder, DVAEEncoder
from gen_jax.nn.hierarchy import Hierarchy
from gen_jax.ops import keys as rng, likelihoods
from gen_jax.ops.distributions import normal_log_prob
from gen_jax.ops.quantizers import finite_scalar, vector
from gen_jax.protocols import LOCAL, Context, Weights
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

pytestmark = pytest.mark.slow

KEYS = rng.per_example(jax.random.key(3), 0, 8)
# Smooth, so that a few codes can say much.
CORNERS = jax.random.uniform(jax.random.key(0), (8, 2, 2, 3), minval=-1.0)
X = jax.image.resize(CORNERS, (8, 8, 8, 3), "linear")
FACTORS = {1: (4,), 2: (2, 2), 3: (2, 2, 2)}


def context(step=0, train=True):
    return Context(jnp.int32(step), LOCAL, train)


def evaluate(model, name, params, stats, batch, keys, at):
    """Compile a loss; what it knows beside arrays is closed over."""
    run = jax.jit(lambda w, b, k: model.losses[name].fn(w, b, k, at))
    return run(Weights(params, stats), batch, keys)


def make(grids=1, quantizer=None, **options):
    quantizer = quantizer or vector(16, 4)
    network = Hierarchy(
        3, FACTORS[grids], (quantizer.dim,) * grids, channels=8, hidden=4, num_blocks=1
    )
    return vqvae_model(network, (quantizer,) * grids, likelihoods.gaussian(), (8, 8, 3), **options)


@pytest.fixture(scope="module", params=[1, 2, pytest.param(3, marks=pytest.mark.nightly)])
def built(request):
    model = make(request.param)
    params, stats = jax.jit(model.init)(jax.random.key(0), {"x": X}, {})
    return request.param, model, params, stats


def test_vectors_lead_to_what_their_codes_do_with_a_gradient(built):
    _, model, params, stats = built
    weights, latents = Weights(params, stats), model.latents

    @jax.jit
    def both():
        codes = latents.encode(weights, X, {})
        vectors = latents.vectors(weights, codes)
        moved = jax.tree.map(lambda v: v + 1e-4, vectors)  # the nearest codes are the same
        grads = jax.grad(lambda v: jnp.sum(jnp.square(latents.from_vectors(weights, v))))(moved)
        return latents.decode(weights, codes, {}), latents.from_vectors(weights, moved), grads

    decoded, again, grads = both()
    np.testing.assert_allclose(again, decoded, atol=1e-5)
    assert all(np.abs(np.asarray(g)).max() > 0 for g in jax.tree.leaves(grads))


def test_codes_are_all_that_is_needed(built):
    grids, model, params, stats = built
    codes = jax.jit(model.latents.encode)(Weights(params, stats), X, {})
    shapes = jax.tree.map(lambda c: c.shape, codes)
    assert (
        shapes
        == {
            1: (8, 2, 2),
            2: {"bottom": (8, 4, 4), "top": (8, 2, 2)},
            3: {"bottom": (8, 4, 4), "middle": (8, 2, 2), "top": (8, 1, 1)},
        }[grids]
    )
    assert jax.tree.structure(codes) == jax.tree.structure(model.latents.num_codes)
    again = jax.jit(model.latents.decode)(Weights(params, stats), codes, {})
    loss, aux = evaluate(model, "vq", params, stats, {"x": X}, KEYS, context())
    expected = -normal_log_prob(X, again, 0.0).sum(axis=(1, 2, 3)).mean()
    assert float(aux.metrics["reconstruction"]) == pytest.approx(float(expected), rel=1e-4)
    assert float(loss) == pytest.approx(
        float(aux.metrics["reconstruction"] + 0.25 * aux.metrics["commitment"]), rel=1e-5
    )
    assert again.shape == X.shape


def test_every_grid_reaches_the_image_and_the_top_reaches_the_bottom(built):
    grids, model, params, stats = built
    codes = jax.jit(model.latents.encode)(Weights(params, stats), X, {})
    base = jax.jit(model.latents.decode)(Weights(params, stats), codes, {})
    for path, _ in jax.tree_util.tree_flatten_with_path(codes)[0]:
        changed = jax.tree_util.tree_map_with_path(
            lambda p, c, path=path: (c + 1) % 16 if p == path else c, codes
        )
        assert (
            float(jnp.abs(model.latents.decode(Weights(params, stats), changed, {}) - base).max())
            > 1e-4
        ), path
    if grids == 1:
        return
    # Other top codes, by another top codebook, change what the bottom's vectors are.
    books = stats["net"]["books"]
    averages = books["top"]["averages"]
    top = {**books["top"], "averages": {**averages, "codebook": -3 * averages["codebook"]}}
    other = {"net": {**stats["net"], "books": {**books, "top": top}}}
    moved = [
        evaluate(model, "vq", params, s, {"x": X}, KEYS, context())[1].observed["books"]["bottom"][
            "sums"
        ]
        for s in (stats, other)
    ]
    assert float(jnp.abs(moved[0] - moved[1]).max()) > 1e-4


def test_it_learns_and_uses_its_codes(built):
    _, model, _, _ = built
    optimizers = {"net": optax.adam(3e-3)}
    state = jax.jit(lambda: init_state(model, optimizers, jax.random.key(0), {"x": X}))()
    step = jax.jit(make_train_step(model, optimizers, ema_decay=0.9))
    first = None
    for _ in range(80):
        state, metrics = step(state, {}, {"x": X}, jax.random.key(1))
        first = metrics if first is None else first
    assert float(metrics["vq/reconstruction"]) < float(first["vq/reconstruction"]) - 5
    assert np.isfinite(float(metrics["vq/loss"]))
    used = [value for name, value in metrics.items() if "codes_used" in name]
    assert min(map(float, used)) > 0.5


def test_the_bound_counts_every_code():
    model = make(2)
    params, stats = jax.jit(model.init)(jax.random.key(0), {"x": X}, {})
    stats = {"net": {**stats["net"], "squared_error": jnp.float32(0.04)}}
    estimate = jax.jit(model.density.log_prob)(Weights(params, stats), {"x": X}, KEYS)
    again = jax.jit(model.latents.decode)(
        Weights(params, stats), jax.jit(model.latents.encode)(Weights(params, stats), X, {}), {}
    )
    nats = normal_log_prob(X, again, math.log(0.2)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(estimate.nats, nats - (16 + 4) * math.log(16), rtol=1e-4)
    assert model.density.kind == "bound"


@pytest.mark.parametrize(
    "quantizer",
    [vector(16, 4, levels=2), finite_scalar((3, 3, 2)), vector(16, 4, codebook="gradient")],
    ids=["residual", "finite scalar", "gradient"],
)
def test_other_quantizers_fit(quantizer):
    model = make(1, quantizer)
    params, stats = jax.jit(model.init)(jax.random.key(0), {"x": X}, {})
    codes = jax.jit(model.latents.encode)(Weights(params, stats), X, {})
    assert codes.shape == (8, 2, 2, 2) if quantizer.levels == 2 else (8, 2, 2)
    samples = jax.jit(model.sampler.draw)(Weights(params, stats), KEYS, {})
    assert samples.shape == X.shape
    grads = jax.jit(
        jax.grad(lambda p: model.losses["vq"].fn(Weights(p, stats), {"x": X}, KEYS, context())[0])
    )(params)
    assert all(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads["net"]["books"]))
    assert float(jnp.abs(grads["net"]["network"]["down_0"]["conv"]["kernel"]).max()) > 0


def test_what_does_not_fit_is_refused():
    network = Hierarchy(3, (4,), (5,), channels=8)
    with pytest.raises(
        ValueError, match=r"quantizers: got \(4,\); of \(5,\) dimensions are required"
    ):
        vqvae_model(network, (vector(16, 4),), likelihoods.gaussian(), (8, 8, 3))
    with pytest.raises(ValueError, match="commitment_cost: got -1.0; at least 0 is required"):
        make(commitment_cost=-1.0)
    with pytest.raises(ValueError, match=r"factors: got \(3,\); powers of two from 2 are required"):
        Hierarchy(3, (3,), (4,))
    with pytest.raises(ValueError, match="dims: as many as factors, 2, are required"):
        Hierarchy(3, (2, 2), (4,))


class Table(nn.Module):
    """The same logits whatever x is, or outputs read from a table by the code."""

    rows: tuple[tuple[float, ...], ...]
    decode: bool

    @nn.compact
    def __call__(self, x):
        rows = self.param("rows", lambda key: jnp.array(self.rows))
        if self.decode:
            return rows[x] if x.ndim == 3 else x @ rows
        return jnp.broadcast_to(rows[0][None, None, None], (len(x), 1, 2, rows.shape[1]))


def tabular(**options):
    """Two positions of three codes each, one pixel a position: everything can be summed."""
    encoder = Table(((0.3, -0.5, 1.0),), decode=False)
    decoder = Table(((-0.8,), (0.1,), (0.9,)), decode=True)
    return dvae_model(encoder, decoder, likelihoods.gaussian(), (1, 2), 3, **options)


def exact(x):
    """Sum log p(x) and the bound's two terms over all pairs of codes."""
    q = np.exp([0.3, -0.5, 1.0])
    q /= q.sum()
    means = np.array([-0.8, 0.1, 0.9])
    marginal, reconstruction = 0.0, 0.0
    for pair in itertools.product(range(3), repeat=2):
        log_p = scipy.stats.norm.logpdf(x, means[list(pair)]).sum()
        marginal += np.exp(log_p) / 9
        reconstruction -= q[pair[0]] * q[pair[1]] * log_p
    kl = 2 * (np.log(3) + np.sum(q * np.log(q)))
    return np.log(marginal), reconstruction, kl


@pytest.mark.parametrize("train", [False, True])
def test_hard_draws_give_the_exact_bound(train):
    """Outside training, or straight-through, z is a draw from q itself."""
    pixels = np.array([0.4, -0.7])
    model = tabular(straight_through=train, kl_weight=Ramp(1.0, 1.0, 0))
    num = 20_000
    x = jnp.broadcast_to(jnp.array(pixels, jnp.float32).reshape(1, 1, 2, 1), (num, 1, 2, 1))
    params, stats = model.init(jax.random.key(0), {"x": x}, {})
    keys = rng.per_example(jax.random.key(1), 0, num)
    loss, aux = evaluate(model, "elbo", params, stats, {"x": x}, keys, context(0, train))
    log_p, reconstruction, kl = exact(pixels)
    assert float(aux.metrics["kl"]) == pytest.approx(kl, rel=1e-5)
    assert float(aux.metrics["reconstruction"]) == pytest.approx(reconstruction, abs=0.02)
    assert float(loss) == pytest.approx(reconstruction + kl, abs=0.02)
    assert float(loss) > -log_p
    estimate = model.density.log_prob(Weights(params, stats), {"x": x}, keys)
    assert float(estimate.nats.mean()) == pytest.approx(-reconstruction - kl, abs=0.02)


def test_a_relaxation_that_cools_down_becomes_the_draw():
    x = jnp.zeros((4000, 1, 2, 1))
    keys = rng.per_example(jax.random.key(1), 0, 4000)
    values = {}
    for tau in (1e-3, 1.0):
        model = tabular(temperature=Ramp(tau, tau, 0), kl_weight=Ramp(0.0, 0.0, 0))
        params, stats = model.init(jax.random.key(0), {"x": x}, {})
        for train in (True, False):
            value = evaluate(model, "elbo", params, stats, {"x": x}, keys, context(0, train))[0]
            values[tau, train] = float(value)
    assert values[1e-3, True] == pytest.approx(values[1e-3, False], abs=1e-2)
    assert abs(values[1.0, True] - values[1.0, False]) > 0.05


def test_schedules_go_from_start_to_end():
    ramp = Ramp(1.0, 1.0 / 16, 100)
    values = [float(ramp.at(step)) for step in (0, 50, 100, 1000)]
    np.testing.assert_allclose(values, [1.0, (1 + 1 / 16) / 2, 1 / 16, 1 / 16], rtol=1e-5)
    assert float(Ramp(0.0, 6.6, 0).at(0)) == pytest.approx(6.6)


def test_the_network_of_dall_e_has_its_sizes():
    """The released encoder.pkl and decoder.pkl hold float32 weights of 8,192 codes."""
    encoder, decoder = DVAEEncoder(8192), DVAEDecoder(8192, 6)
    x = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    logits, variables = jax.eval_shape(lambda x: encoder.init_with_output(jax.random.key(0), x), x)
    assert logits.shape == (1, 32, 32, 8192)
    outputs, other = jax.eval_shape(
        lambda z: decoder.init_with_output(jax.random.key(0), z), logits
    )
    assert outputs.shape == (1, 256, 256, 6)
    sizes = [sum(p.size for p in jax.tree.leaves(v["params"])) for v in (variables, other)]
    assert sizes == [53_786_240, 43_829_766]


@pytest.mark.slow
def test_a_discrete_vae_learns_with_its_relaxation():
    encoder = DVAEEncoder(8, hidden=8, num_groups=2, num_blocks=1)
    decoder = DVAEDecoder(8, 6, initial=4, hidden=8, num_groups=2, num_blocks=1)
    model = dvae_model(
        encoder, decoder, likelihoods.logit_laplace(), (4, 4), 8,
        temperature=Ramp(1.0, 0.1, 100), kl_weight=Ramp(0.0, 0.1, 100),
    )  # fmt: skip
    x = 0.1 + 0.8 * (X + 1) / 2
    optimizers = {"net": optax.adam(3e-3)}
    state = jax.jit(lambda: init_state(model, optimizers, jax.random.key(0), {"x": x}))()
    step = jax.jit(make_train_step(model, optimizers, ema_decay=0.9))
    values = []
    for _ in range(120):
        state, metrics = step(state, {}, {"x": x}, jax.random.key(1))
        values.append(float(metrics["elbo/reconstruction"]))
    assert np.mean(values[-10:]) < values[0] - 30
    assert float(metrics["elbo/temperature"]) == pytest.approx(0.1, rel=1e-4)
    codes = model.latents.encode(Weights(state.params, state.stats), x, {})
    assert codes.shape == (8, 4, 4)
    again = model.latents.decode(Weights(state.params, state.stats), codes, {})
    one_hot = decoder.apply({"params": state.params["net"]["decoder"]}, jax.nn.one_hot(codes, 8))
    np.testing.assert_allclose(again, likelihoods.logit_laplace().mean(one_hot), atol=1e-5)
