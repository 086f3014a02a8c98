"""Forms for one platform have the numbers, and all derivatives, of the plain ones."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.launch.planning.cost import count_flops
from gen_jax.nn import lowering

pytestmark = pytest.mark.slow

PLAIN = "tpu"  # where XLA's own forms are left alone
RNG = np.random.default_rng(0)


def array(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def heads(causal):
    shapes = [(2, 6, 3, 4)] * 3 if causal else [(2, 6, 3, 4), (2, 5, 3, 4), (2, 5, 3, 4)]
    attend = functools.partial(lowering.attention, is_causal=causal)
    return attend, tuple(array(*shape) for shape in shapes)


def normalized():
    norm, x = lowering.GroupNorm(3), 4 + array(2, 3, 3, 6)
    variables = {"params": {"scale": array(6), "bias": array(6)}}
    return lambda x, scale: norm.apply({"params": {**variables["params"], "scale": scale}}, x), (
        x,
        variables["params"]["scale"],
    )


def convolved(size, channels, out, groups=1, strides=1, sides=(5, 4)):
    conv = lowering.Conv(
        out, (size, size), (strides, strides), feature_group_count=groups, use_bias=False
    )
    x, kernel = array(2, *sides, channels), array(size, size, channels // groups, out)
    return lambda x, kernel: conv.apply({"params": {"kernel": kernel}}, x), (x, kernel)


def doubled():
    return lowering.doubled, (array(2, 3, 4, 5), array(2, 2, 5, 2, 2, 3))


CASES = {
    "attention": lambda: heads(causal=False),
    "causal attention": lambda: heads(causal=True),
    "normalization": normalized,
    "pointwise": lambda: convolved(1, 4, 6),
    "small": lambda: convolved(3, 4, 6),
    "strided": lambda: convolved(4, 4, 6, strides=2),
    "strided, odd": lambda: convolved(3, 4, 6, strides=2),
    "wide": lambda: convolved(3, lowering._TAPS_FROM, 2),
    "of few pixels": lambda: convolved(3, 4, 6, sides=(2, 2)),
    "doubled": doubled,
    "depthwise": lambda: convolved(7, 4, 4, groups=4),
}


@pytest.mark.parametrize("name", CASES)
def test_numbers_and_derivatives_are_those_of_the_plain_form(name):
    apply, given = CASES[name]()
    aims = [array(*x.shape) for x in given]

    def derivatives(*given):
        """Value, gradient, forward derivative, and the gradient of the gradient's size."""

        def value(*given):
            return jnp.mean(jnp.sin(apply(*given)))

        def size(*given):
            grads = jax.grad(value, tuple(range(len(given))))(*given)
            return sum(jnp.sum(jnp.square(grad)) for grad in grads)

        out, along = jax.jvp(apply, given, tuple(aims))
        every = tuple(range(len(given)))
        return out, along, jax.grad(value, every)(*given), jax.grad(size, every)(*given)

    def compiled(platform):
        with lowering.target(platform):
            return jax.jit(derivatives).lower(*given).compile()(*given)

    fast, plain = compiled("cpu"), compiled(PLAIN)
    for a, b in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5 * max(scale, 1e-3))
        assert scale > 0


@pytest.mark.parametrize("name", ["attention", "wide"])
def test_a_batch_of_them_is_each_of_them(name):
    apply, given = CASES[name]()
    pairs = tuple(jnp.stack([x, 2 * x]) for x in given)
    with lowering.target("cpu"):
        batched = jax.jit(jax.vmap(jax.grad(lambda *g: jnp.sum(jnp.sin(apply(*g))))))(*pairs)
        each = [
            jax.grad(lambda *g: jnp.sum(jnp.sin(apply(*g))))(*(x[i] for x in pairs)) for i in (0, 1)
        ]
    np.testing.assert_allclose(batched, jnp.stack(each), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["attention", "wide", "pointwise"])
def test_operations_are_counted_alike(name):
    apply, given = CASES[name]()
    counted = []
    for platform in ("cpu", PLAIN):
        with lowering.target(platform):
            counted.append(count_flops(jax.make_jaxpr(apply)(*given).jaxpr))
    assert counted[0] == pytest.approx(counted[1])
    assert counted[0] > 0


def test_linen_s_parameters_and_numbers_are_ours():
    x = 100 + array(2, 4, 4, 6)
    ours, theirs = lowering.GroupNorm(2), nn.GroupNorm(2, use_fast_variance=False)
    variables = theirs.init(jax.random.key(0), x)
    assert jax.tree.structure(ours.init(jax.random.key(0), x)) == jax.tree.structure(variables)
    for platform in ("cpu", PLAIN):
        with lowering.target(platform):
            np.testing.assert_allclose(
                ours.apply(variables, x), theirs.apply(variables, x), atol=1e-4
            )
    half = lowering.GroupNorm(2, dtype=jnp.bfloat16)
    assert half.apply(variables, x).dtype == jnp.bfloat16


def test_the_platform_is_that_of_the_default_device():
    assert lowering.platform() == "cpu"
    with jax.default_device("cpu"):
        assert lowering.platform() == "cpu"
    with lowering.target("tpu"):
        assert lowering.platform() == "tpu"
    assert lowering.platform() == "cpu"


@pytest.mark.parametrize(
    ("length", "dim", "fits"),
    [(64, 64, True), (1024, 56, True), (77, 64, False), (64, 192, False), (64, 12, False)],
)
def test_fused_attention_is_asked_for_where_it_is_possible(length, dim, fits):
    """As an H200 took them (experiments/performance)."""
    x, found = jax.ShapeDtypeStruct((2, length, 4, dim), jnp.bfloat16), []
    jax.eval_shape(lambda x: found.append(lowering._fits_cudnn(x, x)), x)
    assert found == [fits]
    with lowering.target("gpu"):  # planned where there is none
        jax.eval_shape(lambda x: lowering.attention(x, x, x), x)


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_half_precision_is_kept_in_the_products_of_attention(platform):
    """Beside float32: numbers and gradients as near as 8 bits are, and no product in float32."""
    given = heads(causal=True)[1]
    half = tuple(x.astype(jnp.bfloat16) for x in given)

    def grads(*given):
        return jax.grad(
            lambda *x: jnp.sum(jnp.square(lowering.attention(*x, is_causal=True))), (0, 1, 2)
        )(*(x.astype(given[0].dtype) for x in given))

    with lowering.target(platform):
        made, exact = jax.jit(grads)(*half), jax.jit(grads)(*(jnp.float32(x) for x in half))
        text = jax.jit(grads).lower(*half).as_text()
    for a, b in zip(made, exact, strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_allclose(jnp.float32(a), b, atol=0.06 * float(jnp.abs(b).max()))
    products = re.findall(r"dot_general.*: \((.*?)\) ->", text)
    assert products
    assert not [x for x in products if "f32" in x]
