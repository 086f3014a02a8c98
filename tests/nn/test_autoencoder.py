import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nn.autoencoder import (
    Autoencoder,
    CodeDiscriminator,
    ConvDecoder,
    ConvEncoder,
    MLPDecoder,
    MLPEncoder,
)
from tests.weights import filled

X = jax.random.normal(jax.random.key(0), (3, 8, 8, 1))
CONV = {"channels": 8, "multipliers": (1, 2), "num_res_blocks": 1, "groups": 4}


def run(module, *inputs):
    return jax.jit(module.apply)(filled(module.init, *inputs), *inputs)


@pytest.mark.parametrize(
    ("encoder", "decoder", "code"),
    [
        (MLPEncoder((16,), 5), MLPDecoder((16,), (8, 8), 2), (5,)),
        (ConvEncoder(8, 5, **CONV), ConvDecoder(8, 2, **CONV), (4, 4, 5)),
        (
            ConvEncoder(8, 5, flat=True, attention=True, **CONV),
            ConvDecoder(8, 2, attention=True, **CONV),
            (5,),
        ),
    ],
)
def test_shapes_and_precision(encoder, decoder, code):
    z = run(encoder, X)
    assert z.shape == (3, *code)
    outputs = run(decoder, z)
    assert outputs.shape == (3, 8, 8, 2)
    half = run(decoder.clone(dtype=jnp.bfloat16), z)
    assert half.dtype == jnp.float32
    params = jax.eval_shape(decoder.clone(dtype=jnp.bfloat16).init, jax.random.key(0), z)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_a_grid_code_sees_its_own_place_first():
    """The encoder is convolutional: a change in a corner changes the far corner's code less."""
    encoder = ConvEncoder(16, 4, channels=8, multipliers=(1, 1), num_res_blocks=1, groups=8)
    x = jnp.zeros((1, 16, 16, 1))
    params = jax.jit(encoder.init)(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(jax.random.key(1), p.shape), params)
    apply = jax.jit(encoder.apply)
    change = apply(params, x.at[0, 0, 0].set(5.0)) - apply(params, x)
    size = jnp.abs(change).sum(axis=(0, 3))
    assert float(size[0, 0]) > 3 * float(size[-1, -1])


@pytest.mark.parametrize(
    "module",
    [
        MLPEncoder((16,), 5, num_classes=3),
        ConvEncoder(8, 5, num_classes=3, **CONV),
    ],
)
def test_labels_matter_and_must_be_there(module):
    x, label = X[:1], jnp.array([0])
    params, apply = filled(module.init, x, label), jax.jit(module.apply)
    outputs = [apply(params, x, jnp.array([c])) for c in (0, 1)]
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-4
    with pytest.raises(ValueError, match="label: missing with num_classes=3"):
        module.apply(params, x)
    plain = module.clone(num_classes=None)
    with pytest.raises(ValueError, match="label: not expected with num_classes=None"):
        plain.init(jax.random.key(0), x, label)


def test_impossible_shapes_are_refused_at_construction():
    with pytest.raises(ValueError, match="2 levels halve the image 1 times, but its side 7"):
        ConvEncoder(7, 5, **CONV)
    with pytest.raises(ValueError, match="groups: 5 does not divide the 8 channels"):
        ConvDecoder(8, 5, **(CONV | {"groups": 5}))


def test_both_halves_are_subtrees_of_one_network():
    network = Autoencoder(MLPEncoder((), 2), MLPDecoder((), (8, 8), 1))
    params = network.init(jax.random.key(0), X, jnp.zeros((1, 2)))["params"]
    assert set(params) == {"encoder", "decoder"}
    z = network.apply({"params": params}, X, method="encode")
    alone = MLPEncoder((), 2).apply({"params": params["encoder"]}, X)
    np.testing.assert_array_equal(z, alone)


def test_a_discriminator_gives_one_logit():
    assert run(CodeDiscriminator((8,)), jnp.zeros((3, 2))).shape == (3,)
