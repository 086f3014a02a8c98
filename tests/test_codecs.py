import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import codecs
from gen_jax.ops import keys as rng

GREY = jnp.tile(jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1), (500, 1, 1, 1))
KEYS = rng.per_example(jax.random.key(0), 0, 500)


@pytest.mark.parametrize("codec", [codecs.rgb(), codecs.dequantize(), codecs.binary("none")])
def test_every_grey_level_comes_back(codec):
    again = codec.decode({}, codec.encode({}, GREY, KEYS))
    np.testing.assert_array_equal(again, GREY)


def test_noise_fills_each_level_s_bin_and_no_more():
    x = codecs.dequantize().encode({}, GREY, KEYS)
    low = GREY.astype(jnp.float32) / 128 - 1
    inside = (x - low) * 128
    assert float(inside.min()) >= 0
    assert float(inside.max()) <= 1
    assert float(inside.mean()) == pytest.approx(0.5, abs=0.01)
    # A uniform density over [-1, 1] is 1/256 a grey level.
    assert codecs.dequantize().log_scale + np.log(0.5) == pytest.approx(-np.log(256))


def test_stochastic_binarisation_has_the_grey_level_s_frequency():
    x = codecs.binary("stochastic").encode({}, GREY, KEYS)
    assert set(np.unique(x)) == {0.0, 1.0}
    frequency = x.mean(axis=0).ravel()
    np.testing.assert_allclose(frequency, np.arange(256) / 255, atol=5 * 0.5 / np.sqrt(500))
    assert frequency[0] == 0
    assert frequency[255] == 1
    other = codecs.binary("stochastic").encode({}, GREY[:1], KEYS[:1])
    np.testing.assert_array_equal(other, x[:1])  # a draw belongs to its key


def test_a_threshold_lies_in_the_middle():
    x = codecs.binary("threshold").encode({}, GREY[:1], KEYS[:1]).ravel()
    np.testing.assert_array_equal(x, np.arange(256) >= 128)


def test_unknown_binarisations_are_refused():
    with pytest.raises(ValueError, match="stochastic, threshold, none is needed, got 'maybe'"):
        codecs.binary("maybe")
