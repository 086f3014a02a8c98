"""Deterministic and adversarial autoencoders, and what they train on."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.launch.build.experiment import build
from gen_jax.launch.config.files import load_config
from gen_jax.models.adversarial_autoencoder import adversarial_autoencoder_model
from gen_jax.models.autoencoder import autoencoder_model
from gen_jax.nn.autoencoder import (
    CodeDiscriminator,
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
)
from gen_jax.ops import corruptions, keys as rng, likelihoods
from gen_jax.ops.adversarial import discriminator_loss, non_saturating_loss
from gen_jax.protocols import LOCAL, Context, Weights
from gen_jax.train.optimizers import by_subtree
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parent.parent.parent / "configs"
GAUSSIAN = likelihoods.gaussian()
X = jax.random.normal(jax.random.key(0), (64, 2, 3, 1)) @ jnp.ones((1, 1))
BATCH = {"x": X}
KEYS = rng.per_example(jax.random.key(1), 0, 64)


def linear(latent=2, widths=(), **options):
    return autoencoder_model(
        MLPEncoder(widths, latent), MLPDecoder(widths, (2, 3), 1), GAUSSIAN, (latent,), **options
    )


def context(train=True):
    return Context(jnp.int32(0), LOCAL, train)


def fit(model, steps, optimizers, batch=BATCH):
    state = init_state(model, optimizers, jax.random.key(2), batch)
    step = make_train_step(model, optimizers, ema_decay=0.0)

    def scanned(state, _):
        return step(state, {}, batch, jax.random.key(3))

    return jax.jit(lambda state: jax.lax.scan(scanned, state, None, steps))(state)


def test_a_linear_autoencoder_finds_the_principal_components():
    """Baldi & Hornik 1989: its optimum is the projection on the largest eigenvectors."""
    model = linear()
    rate = optax.cosine_decay_schedule(2e-2, 2000)
    state, _ = fit(model, 2000, {"net": optax.adam(rate)})
    x = np.asarray(X).reshape(64, 6)
    lost = np.linalg.eigvalsh(np.cov(x.T, bias=True))[:4].sum()
    again = model.latents.decode(
        Weights(state.params, state.stats),
        model.latents.encode(Weights(state.params, state.stats), X, {}),
        {},
    )
    error = np.mean(np.sum((np.asarray(again).reshape(64, 6) - x) ** 2, axis=1))
    assert error == pytest.approx(lost, rel=1e-3)


def test_the_loss_is_half_the_squared_error_and_a_constant():
    model = linear()
    params, stats = model.init(jax.random.key(0), BATCH, {})
    loss, _ = model.losses["reconstruction"].fn(Weights(params, stats), BATCH, KEYS, context())
    again = model.latents.decode(
        Weights(params, stats), model.latents.encode(Weights(params, stats), X, {}), {}
    )
    expected = 0.5 * jnp.mean(jnp.sum((again - X) ** 2, axis=(1, 2, 3))) + 3 * np.log(2 * np.pi)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_noise_enters_the_encoder_in_training_only():
    seen = []

    def corruption(keys, x):
        seen.append(x)
        return 0 * x

    model = linear(corruption=corruption)
    params, stats = model.init(jax.random.key(0), BATCH, {})
    fn = model.losses["reconstruction"].fn
    noisy, aux = fn(Weights(params, stats), BATCH, KEYS, context())
    clean, _ = fn(Weights(params, stats), BATCH, KEYS, context(train=False))
    assert len(seen) == 1
    # The code is that of zeros, but x is still what must come out.
    blank = model.latents.decode(
        Weights(params, stats), model.latents.encode(Weights(params, stats), 0 * X, {}), {}
    )
    expected = -GAUSSIAN.log_prob(blank, X, 0.0).mean()
    assert float(noisy) == pytest.approx(float(expected), rel=1e-5)
    assert float(noisy) != pytest.approx(float(clean), rel=1e-3)
    assert set(aux.metrics) == {"reconstruction"}


def test_corruptions_change_what_they_say():
    x = 0.5 * jnp.ones((200, 10, 10))
    keys = rng.per_example(jax.random.key(0), 0, 200)
    masked = corruptions.masking(0.3, -1.0)(keys, x)
    assert set(np.unique(masked)) == {-1.0, 0.5}
    assert float(jnp.mean(masked == -1)) == pytest.approx(0.3, abs=0.01)
    peppered = corruptions.salt_and_pepper(0.4)(keys, x)
    shares = [float(jnp.mean(peppered == value)) for value in (0.0, 0.5, 1.0)]
    assert shares == pytest.approx([0.2, 0.6, 0.2], abs=0.01)
    noise = corruptions.gaussian_noise(0.7)(keys, x) - x
    assert float(jnp.std(noise)) == pytest.approx(0.7, abs=0.01)
    assert float(jnp.mean(noise)) == pytest.approx(0.0, abs=0.02)
    # An example's noise is its key's.
    np.testing.assert_array_equal(corruptions.masking(0.3, -1.0)(keys[5:6], x[5:6]), masked[5:6])
    with pytest.raises(ValueError, match=r"share: got 1\.5; from 0 to 1 is required"):
        corruptions.masking(1.5)


def test_sparse_units_are_used_as_rarely_as_they_are_told():
    options = {"sparsity": "kl", "sparsity_weight": 100.0, "sparsity_target": 0.1}
    model = linear(latent=8, widths=(16,), **options)
    state, metrics = fit(model, 1500, {"net": optax.adam(1e-2)})
    z = model.latents.encode(Weights(state.params, state.stats), X, {})
    assert float(z.min()) >= 0
    np.testing.assert_allclose(z.mean(axis=0), 0.1, atol=0.03)
    assert float(metrics["reconstruction/sparsity"][-1]) < 0.02


@pytest.mark.parametrize("sparsity", ["none", "l1", "kl"])
def test_padding_counts_as_nothing(sparsity):
    model = linear(sparsity=sparsity, sparsity_weight=1.0)
    params, stats = model.init(jax.random.key(0), BATCH, {})
    loss = model.losses["reconstruction"].fn
    weight = jnp.where(jnp.arange(64) < 16, 1.0, 0.0)
    poisoned = jnp.where(weight[:, None, None, None] > 0, X, 99.0)
    padded, _ = loss(Weights(params, stats), {"x": poisoned, "weight": weight}, KEYS, context())
    short, _ = loss(Weights(params, stats), {"x": X[:16]}, KEYS[:16], context())
    assert float(padded) / 0.25 == pytest.approx(float(short), rel=1e-5)


def test_grids_of_codes_can_be_standardized():
    options = {"channels": 8, "multipliers": (1,), "num_res_blocks": 1, "groups": 4}
    halves = ConvEncoder(4, 3, **options), ConvDecoder(4, 1, **options)
    plain, scaled = (
        autoencoder_model(*halves, GAUSSIAN, (4, 4, 3), standardize=standardize)
        for standardize in (False, True)
    )
    x = jax.random.normal(jax.random.key(0), (64, 4, 4, 1))
    params, stats = jax.jit(scaled.init)(jax.random.key(1), {"x": x}, {})
    loss = jax.jit(
        lambda x: scaled.losses["reconstruction"].fn(
            Weights(params, stats), {"x": x}, KEYS, context()
        )
    )
    stats, _ = scaled.update_stats(
        Weights({}, stats), {"net": loss(x)[1].observed}, KEYS[0], jnp.int32(0)
    )
    z = jax.jit(scaled.latents.encode)(Weights(params, stats), x, {})
    np.testing.assert_allclose(z.mean(axis=(0, 1, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(axis=(0, 1, 2)), 1, atol=1e-3)
    expected = jax.jit(
        lambda x: plain.latents.decode(
            Weights(params, stats), plain.latents.encode(Weights(params, stats), x, {}), {}
        )
    )(x)
    np.testing.assert_allclose(
        jax.jit(scaled.latents.decode)(Weights(params, stats), z, {}), expected, atol=1e-4
    )


def test_l1_makes_codes_smaller_and_the_penalty_is_their_sum():
    sizes = []
    for weight in (0.0, 1.0):
        model = linear(sparsity="l1", sparsity_weight=weight)
        state, metrics = fit(model, 500, {"net": optax.adam(1e-2)})
        size = (
            jnp.abs(model.latents.encode(Weights(state.params, state.stats), X, {}))
            .sum(axis=1)
            .mean()
        )
        assert float(metrics["reconstruction/sparsity"][-1]) == pytest.approx(float(size), rel=0.1)
        sizes.append(float(size))
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity_weight": -1.0}, "sparsity_weight: got -1.0; at least 0"),
        ({"sparsity_target": 1.0}, "sparsity_target: got 1.0; between 0 and 1"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        linear(**options)


def test_a_discriminator_that_knows_nothing_costs_two_bits():
    zero = jnp.zeros(3)
    np.testing.assert_allclose(discriminator_loss(zero, zero), 2 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(non_saturating_loss(zero), np.log(2), rtol=1e-6)
    # Its gradient does not vanish where the discriminator is sure.
    assert float(jax.grad(lambda x: non_saturating_loss(x)[0])(jnp.array([-20.0]))[0]) < -0.99


def adversarial(latent=2):
    return adversarial_autoencoder_model(
        MLPEncoder((32,), latent, activation="relu"),
        MLPDecoder((32,), (2, 3), 1, activation="relu"),
        CodeDiscriminator((32, 32)),
        GAUSSIAN,
        latent,
    )


def test_each_turn_moves_what_it_trains_and_nothing_else():
    model = adversarial()
    optimizers = {
        "net": by_subtree({"encoder": optax.adam(1e-3), "decoder": optax.adam(1e-3)}),
        "disc": optax.adam(1e-3),
    }
    state = jax.jit(lambda key: init_state(model, optimizers, key, BATCH))(jax.random.key(2))
    moved = {
        "reconstruct": {"encoder", "decoder"},
        "discriminate": {"disc"},
        "fool": {"encoder"},
    }
    warm = make_train_step(model, optimizers)  # so that momentum is there to move things
    state, _ = jax.jit(warm)(state, {}, BATCH, jax.random.key(3))
    for turn, expected in moved.items():
        step = jax.jit(make_train_step(model, optimizers, turns=(turn,)))
        after, _ = step(state, {}, BATCH, jax.random.key(3))
        parts = [{**s.params["net"], "disc": s.params["disc"]} for s in (state, after)]
        changed = {
            name
            for name in parts[0]
            if any(
                np.any(a != b)
                for a, b in zip(
                    jax.tree.leaves(parts[0][name]), jax.tree.leaves(parts[1][name]), strict=True
                )
            )
        }
        assert changed == expected


def test_codes_come_to_follow_the_prior():
    """Data in a far corner: without the adversary its codes are anywhere."""
    batch = {"x": 3.0 + X}
    model = adversarial()
    optimizers = {
        "net": by_subtree({name: optax.adam(2e-3, b1=0.5) for name in ("encoder", "decoder")}),
        "disc": optax.adam(2e-3, b1=0.5),
    }
    state, metrics = fit(model, 4000, optimizers, batch)
    z = np.asarray(model.latents.encode(Weights(state.params, state.stats), batch["x"], {}))
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=0.35)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=0.35)
    assert float(metrics["discriminate/accuracy"][-500:].mean()) < 0.75
    samples = model.sampler.draw(Weights(state.params, state.stats), KEYS, {})
    np.testing.assert_allclose(samples.mean(axis=0), batch["x"].mean(axis=0), atol=0.5)


def test_learning_rates_of_both_halves_fall_alike():
    """The encoder is trained twice a step: its schedule must not end halfway."""
    overrides = ["optimizer.learning_rate=0.01", "optimizer.decay=cosine", "train.steps=40"]
    experiment = build(load_config(str(CONFIGS / "aae_mnist.py:tiny"), overrides))
    params = {"encoder": jnp.ones(3), "decoder": jnp.ones(3)}
    optimizer = experiment.optimizers["net"]
    state = optimizer.init(params)
    ones = jax.tree.map(jnp.ones_like, params)
    reconstruct, fool = ones, {**ones, "decoder": jnp.zeros(3)}
    for _ in range(20):
        _, state = optimizer.update(reconstruct, state, params)
        _, state = optimizer.update(fool, state, params)
    updates, _ = optimizer.update(reconstruct, state, params)
    # With a constant gradient Adam's step is the learning rate: half of it, halfway.
    np.testing.assert_allclose(updates["encoder"], -0.005, rtol=1e-3)
    np.testing.assert_allclose(updates["decoder"], -0.005, rtol=1e-3)
