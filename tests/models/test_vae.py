"""A linear Gaussian VAE is probabilistic PCA: everything about it is known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from gen_jax.codecs import dequantize, rgb, with_codec
from gen_jax.models.vae import vae_model
from gen_jax.nn.autoencoder import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from gen_jax.ops import keys as rng, likelihoods
from gen_jax.protocols import LOCAL, Context, Weights

pytestmark = pytest.mark.slow

SHAPE = (2, 3, 1)
SIGMA = 0.5


def linear(**options):
    """Two latent units, six pixels, no hidden layer."""
    options.setdefault("likelihood", likelihoods.gaussian("fixed", float(np.log(SIGMA))))
    return vae_model(MLPEncoder((), 4), MLPDecoder((), (2, 3), 1), latent_shape=(2,), **options)


def context(step=0, train=True):
    return Context(jnp.int32(step), LOCAL, train)


def exact_params(extra_spread=0.0, shift=0.0):
    """W with orthogonal columns, whose exact posterior has a diagonal covariance."""
    rng_ = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng_.normal(size=(6, 2)))
    weight = basis * np.array([1.5, 0.6])
    bias = rng_.normal(size=6)
    precision = 1 + np.sum(weight**2, axis=0) / SIGMA**2
    to_mean = weight / SIGMA**2 / precision
    kernel = np.concatenate([to_mean, np.zeros((6, 2))], axis=1)
    log_variance = -np.log(precision) + extra_spread
    encoder_bias = np.concatenate([-bias @ to_mean + shift, log_variance])
    net = {
        "encoder": {"dense_0": {"kernel": kernel, "bias": encoder_bias}},
        "decoder": {"dense_0": {"kernel": weight.T, "bias": bias}},
    }
    marginal = scipy.stats.multivariate_normal(bias, weight @ weight.T + SIGMA**2 * np.eye(6))
    return jax.tree.map(jnp.float32, {"net": net}), marginal


def bound(model, params, stats, batch, **options):
    """Compile the bound as a function of the noise."""
    return jax.jit(
        lambda keys: model.density.log_prob(Weights(params, stats), batch, keys, **options)
    )


@pytest.fixture(scope="module")
def data():
    _, marginal = exact_params()
    x = marginal.rvs(64, random_state=1).astype(np.float32)
    return {"x": jnp.array(x.reshape(64, *SHAPE))}, marginal.logpdf(x)


def keys_of(seed, num=64):
    return rng.per_example(jax.random.key(seed), 0, num)


def stats_of(model, batch):
    return model.init(jax.random.key(0), batch, {})[1]


def test_with_the_exact_posterior_the_elbo_is_the_log_likelihood(data):
    batch, log_p = data
    model = linear()
    stats = stats_of(model, batch)
    params, _ = exact_params()
    elbo = jax.jit(
        lambda keys: model.losses["elbo"].fn(
            Weights(params, stats), batch, keys, context(train=False)
        )[0]
    )
    draws = [float(elbo(keys_of(i))) for i in range(200)]
    error = np.std(draws) / np.sqrt(200)
    assert abs(np.mean(draws) + log_p.mean()) < 4 * error
    assert error < 0.02


def test_with_the_exact_posterior_one_importance_sample_is_exact(data):
    batch, log_p = data
    model = linear()
    params, _ = exact_params()
    for num in (1, 7):
        estimate = model.density.log_prob(
            Weights(params, stats_of(model, batch)), batch, keys_of(0), num_importance=num
        )
        np.testing.assert_allclose(estimate.nats, log_p, rtol=2e-5)
        if num == 1:  # one draw does not say how draws differ
            assert np.all(np.isnan(estimate.stderr))
        else:
            np.testing.assert_allclose(estimate.stderr, 0, atol=1e-2)


def test_importance_weighting_tightens_the_bound_up_to_the_log_likelihood(data):
    batch, log_p = data
    model = linear()
    stats = stats_of(model, batch)
    params, _ = exact_params(extra_spread=0.7, shift=0.3)
    bounds = []
    for num in (1, 5, 50, 5000):
        # Averaged over noise, so that the expectation is compared and not a draw of it.
        estimate = bound(model, params, stats, batch, num_importance=num, importance_chunk=50)
        draws = [estimate(keys_of(seed)).nats.mean() for seed in range(8)]
        bounds.append(float(np.mean(draws)))
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[1] - 0.05
    assert bounds[-1] == pytest.approx(log_p.mean(), abs=0.01)


def test_the_bound_does_not_depend_on_the_chunk(data):
    batch, _ = data
    model = linear()
    params, _ = exact_params(shift=0.3)
    whole, parts = (
        model.density.log_prob(
            Weights(params, stats_of(model, batch)), batch, keys_of(0), num_importance=10,
            importance_chunk=chunk,
        )
        for chunk in (10, 4)
    )  # fmt: skip
    np.testing.assert_allclose(whole.nats, parts.nats, rtol=1e-6)
    np.testing.assert_allclose(whole.stderr, parts.stderr, rtol=1e-4)


def test_the_standard_error_is_that_of_repeated_estimates(data):
    batch, _ = data
    model = linear()
    stats = stats_of(model, batch)
    params, _ = exact_params(extra_spread=0.3, shift=0.1)
    estimate = bound(model, params, stats, batch, num_importance=200)
    estimates = [estimate(keys_of(i)) for i in range(60)]
    spread = np.std([e.nats for e in estimates], axis=0)
    stated = np.mean([e.stderr for e in estimates], axis=0)
    assert np.median(stated / spread) == pytest.approx(1, abs=0.15)


def fit(model, batch, steps=3000, rate=1e-2):
    params, stats = jax.jit(model.init)(jax.random.key(1), batch, {})
    (loss,) = model.losses.values()
    adam = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step(carry, number):
        params, stats, opt_state = carry
        keys = rng.per_example(jax.random.fold_in(jax.random.key(2), number), 0, len(batch["x"]))
        (value, aux), grads = jax.value_and_grad(
            lambda p: loss.fn(Weights(p, stats), batch, keys, context()._replace(step=number)),
            has_aux=True,
        )(params)
        stats, _ = model.update_stats(Weights({}, stats), {"net": aux.observed}, keys[0], number)
        updates, opt_state = adam.update(grads, opt_state)
        return (optax.apply_updates(params, updates), stats, opt_state), value

    carry = (params, stats, adam.init(params))
    (params, stats, _), values = jax.jit(lambda c: jax.lax.scan(step, c, jnp.arange(steps)))(carry)
    return params, stats, values


@pytest.mark.parametrize("sigma", ["learned", "optimal"])
def test_trained_it_reaches_the_optimum_of_probabilistic_pca(data, sigma):
    """Tipping & Bishop 1999, Eq. 8: the best any linear decoder can do, sigma included."""
    batch, _ = data
    model = linear(likelihood=likelihoods.gaussian(sigma))
    x = np.asarray(batch["x"], np.float64).reshape(64, 6)
    values = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    noise = values[2:].mean()
    optimum = -0.5 * (6 * np.log(2 * np.pi) + np.log(values[:2]).sum() + 4 * np.log(noise) + 6)
    params, stats, _ = fit(model, batch, steps=6000, rate=2e-2)
    estimate = model.density.log_prob(Weights(params, stats), batch, keys_of(0), num_importance=500)
    assert float(estimate.nats.mean()) == pytest.approx(optimum, abs=0.03)
    loss = model.losses["elbo"].fn
    elbo = np.mean([
        float(loss(Weights(params, stats), batch, keys_of(i), context(train=False))[0])
        for i in range(100)
    ])  # fmt: skip
    # The posterior of the optimum is diagonal, so that the bound is tight there.
    assert -elbo == pytest.approx(optimum, abs=0.08)
    error = float(stats["net"].get("squared_error", jnp.exp(2 * params["net"].get("log_sigma", 0))))
    assert error == pytest.approx(noise, rel=0.25)


def test_more_importance_samples_make_a_better_model_than_a_poor_posterior_allows(data):
    """IWAE's loss with K samples is its bound with K samples."""
    batch, _ = data
    model = linear(num_importance=20)
    params, _ = exact_params(shift=0.3)
    stats = stats_of(model, batch)
    draws = [
        float(model.losses["iwae"].fn(Weights(params, stats), batch, keys_of(i), context())[0])
        for i in range(50)
    ]
    bound = model.density.log_prob(
        Weights(params, stats), batch, keys_of(99), num_importance=20
    ).nats.mean()
    assert np.mean(draws) == pytest.approx(-float(bound), abs=0.1)


def test_a_collapsed_posterior_is_reported(data):
    batch, _ = data
    _, stats, _ = fit(linear(beta=1000.0), batch, steps=2000)
    model = linear()
    _, alive, _ = fit(model, batch, steps=2000)
    report = {}
    for name, final in (("collapsed", stats), ("alive", alive)):
        mean = final["net"]["moments"]["mean"]
        observed = {"net": {"moments": final["net"]["moments"]}}
        _, metrics = model.update_stats(
            Weights({}, final), observed, jax.random.key(0), jnp.int32(300)
        )
        report[name] = float(metrics["active_units"])
        assert mean.shape == (2,)
    assert report == {"collapsed": 0.0, "alive": 2.0}


def test_free_bits_press_only_what_is_above_them(data):
    batch, _ = data
    params, _ = exact_params()
    plain, free = linear(), linear(free_bits=100.0)
    stats = stats_of(plain, batch)

    def grad(model):
        fn = model.losses["elbo"].fn
        loss = lambda p: fn(Weights(p, stats), batch, keys_of(0), context())[0]  # noqa: E731
        return jax.grad(loss)(params)["net"]["encoder"]["dense_0"]["bias"]

    value, aux = free.losses["elbo"].fn(Weights(params, stats), batch, keys_of(0), context())
    assert float(value) == pytest.approx(float(aux.metrics["reconstruction"]) + 200, rel=1e-5)
    without_kl = linear(beta=0.0)
    np.testing.assert_allclose(grad(free), grad(without_kl), rtol=1e-5, atol=1e-6)
    assert np.abs(grad(free) - grad(plain)).max() > 0.1


def test_the_kl_warms_up_in_training_and_counts_whole_after_it(data):
    batch, _ = data
    params, _ = exact_params()
    model = linear(kl_warmup=100, beta=2.0)
    stats = stats_of(model, batch)

    def weight(step, train=True):
        value, aux = model.losses["elbo"].fn(
            Weights(params, stats), batch, keys_of(0), context(step, train)
        )
        return float((value - aux.metrics["reconstruction"]) / aux.metrics["kl"])

    assert [weight(step) for step in (0, 50, 100, 1000)] == pytest.approx([0, 1, 2, 2], abs=1e-5)
    assert weight(0, train=False) == pytest.approx(2, abs=1e-5)


def test_padding_counts_as_nothing(data):
    batch, _ = data
    params, _ = exact_params()
    model = linear(free_bits=3.0)  # between the KLs of the two units
    stats = stats_of(model, batch)
    weight = jnp.where(jnp.arange(64) < 16, 1.0, 0.0)
    poisoned = jnp.where(weight[:, None, None, None] > 0, batch["x"], 99.0)
    loss = model.losses["elbo"].fn
    padded, _ = loss(
        Weights(params, stats), {"x": poisoned, "weight": weight}, keys_of(0), context()
    )
    short, _ = loss(Weights(params, stats), {"x": batch["x"][:16]}, keys_of(0, 16), context())
    assert float(padded) / 0.25 == pytest.approx(float(short), rel=1e-5)


def test_a_conditional_one_uses_its_label_in_both_halves():
    """Digits of class 0 are black and of class 1 white: the code need hold nothing."""
    label = jnp.arange(64) % 2
    x = jnp.broadcast_to(label[:, None, None, None].astype(jnp.float32), (64, 2, 3, 1))
    model = vae_model(
        MLPEncoder((8,), 2, num_classes=2),
        MLPDecoder((8,), (2, 3), 1, num_classes=2),
        likelihoods.bernoulli(),
        (1,),
        num_classes=2,
    )
    params, stats, values = fit(model, {"x": x, "label": label}, steps=1000)
    assert float(values[-1]) < 0.1
    samples = model.sampler.draw(Weights(params, stats), keys_of(0), {"label": label})
    np.testing.assert_allclose(samples, x, atol=0.1)
    z = model.latents.encode(Weights(params, stats), x, {"label": label})
    np.testing.assert_allclose(
        model.latents.decode(Weights(params, stats), z, {"label": label}), x, atol=0.1
    )
    with pytest.raises(ValueError, match="label: missing"):
        model.latents.encode(Weights(params, stats), x, {})


def test_a_spatial_latent_is_standardized_by_running_moments():
    options = {"channels": 8, "multipliers": (1, 2), "num_res_blocks": 1, "groups": 4}
    model = vae_model(
        ConvEncoder(8, 6, **options),
        ConvDecoder(8, 1, **options),
        likelihoods.gaussian("optimal"),
        (4, 4, 3),
        beta=1e-4,
        standardize=True,
    )
    x = jax.random.uniform(jax.random.key(0), (16, 8, 8, 1))
    params, stats, _ = fit(model, {"x": x}, steps=5)
    observe = jax.jit(
        lambda keys, stats: model.losses["elbo"].fn(
            Weights(params, stats), {"x": x}, keys, context()
        )[1]
    )
    for step in range(5, 60):
        keys = keys_of(step, 16)
        aux = observe(keys, stats)
        stats, _ = model.update_stats(
            Weights({}, stats), {"net": aux.observed}, keys[0], jnp.int32(step)
        )
    z = jax.jit(lambda keys: model.latents.encode(Weights(params, stats), x, {}, keys))(
        keys_of(0, 16)
    )
    assert z.shape == (16, 4, 4, 3)
    np.testing.assert_allclose(jnp.mean(z, axis=(0, 1, 2)), 0, atol=0.25)
    np.testing.assert_allclose(jnp.std(z, axis=(0, 1, 2)), 1, atol=0.25)
    # decode undoes encode's scaling: with the scaling left out of both, the same image.
    plain = vae_model(
        ConvEncoder(8, 6, **options),
        ConvDecoder(8, 1, **options),
        likelihoods.gaussian("optimal"),
        (4, 4, 3),
    )
    again, expected = (
        jax.jit(
            lambda x, m=m: m.latents.decode(
                Weights(params, stats), m.latents.encode(Weights(params, stats), x, {}), {}
            )
        )(x)
        for m in (model, plain)
    )
    np.testing.assert_allclose(again, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -1.0}, "beta: got -1.0; at least 0"),
        ({"num_importance": 0}, "num_importance: got 0; at least 1"),
        ({"num_importance": 5, "beta": 2.0}, "whose bound has no KL"),
        (
            {"num_importance": 5, "likelihood": likelihoods.gaussian("optimal")},
            "sigma: got 'optimal'; ",
        ),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        linear(**options)


ONE_PIXEL = np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1)


@pytest.mark.parametrize(
    ("likelihood", "codec", "atol"),
    [
        (likelihoods.discretized_logistic(), rgb()._replace(log_scale=0.0), 0.01),
        (likelihoods.logistic_mixture(1, 3), rgb()._replace(log_scale=0.0), 0.01),
        (likelihoods.gaussian("fixed", -1.0), dequantize(), 0.05),
    ],
)
def test_probabilities_of_all_gray_levels_sum_to_one(likelihood, codec, atol):
    """Through the codec and the importance-weighted bound, edges included."""
    model = vae_model(
        MLPEncoder((8,), 2),
        MLPDecoder((8,), (1, 1), likelihood.num_outputs(1)),
        likelihood,
        (1,),
    )
    model = with_codec(model, codec)
    batch = {"image": jnp.asarray(ONE_PIXEL)}
    params, stats = model.init(jax.random.key(5), batch, {})
    assert model.density.over_pixels
    estimate = model.density.log_prob(
        Weights(params, stats, {"codec": {}}), batch, keys_of(0, 256), num_importance=3000
    )
    total = float(jnp.sum(jnp.exp(estimate.nats)))
    if codec.log_scale == 0.0:
        assert total == pytest.approx(1, abs=atol)
    else:  # a Gaussian has mass beyond the pixels' range, and noise makes a bound of it
        assert 0.5 < total < 1 + atol
