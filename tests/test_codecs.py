import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import codecs
from gen_jax.models.vae import vae_model
from gen_jax.nn.autoencoder import MLPDecoder
from gen_jax.ops import keys as rng, likelihoods
from gen_jax.protocols import Model, Weights

GRAY = jnp.tile(jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1), (500, 1, 1, 1))
KEYS = rng.per_example(jax.random.key(0), 0, 500)


@pytest.mark.parametrize(
    "codec", [codecs.rgb(), codecs.dequantize(), codecs.binary("none"), codecs.unit()]
)
def test_every_gray_level_comes_back(codec):
    again = codec.decode({}, codec.encode({}, GRAY, KEYS))
    np.testing.assert_array_equal(again, GRAY)


def test_noise_fills_each_level_s_bin_and_no_more():
    x = codecs.dequantize().encode({}, GRAY, KEYS)
    low = GRAY.astype(jnp.float32) / 128 - 1
    inside = (x - low) * 128
    assert float(inside.min()) >= 0
    assert float(inside.max()) <= 1
    assert float(inside.mean()) == pytest.approx(0.5, abs=0.01)
    # A uniform density over [-1, 1] is 1/256 a gray level.
    assert codecs.dequantize().log_scale + np.log(0.5) == pytest.approx(-np.log(256))


def test_stochastic_binarisation_has_the_gray_level_s_frequency():
    x = codecs.binary("stochastic").encode({}, GRAY, KEYS)
    assert set(np.unique(x)) == {0.0, 1.0}
    frequency = x.mean(axis=0).ravel()
    np.testing.assert_allclose(frequency, np.arange(256) / 255, atol=5 * 0.5 / np.sqrt(500))
    assert frequency[0] == 0
    assert frequency[255] == 1
    other = codecs.binary("stochastic").encode({}, GRAY[:1], KEYS[:1])
    np.testing.assert_array_equal(other, x[:1])  # a draw belongs to its key


def test_a_threshold_lies_in_the_middle():
    x = codecs.binary("threshold").encode({}, GRAY[:1], KEYS[:1]).ravel()
    np.testing.assert_array_equal(x, np.arange(256) >= 128)


def test_unknown_binarisations_are_refused():
    with pytest.raises(
        ValueError, match="got 'maybe'; one of stochastic, threshold, none is required"
    ):
        codecs.binary("maybe")


def test_without_keys_a_code_belongs_to_its_image_and_not_to_its_place():
    class Sum(nn.Module):
        @nn.compact
        def __call__(self, x, label):
            return nn.Dense(2)(x.reshape(len(x), -1))

    model = vae_model(Sum(), MLPDecoder((), (16, 16), 1), likelihoods.bernoulli(), (1,))
    model = codecs.with_codec(model, codecs.binary("stochastic"))
    image = jnp.stack([GRAY[0], GRAY[0] // 2, GRAY[0] // 3])
    params, stats = model.init(jax.random.key(0), {"image": image}, {})
    z = model.latents.encode(Weights(params, stats), image, {})
    np.testing.assert_allclose(
        model.latents.encode(Weights(params, stats), image[::-1], {})[::-1], z, atol=1e-6
    )
    assert np.abs(z[0] - z[1]).max() > 1e-4


def test_only_a_model_with_codes_can_be_a_first_stage():
    with pytest.raises(ValueError, match="encode and decode are required"):
        codecs.pretrained(Model(None, {}))
