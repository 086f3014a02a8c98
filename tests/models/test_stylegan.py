"""StyleGAN2: modulation, path lengths, truncation, mixing; StyleGAN3: what moves with what."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.signal

from gen_jax.models.gan import Penalties, Styles, stylegan_model
from gen_jax.nn.alias_free import AliasFreeGenerator, resampling
from gen_jax.nn.gan import Discriminator
from gen_jax.nn.stylegan import StyleGenerator, modulated_convolution
from gen_jax.ops import keys as rng
from gen_jax.ops.ramps import Ramp
from gen_jax.protocols import Weights
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

SHAPE = (8, 8, 1)
KEYS = rng.per_example(jax.random.key(0), 0, 8)
GENERATOR = StyleGenerator(SHAPE, (8, 8), style_dim=6, depth=2)


def test_scaling_inputs_and_outputs_is_a_kernel_of_each_example_s_own():
    """Beside the grouped convolution of the authors' code."""
    x, style = rng.normal(KEYS[:3], (5, 4, 6)), 1 + rng.normal(KEYS[:3], (6,))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 6, 7))
    made = modulated_convolution(x, kernel, style)
    own = kernel[None] * style[:, None, None, :, None]
    own = own * jax.lax.rsqrt(jnp.sum(own**2, (1, 2, 3), keepdims=True) + 1e-8)
    np.testing.assert_allclose(jnp.sum(own**2, (1, 2, 3)), np.ones((3, 7)), rtol=1e-5)
    grouped = jax.lax.conv_general_dilated(
        jnp.transpose(x, (1, 2, 0, 3)).reshape(1, 5, 4, 18),
        jnp.transpose(own, (1, 2, 3, 0, 4)).reshape(3, 3, 6, 21),
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=3,
    ).reshape(5, 4, 3, 7)
    np.testing.assert_allclose(made, jnp.transpose(grouped, (2, 0, 1, 3)), atol=1e-5)
    plain = modulated_convolution(x, kernel, jnp.ones((3, 6)), demodulate=False)
    np.testing.assert_allclose(
        plain,
        jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        atol=1e-4,
    )


@pytest.fixture(scope="module")
def trained():
    """A few steps with all turns: two with path lengths, one penalized."""
    model = stylegan_model(
        GENERATOR,
        Discriminator(SHAPE, (8, 8)),
        5,
        SHAPE,
        styles=Styles(path_every=2, decay=0.5),
        penalties=Penalties(Ramp(0.1, 0.1, 0), r2=False, every=3),
    )
    batch = {"x": jnp.tanh(rng.normal(KEYS, SHAPE))}
    adam = {name: optax.adam(2e-3, b1=0.0, b2=0.99) for name in ("gen", "disc")}
    state = jax.jit(lambda key: init_state(model, adam, key, batch))(jax.random.key(0))
    step = jax.jit(make_train_step(model, adam))
    seen = []
    for _ in range(4):
        state, metrics = step(state, {}, batch, jax.random.key(1))
        seen.append({name: float(value) for name, value in metrics.items()})
    return model, state, seen


def test_every_turn_is_taken_when_it_is_due(trained):
    _, state, seen = trained
    assert [np.isfinite(metrics["path/loss"]) for metrics in seen] == [True, False, True, False]
    assert [metrics["disc/penalty"] > 0 for metrics in seen] == [True, False, False, True]
    assert float(state.stats["gen"]["path_length"]) > 0
    assert (state.stats["gen"]["w"] != 0).all()
    assert int(state.guard.skipped) == 0


def test_truncation_goes_toward_the_mean_of_w(trained):
    model, state, _ = trained
    # Noise starts at strength 0; let it show.
    gen = jax.tree.map(lambda x: x + 0.3 if x.ndim == 0 else x, state.ema_params["gen"])
    weights, quiet = Weights({"gen": gen}, state.stats), Weights(state.ema_params, state.stats)
    draw = jax.jit(lambda weights, psi: model.sampler.draw(weights, KEYS, {}, truncation=psi))
    none = draw(quiet, 0.0)
    still = jax.tree.map(lambda x: 0 * x if x.ndim == 0 else x, state.ema_params["gen"])
    none = draw(Weights({"gen": still}, state.stats), 0.0)
    np.testing.assert_allclose(none, jnp.broadcast_to(none[:1], none.shape), atol=1e-5)
    spread = [float(draw(quiet, psi).std(axis=0).mean()) for psi in (0.3, 1.0)]
    assert spread[0] < spread[1]
    assert (jnp.abs(draw(weights, 0.0) - none).max((1, 2, 3)) > 1e-3).all()  # noise of its own
    z = model.latents.prior(KEYS)
    np.testing.assert_allclose(
        model.latents.decode(quiet, z, {})[2:4], model.latents.decode(quiet, z[2:4], {}), atol=1e-5
    )


def test_finer_layers_may_have_another_style():
    variables = jax.jit(GENERATOR.init)(jax.random.key(0), jnp.zeros((1, 5)))
    w = rng.normal(KEYS[:2], (6,))

    def synthesize(w):
        return GENERATOR.apply(variables, w, method="synthesize")

    same = jnp.repeat(w[:, None], GENERATOR.num_layers, axis=1)
    mixed = same.at[0, 2:].set(w[1])
    images = jax.jit(synthesize)(jnp.concatenate([same, mixed[:1]]))
    assert (images[2] != images[0]).any()
    assert (images[2] != images[1]).any()
    with pytest.raises(ValueError, match="no multiple"):
        StyleGenerator((9, 8, 1), (8, 8)).init(jax.random.key(0), jnp.zeros((1, 5)))


def test_what_is_out_of_range_is_refused():
    for styles in (Styles(mixing=1.5), Styles(path_weight=-1.0)):
        with pytest.raises(ValueError, match="styles"):
            stylegan_model(GENERATOR, Discriminator(SHAPE, (8, 8)), 5, SHAPE, styles=styles)


def test_resampling_is_a_window_designed_filter():
    """Beside SciPy's, which the authors' code takes, and zeros between the samples."""
    finer, coarser = resampling(20, 16, 64, 32, 4.0, 3.0), resampling(64, 32, 20, 16, 4.0, 3.0)
    taps = scipy.signal.firwin(12, 4.0, width=6.0, fs=32)
    samples = np.random.default_rng(0).normal(size=20)
    between = np.zeros(40)
    between[::2] = samples
    # Of 64 samples with the same middle, 12 lie on each side of these.
    made = 2 * np.convolve(between, taps)[: 40 + 11]
    np.testing.assert_allclose((finer @ samples)[7:53], made[:46], atol=1e-5)
    np.testing.assert_allclose(coarser, finer.T / 2, atol=1e-6)

    def height(frequency):
        wave = np.sin(2 * np.pi * frequency * (np.arange(64) - 31.5) / 32 + 0.3)
        return np.abs((coarser @ wave)[3:-3]).max()

    assert height(0.5) > 0.95
    assert height(13.0) < 0.02


def test_an_image_moves_with_the_features_that_it_is_made_of():
    """EQ-T of Karras et al. 2021, Eq. 3, in decibels; StyleGAN2's generator has 10 to 20."""
    side = 16
    generator = AliasFreeGenerator((side, side, 1), (12, 6), style_dim=6, num_convolutions=4)
    variables = jax.jit(generator.init)(jax.random.key(0), jnp.zeros((1, 5)))
    w = rng.normal(KEYS[:2], (generator.num_layers, 6))

    @jax.jit
    def moved(by):
        shift = jnp.broadcast_to(by[None] / side, (len(w), 2))
        return generator.apply(variables, w, shift=shift, method="synthesize")

    still = moved(jnp.zeros(2))
    assert float(still.std()) > 0.01
    for down, right in ((1, 0), (3, 2)):
        there = moved(jnp.array([down, right], jnp.float32))
        errors = there[:, down:, right:] - still[:, : side - down, : side - right]
        peak = float(still.max() - still.min())
        assert 20 * np.log10(peak / float(jnp.sqrt(jnp.mean(errors**2)))) > 50
    with pytest.raises(ValueError, match="power of two"):
        AliasFreeGenerator((28, 28, 1), (12, 6))
