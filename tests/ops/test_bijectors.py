"""Each bijector beside the Jacobian of what it does, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.ops import bijectors

KEY = jax.random.key(0)
VECTORS = 0.7 * jax.random.normal(KEY, (3, 5))
IMAGES = 0.7 * jnp.tanh(jax.random.normal(KEY, (3, 4, 4, 2)))
TOKENS = jax.random.normal(KEY, (3, 4, 2))


def dense(scale=0.5):
    """A network of one layer, along the last axis."""

    def init(key, kept, num, told):
        del told
        return scale * jax.random.normal(key, (kept.shape[-1], num))

    return bijectors.Conditioner(
        init, lambda params, kept, num, told: jnp.einsum("...i,ij->...j", jnp.tanh(kept), params)
    )


def causal():
    """A network of one layer, from the sum of the tokens before."""

    def init(key, x, told):
        del told
        return 0.5 * jax.random.normal(key, (x.shape[-1], 2 * x.shape[-1]))

    def apply(params, x, told):
        del told
        before = jnp.cumsum(x, axis=1) - x
        return jnp.tanh(jnp.einsum("bti,ij->btj", before, params))

    def begin(params, batch, told):
        del told
        return jnp.zeros((batch, len(params)))

    def step(params, state, token, index, told):
        del told
        state = jnp.where(index > 0, state + token, state)
        return jnp.tanh(state @ params), state

    return bijectors.Autoregression(init, apply, begin, step)


def turned(index, size):
    return jax.tree.map(lambda x: jnp.asarray(x)[index], bijectors.rotations(3, size, seed=1))


def several(index):
    return bijectors.chain(
        bijectors.actnorm(),
        bijectors.linear(turned(index, 5)),
        bijectors.coupling(dense(), bijectors.rational_quadratic(4)),
    )


CHECKERED = np.indices((4, 4)).sum(0)[..., None] % 2
CASES = {
    "actnorm": (bijectors.actnorm(), IMAGES),
    "linear": (bijectors.linear(turned(0, 2)), IMAGES),
    "squeeze": (bijectors.squeeze(), IMAGES),
    "tokens": (bijectors.tokens(4, 4), IMAGES),
    "permutation": (bijectors.permutation([2, 0, 3, 1], axis=1), TOKENS),
    "logit": (bijectors.logit(), IMAGES),
    "affine": (bijectors.coupling(dense(), bijectors.affine()), IMAGES),
    "affine, bounded": (bijectors.coupling(dense(), bijectors.affine(1.5)), VECTORS),
    "spline": (bijectors.coupling(dense(), bijectors.rational_quadratic(5, 1.0)), VECTORS),
    "mixture": (bijectors.coupling(dense(), bijectors.logistic_mixture(3)), VECTORS),
    "masked": (bijectors.coupling(dense(), bijectors.affine(), CHECKERED), IMAGES),
    "of tokens": (bijectors.coupling(dense(), bijectors.affine(), axis=1), TOKENS),
    "autoregressive": (bijectors.autoregressive(causal()), TOKENS),
    "repeated": (bijectors.repeated(several, 3), VECTORS),
    "inverted": (bijectors.inverted(bijectors.logit()), IMAGES),
    "split": (
        bijectors.chain(bijectors.squeeze(), bijectors.split(bijectors.actnorm())),
        IMAGES,
    ),
}


def flat(tree):
    """Give all numbers of each example, [batch, N]."""
    return jnp.concatenate([jnp.reshape(x, (len(x), -1)) for x in jax.tree.leaves(tree)], axis=1)


@pytest.mark.parametrize("name", CASES)
def test_log_determinants_are_those_of_the_jacobian_and_the_way_back_is_exact(name):
    bijector, x = CASES[name]

    @jax.jit
    def both(key, x):
        params = bijector.init(key, x, {})
        params = jax.tree.map(
            lambda p: p + 0.1 * jnp.sin(jnp.arange(p.size).reshape(p.shape)), params
        )
        y, log_det = bijector.forward(params, x, {})
        again, back = bijector.inverse(params, y, {})

        def one(x):
            return flat(bijector.forward(params, x[None], {})[0])[0]

        jacobian = jax.vmap(jax.jacfwd(one))(x)
        return y, log_det, again, back, jacobian.reshape(len(x), flat(x).shape[1], -1)

    y, log_det, again, back, jacobian = both(KEY, x)
    assert flat(y).shape == flat(x).shape
    _, expected = np.linalg.slogdet(np.asarray(jacobian, np.float64))
    np.testing.assert_allclose(log_det, expected, atol=2e-4)
    np.testing.assert_allclose(back, -log_det, atol=2e-4)
    np.testing.assert_allclose(again, x, atol=2e-5)


def test_actnorm_begins_with_the_batch_s_own_moments():
    x = 5 + 3 * jax.random.normal(KEY, (64, 3, 3, 2))
    bijector = bijectors.actnorm()
    y, _ = bijector.forward(bijector.init(KEY, x, {}), x, {})
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, atol=1e-5)


def test_rotations_are_rotations():
    bijector = bijectors.linear(turned(2, 5))
    params = bijector.init(KEY, VECTORS, {})
    y, log_det = bijector.forward(params, VECTORS, {})
    np.testing.assert_allclose(
        jnp.linalg.norm(y, axis=1), jnp.linalg.norm(VECTORS, axis=1), rtol=1e-5
    )
    np.testing.assert_allclose(log_det, 0, atol=1e-5)
    # What training must not move is no parameter.
    assert set(params) == {"lower", "upper", "log_diagonal"}
    with pytest.raises(ValueError, match="5 is required"):
        bijector.init(KEY, IMAGES, {})


def test_as_many_rounds_as_tokens_are_the_way_back():
    bijector = bijectors.autoregressive(causal())
    params = bijector.init(KEY, TOKENS, {})
    y, log_det = bijector.forward(params, TOKENS, {})
    x, back = bijector.inverse(params, y, {"jacobi": 4})
    np.testing.assert_allclose(x, TOKENS, atol=1e-5)
    np.testing.assert_allclose(back, -log_det, atol=1e-5)
    few, _ = bijector.inverse(params, y, {"jacobi": 2})
    np.testing.assert_allclose(few[:, :2], TOKENS[:, :2], atol=1e-5)  # exact so far
    assert float(jnp.abs(few - TOKENS).max()) > 1e-3


def test_splines_of_zeros_and_outside_of_their_interval_are_the_identity():
    spline, x = bijectors.rational_quadratic(4, 2.0), jnp.linspace(-4, 4, 33)
    y, slope = spline.forward(jnp.zeros((33, spline.num)), x)
    np.testing.assert_allclose(y, x, atol=1e-5)
    np.testing.assert_allclose(slope, 0, atol=1e-4)
    params = jax.random.normal(KEY, (33, spline.num))
    y, _ = spline.forward(params, x)
    np.testing.assert_array_equal(y[jnp.abs(x) >= 2], x[jnp.abs(x) >= 2])
    # Of one function: monotone, and continuous at the ends.
    y, _ = spline.forward(jnp.broadcast_to(params[:1], params.shape), x)
    assert (jnp.diff(y) > 0).all()


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="margin"):
        bijectors.logit(0.5)
    with pytest.raises(ValueError, match="num"):
        bijectors.repeated(several, 0)
    odd = bijectors.coupling(dense(), bijectors.affine(), axis=1)
    with pytest.raises(ValueError, match="an even one"):
        odd.init(KEY, TOKENS[:, :3], {})
