import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nn.conditioning import CodesAbove, grid_of
from gen_jax.nn.hierarchy import Double
from tests.weights import filled


def test_doubling_is_a_transposed_convolution():
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
    double = Double(6, jnp.float32)
    params = double.init(jax.random.key(1), x)["params"]["phases"]
    # [row and column of the neighbourhood, in, row and column of the phase, out]
    taps = np.asarray(params["kernel"]).reshape(2, 2, 4, 2, 2, 6)
    kernel = np.zeros((4, 4, 4, 6), np.float32)
    for a in (0, 1):
        for b in (0, 1):
            for u in (0, 1):
                for v in (0, 1):
                    kernel[a + 2 * u, b + 2 * v] = taps[u, v, :, a, b]
    # Output row 2 i + a reads input rows i - 1 + a + u, at 2 (i - 1 + a + u) of the dilated input:
    # a - 2 + 2 u from the output, which is tap a + 2 u of a kernel that begins two rows before it.
    expected = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    np.testing.assert_allclose(double.apply({"params": {"phases": params}}, x), expected, atol=1e-5)


def test_shapes_are_read_as_rows_columns_and_tokens():
    assert grid_of((7,)) == (1, 7, 1)
    assert grid_of((3, 4)) == (3, 4, 1)
    assert grid_of((3, 4, 2)) == (3, 4, 2)
    with pytest.raises(
        ValueError, match=r"got \(1, 2, 3, 4\); one to three sizes from 1 are required"
    ):
        grid_of((1, 2, 3, 4))


def test_coarser_codes_lie_above_finer_ones():
    module = CodesAbove((4, 6), (5, 3), width=8, num_blocks=0)
    above = (jnp.zeros((1, 2, 3), jnp.int32), jnp.zeros((1, 1, 3, 2), jnp.int32))
    variables, apply = filled(module.init, above), jax.jit(module.apply)
    base = apply(variables, above)
    assert base.shape == (1, 4, 6, 8)
    changed = apply(variables, (above[0].at[0, 1, 2].set(4), above[1]))
    moved = np.asarray(jnp.abs(changed - base).max(axis=(0, 3)) > 1e-6)
    # A 2x2 block, seen by a 3x3 convolution.
    assert not moved[0].any()
    assert not moved[:, :3].any()
    assert moved[1:, 3:].all()
    # Levels at one place have tables of their own.
    swapped = [
        module.apply(variables, (above[0], above[1].at[0, 0, 0].set(jnp.array(pair))))
        for pair in ([1, 2], [2, 1])
    ]
    assert float(jnp.abs(swapped[0] - swapped[1]).max()) > 1e-4
    with pytest.raises(ValueError, match="4x6 is no multiple of a coarser grid's 3x6"):
        module.apply(variables, (jnp.zeros((1, 3, 6), jnp.int32), above[1]))
