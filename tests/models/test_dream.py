"""VQGAN+CLIP: descent through codes, by cutouts, each image by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.models.dream import dream
from gen_jax.ops import keys as rng
from gen_jax.ops.cutouts import cutouts
from gen_jax.protocols import Latents, Matching, Weights

KEYS = rng.per_example(jax.random.key(0), 0, 3)
COLORS = jnp.array([[1.0, -1.0, -1.0], [-1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]])


def test_cutouts_are_whole_images_or_parts_of_them_each_by_its_key():
    x = jax.random.normal(jax.random.key(1), (3, 12, 8, 3))
    square = x[:, :8]
    whole = cutouts(KEYS, square, 4, 8, smallest=1.0, noise=0.0)
    np.testing.assert_allclose(whole, jnp.repeat(square[:, None], 4, axis=1), atol=1e-5)
    flat = cutouts(KEYS, jnp.broadcast_to(x[:, :1, :1], x.shape), 4, 6, noise=0.0)
    inside = flat[:, :, 1:-1, 1:-1]
    np.testing.assert_allclose(
        inside, jnp.broadcast_to(x[:, None, :1, :1], inside.shape), atol=1e-4
    )
    some = cutouts(KEYS, x, 5, 6)
    np.testing.assert_allclose(cutouts(KEYS[1:2], x[1:2], 5, 6)[0], some[1], atol=1e-6)
    assert np.std(np.asarray(some[0]).mean(axis=(1, 2, 3))) > 0  # they differ
    grads = jax.grad(lambda x: jnp.sum(cutouts(KEYS, x, 5, 6)))(x)
    assert np.isfinite(grads).all()
    assert (np.asarray(grads) != 0).mean() > 0.5


def by_color():
    def image(weights, x):
        mean = jnp.mean(x, axis=(1, 2)) + 1e-3
        return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)

    def text(weights, tokens):
        wanted = COLORS[tokens[:, 0]]
        return wanted / jnp.linalg.norm(wanted, axis=-1, keepdims=True)

    return Matching(image, text, lambda weights: jnp.ones(()))


def test_descent_makes_what_the_text_says_and_each_image_alone():
    # A first stage whose vectors are pixels of 2x2 places.
    pixels = Latents(lambda weights, z, cond: z, from_vectors=lambda weights, z: jnp.tanh(z))
    tokens = jnp.array([[0], [1], [2]])
    vectors = 0.1 * jax.random.normal(jax.random.key(2), (3, 4, 4, 3))

    @jax.jit
    def run(tokens, vectors, keys):
        options = {"side": 4, "steps": 40, "moments": 4, "num_cutouts": 4}
        return dream(pixels, Weights({}), by_color(), Weights({}), tokens, vectors, keys, **options)

    made = run(tokens, vectors, KEYS)
    assert made.way.shape == (3, 5, 4, 4, 3)
    np.testing.assert_array_equal(made.way[:, -1], made.x)
    assert (made.cosines[:, -1] > 0.9).all()
    assert (made.cosines[:, 0] < made.cosines[:, -1]).all()
    assert (jnp.sign(jnp.mean(made.x, axis=(1, 2))) == COLORS).all()
    none = Latents(lambda weights, z, cond: z)
    given = (Weights({}), by_color(), Weights({}), tokens, vectors, KEYS)
    with pytest.raises(ValueError, match="from_vectors, a VQ-VAE, is required"):
        dream(none, *given, side=4)
