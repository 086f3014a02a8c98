import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nn.pixelcnn import PixelCNN, _by_taps, _convolve


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 5), (3, 2)])
def test_both_ways_to_convolve_are_one(size):
    """On CPU a matrix product stands for the convolution that accelerators run."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (*size, 3, 5))
    a, b = (jax.jit(f)(x, kernel) for f in (_by_taps, _convolve))
    assert a.shape == (2, 5 - size[0], 7 - size[1], 5)
    np.testing.assert_allclose(a, b, atol=1e-5)
    grads = [
        jax.jit(jax.grad(lambda x, k, f=f: jnp.sum(jnp.sin(f(x, k))), argnums=(0, 1)))(x, kernel)
        for f in (_by_taps, _convolve)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), *grads)


def test_dropout_belongs_to_the_example():
    network = PixelCNN(3, (2, 3), width=6, depth=3, kernel=3, hidden=10, dropout=0.5)
    x = jnp.ones((4, 6), jnp.int32)
    keys = jax.random.split(jax.random.key(2), 4)
    variables = jax.jit(network.init)(jax.random.key(0), x)
    apply = jax.jit(lambda x, keys: network.apply(variables, x, None, (), keys))
    dropped = apply(x, keys)
    assert float(jnp.abs(dropped - network.apply(variables, x)).max()) > 0.01
    assert float(jnp.abs(dropped[0] - dropped[1]).max()) > 0.01
    np.testing.assert_allclose(apply(x[:2], keys[2:]), dropped[2:], atol=1e-5)
