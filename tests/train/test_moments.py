import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, strategies as st

from gen_jax.train.moments import in_16_bits, pack, unpack
from gen_jax.train.optimizers import adamw

pytestmark = pytest.mark.slow

# Within the range of both formats.
SIZES = st.floats(2.0**-59, 15.875, width=32)


@given(x=SIZES, sign=st.sampled_from([-1.0, 1.0]))
def test_rounding_is_to_nearest(x, sign):
    for signed, bits in ((True, 9), (False, 10)):
        value = jnp.float32(x * (sign if signed else 1.0))
        back = unpack(pack(value, signed=signed), signed=signed)
        assert abs(float(back) - float(value)) <= float(jnp.abs(value)) * 2.0 ** -(bits + 1)


@pytest.mark.parametrize("signed", [True, False])
def test_every_code_is_its_own_number(signed):
    codes = jnp.arange(2**16, dtype=jnp.uint16)
    magnitude = codes & 0x7FFF if signed else codes
    codes = codes[(magnitude == 0) | (magnitude >= 1 << (9 if signed else 10))]
    values = unpack(codes, signed=signed)
    assert bool(jnp.isfinite(values).all())
    np.testing.assert_array_equal(pack(values, signed=signed), codes)
    assert float(values.max()) == 16 * (1 - 2.0 ** (-10 if signed else -11))


def test_beyond_the_range():
    x = jnp.array([0.0, 1e-30, 20.0, jnp.inf, -1.0])
    np.testing.assert_array_equal(unpack(pack(x, signed=True), signed=True)[:2], [0, 0])
    np.testing.assert_allclose(unpack(pack(x, signed=True), signed=True)[2:4], 15.984375)
    assert float(unpack(pack(x, signed=True), signed=True)[4]) == -1.0
    assert float(unpack(pack(x, signed=False), signed=False)[4]) == 0.0


@pytest.mark.parametrize("signed", [True, False])
def test_stochastic_rounding_is_right_on_average(signed):
    x = jnp.full(100_000, 1.0 + 0.3 / (512 if signed else 1024))
    values = unpack(pack(x, jax.random.key(0), signed=signed), signed=signed)
    assert len(np.unique(values)) == 2
    ulp = 1 / (512 if signed else 1024)
    assert float(values.mean()) == pytest.approx(float(x[0]), abs=5 * ulp * 0.46 / 100_000**0.5)


def test_a_slow_mean_square_still_moves():
    """With b2 = 0.999, rounding to nearest would leave it where it is; bfloat16 too."""
    grads = {"w": jnp.full(1000, 0.9)}
    adam = in_16_bits(optax.scale_by_adam(0.9, 0.999))
    state = adam.init(grads)
    state = state._replace(nu={"w": pack(jnp.full(1000, 1.0), signed=False)})
    for _ in range(100):
        _, state = adam.update(grads, state)
    expected = 0.81 + 0.19 * 0.999**100
    mean = float(unpack(state.nu["w"], signed=False).mean())
    assert mean == pytest.approx(expected, abs=2e-3)


def test_half_the_bytes_and_nearly_the_same_steps():
    key = jax.random.key(0)
    params = {"w": jax.random.normal(key, (32, 32))}
    target = jax.random.normal(jax.random.fold_in(key, 1), (32, 32))
    ends = []
    for moments in ("float32", "16bit"):
        optimizer = adamw(1e-2, moments=moments)
        state, now = optimizer.init(params), params
        for _ in range(300):
            grads = jax.grad(lambda p: jnp.mean(jnp.square(p["w"] - target)))(now)
            updates, state = optimizer.update(grads, state, now)
            now = optax.apply_updates(now, updates)
        sizes = {x.dtype.itemsize for x in jax.tree.leaves(state) if x.shape == (32, 32)}
        assert sizes == {4 if moments == "float32" else 2}
        ends.append(float(jnp.mean(jnp.square(now["w"] - target))))
    assert ends[1] == pytest.approx(ends[0], rel=0.1, abs=1e-4)


def test_other_moments_are_refused():
    with pytest.raises(ValueError, match="moments: got '8bit'; one of float32, 16bit is required"):
        adamw(0.1, moments="8bit")
