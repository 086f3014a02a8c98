"""SinGAN: scales, one chain, and what its samples are."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.launch.commands.singan import scales_of, train_singan
from gen_jax.models.singan import Chain, Patches, reconstruct_chain, sample_chain


def test_scales_grow_to_the_picture():
    sides = scales_of((48, 72), coarsest=18)
    assert sides[-1] == (48, 72)
    assert min(sides[0]) in range(14, 19)
    assert all(a[0] < b[0] and a[1] < b[1] for a, b in itertools.pairwise(sides))
    assert scales_of((12, 12), coarsest=18) == ((12, 12),)


@pytest.mark.nightly  # a program for each scale
def test_a_chain_makes_its_picture_and_others():
    rows, columns = np.indices((12, 16))
    image = jnp.asarray(np.sin(rows / 2)[..., None] * np.cos(columns / 3)[..., None], jnp.float32)
    seen = []
    made = train_singan(
        jax.random.key(0), image, steps=50, channels=8, coarsest=9,
        progress=lambda *at: seen.append(at),
    )  # fmt: skip
    assert made.sides == ((9, 12), (12, 16))
    assert seen[-1][0] == seen[-1][1] == 100
    again = reconstruct_chain(made.network, made.chain, made.sides)
    plain = float(jnp.mean(jnp.square(image)))
    assert float(jnp.mean(jnp.square(again - image))) < 0.3 * plain
    draw = jax.jit(made.sample, static_argnums=1)
    one, two = (draw(jax.random.key(i)) for i in range(2))
    assert float(jnp.abs(one - two).mean()) > 0.01
    np.testing.assert_array_equal(one, draw(jax.random.key(0)))
    assert draw(jax.random.key(0), (12, 24)).shape == (12, 24, 1)


def test_a_chain_of_generators_that_change_nothing_adds_up_what_it_is_given():
    network, sides = Patches(1, 4), ((4, 4), (8, 8))
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))["params"]
    still = jax.tree.map(jnp.zeros_like, params)
    chain = Chain((still, still), (jnp.float32(1), jnp.float32(0.1)), jnp.ones((4, 4, 1)))
    np.testing.assert_array_equal(reconstruct_chain(network, chain, sides), 0)
    biased = {**still, "out": {**still["out"], "bias": jnp.ones(1)}}
    chain = chain._replace(generators=(biased, biased))
    made = sample_chain(network, chain, jax.random.key(0), ((4, 6), (8, 12)))
    np.testing.assert_allclose(made, jnp.full((8, 12, 1), 2 * np.tanh(1.0)), rtol=1e-5)
