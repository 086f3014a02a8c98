"""An autoencoder's adversary: the weight beside brute force, starts, engines, and what stays."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.models.adversary import Adversary, with_adversary
from gen_jax.models.dvae import dvae_model
from gen_jax.models.vae import vae_model
from gen_jax.models.vqvae import vqvae_model
from gen_jax.nn.autoencoder import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder
from gen_jax.nn.dvae import DVAEDecoder, DVAEEncoder
from gen_jax.nn.gan import PatchDiscriminator
from gen_jax.nn.hierarchy import Hierarchy
from gen_jax.ops import adversarial, keys as rng, likelihoods, quantizers
from gen_jax.protocols import LOCAL, Context, Weights
from gen_jax.train.engines import make_engine
from gen_jax.train.sharding import make_mesh
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

SHAPE = (8, 8, 3)
LIKELIHOOD = likelihoods.gaussian("fixed", 0.0)
DISC = PatchDiscriminator((8,), groups=0)
KEYS = rng.per_example(jax.random.key(0), 0, 8)
BATCH = {"x": jnp.tanh(rng.normal(KEYS, SHAPE))}


def vqvae():
    network = Hierarchy(3, factors=(2,), dims=(4,), channels=8, hidden=4, num_blocks=1)
    return vqvae_model(network, (quantizers.vector(8, 4),), LIKELIHOOD, SHAPE)


def kl_autoencoder():
    conv = {"channels": 8, "multipliers": (1, 2), "num_res_blocks": 1, "groups": 4}
    encoder, decoder = ConvEncoder(8, 4, **conv), ConvDecoder(8, 3, **conv)
    return vae_model(encoder, decoder, LIKELIHOOD, (4, 4, 2), standardize=True)


def mlp():
    encoder, decoder = MLPEncoder((8,), 4), MLPDecoder((8,), (8, 8), 3)
    return vae_model(encoder, decoder, LIKELIHOOD, (2,))


def dvae():
    shared = {"hidden": 8, "num_groups": 2, "num_blocks": 1}
    encoder, decoder = DVAEEncoder(6, **shared), DVAEDecoder(6, 3, 4, **shared)
    return dvae_model(encoder, decoder, LIKELIHOOD, (4, 4), 6)


CASES = {
    "VQ-VAE": (vqvae, r"^up/double_0/phases$"),
    "KL autoencoder": (kl_autoencoder, r"^decoder/head$"),
    "VAE of dense layers": (mlp, r"^decoder/dense_1$"),
    "dVAE": (dvae, r"^head$"),
}


def made(name="VQ-VAE", **options):
    base, last = CASES[name]
    mean = LIKELIHOOD.mean
    if name == "VAE of dense layers":  # whose last layer gives a vector
        mean = lambda outputs: outputs.reshape(-1, *SHAPE)  # noqa: E731
    return base(), with_adversary(base(), DISC, Adversary(last, mean, **options))


def context(step=0, across=LOCAL):
    return Context(jnp.int32(step), across, train=True)


def weights_of(model):
    params, stats = jax.jit(model.init)(jax.random.key(0), BATCH, {})
    # Off zero: layers that start there would leave no gradient.
    params = jax.tree.map(lambda x: x + 0.02 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), params)
    return Weights(params, stats)


def kernel_at(params, path):
    for name in path:
        params = params[name]
    return params["kernel"]


PATHS = {
    "VQ-VAE": ("net", "network", "up", "double_0", "phases"),
    "KL autoencoder": ("net", "decoder", "head"),
    "VAE of dense layers": ("net", "decoder", "dense_1"),
    "dVAE": ("net", "decoder", "head"),
}


@pytest.mark.parametrize(
    "name",
    [
        "VQ-VAE",
        "VAE of dense layers",
        pytest.param("KL autoencoder", marks=pytest.mark.nightly),
        pytest.param("dVAE", marks=pytest.mark.nightly),
    ],
)
def test_weight_value_and_gradient_are_those_of_brute_force(name):
    """Two backward passes through everything, as in the paper's code."""
    base, model = made(name, weight=0.7)
    weights = weights_of(model)
    (loss,) = (model.losses[n] for n in model.losses if n != "disc")
    (plain,) = base.losses.values()

    def value(net, fn):
        return fn(weights._replace(params={**weights.params, "net": net}), BATCH, KEYS, context())

    def adverse(net):
        """The adversarial loss of the images themselves."""
        seen = []

        def look(call, args, kwargs, info):
            out = call(*args, **kwargs)
            if "/".join(info.module.path) == CASES[name][1].strip("^$"):
                seen.append(out)
            return out

        with nn.intercept_methods(look):
            value(net, plain.fn)
        x = seen[0].reshape(-1, *SHAPE)
        logits = DISC.apply({"params": weights.params["disc"]}, x)
        return -jnp.mean(logits)

    def reconstruction(net):
        """What depends on the outputs: of the last kernel's gradient, all."""
        return value(net, plain.fn)[0]

    @jax.jit
    def brute(net):
        grads = jax.grad(reconstruction)(net), jax.grad(adverse)(net)
        kernels = [kernel_at({"net": grad}, PATHS[name]) for grad in grads]
        weight = adversarial.adaptive_weight(*kernels)
        total = jax.tree.map(lambda a, b: a + 0.7 * weight * b, *grads)
        return weight, reconstruction(net) + 0.7 * weight * adverse(net), total

    @jax.jit
    def ours(net):
        (total, aux), grads = jax.value_and_grad(value, has_aux=True)(net, loss.fn)
        return aux.metrics["weight"], total, grads

    net = weights.params["net"]
    for a, b in zip(jax.tree.leaves(ours(net)), jax.tree.leaves(brute(net)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * max(1, float(jnp.abs(b).max())))
    assert float(brute(net)[0]) > 0


def test_before_its_start_the_adversary_changes_nothing():
    """Bit for bit, whatever it is; and the step is the autoencoder's own."""
    base, model = made(gen_from=5, disc_from=3)
    weights = weights_of(model)
    grad = jax.jit(
        lambda net, disc, step: jax.grad(
            lambda net: model.losses["vq"].fn(
                weights._replace(params={"net": net, "disc": disc}), BATCH, KEYS, context(step)
            )[0]
        )(net)
    )
    net, disc = weights.params["net"], weights.params["disc"]
    other = jax.tree.map(lambda x: 3 * x + 1, disc)
    for a, b in zip(*(jax.tree.leaves(grad(net, d, 4)) for d in (disc, other)), strict=True):
        np.testing.assert_array_equal(a, b)
    own = jax.jit(jax.grad(
        lambda net: base.losses["vq"].fn(
            Weights({"net": net}, {"net": weights.stats["net"]}), BATCH, KEYS, context(4)
        )[0]
    ))(net)  # fmt: skip
    for a, b in zip(jax.tree.leaves(grad(net, disc, 4)), jax.tree.leaves(own), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    later = (jax.tree.leaves(grad(net, d, 5)) for d in (disc, other))
    assert any((a != b).any() for a, b in zip(*later, strict=True))


def test_the_discriminator_is_trained_first_and_its_loss_rises():
    _, model = made(disc_from=2, gen_from=4, ramp=4, lecam=0.1)
    sgd = {"net": optax.sgd(1e-3), "disc": optax.sgd(1e-2)}
    state = init_state(model, sgd, jax.random.key(0), BATCH)
    assert set(state.ema_params) == {"net"}
    first = state.params["disc"]
    step = jax.jit(make_train_step(model, sgd))
    weights, moved = [], []
    for _ in range(8):
        state, metrics = step(state, {}, BATCH, jax.random.key(1))
        weights.append(float(metrics["vq/adversarial"]) != 0)
        same = jax.tree.map(lambda a, b: bool((a == b).all()), state.params["disc"], first)
        moved.append(not all(jax.tree.leaves(same)))
    assert moved == [False] * 2 + [True] * 6
    assert weights == [False] * 4 + [True] * 4
    assert float(state.stats["disc"]["real"]) != 0
    assert np.isfinite(float(metrics["disc/game"]))


def test_the_weight_is_of_the_global_batch_on_every_engine():
    _, model = made("VAE of dense layers", weight=0.7)
    sgd = {"net": optax.sgd(1e-2), "disc": optax.sgd(1e-2)}
    results = {}
    for name, devices in (("jit", 1), ("shard_map", 2), ("pmap", 8)):
        mesh = make_mesh(devices=jax.devices()[:devices])
        engine = make_engine(name, model, sgd, mesh)
        key, batch = engine.key(0), engine.put({"x": np.asarray(BATCH["x"])})
        state = engine.init(key, batch, {})
        step = engine.compile(state, {}, batch, key)
        state, metrics = step(state, {}, batch, key)
        results[devices] = jax.device_get((metrics, state.params))
    for devices in (2, 8):
        for a, b in zip(
            jax.tree.leaves(results[devices]), jax.tree.leaves(results[1]), strict=True
        ):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_a_perceptual_loss_needs_its_network():
    _, model = made(perceptual="alexnet", gen_from=100)
    weights = weights_of(model)
    with pytest.raises(ValueError, match="frozen: 'perceptual'"):
        model.losses["vq"].fn(weights, BATCH, KEYS, context())


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"game": "paired"}, "game"),
        ({"perceptual": "resnet"}, "perceptual"),
        ({"disc_from": 5}, "gen_from"),
        ({"weight": -1.0}, "weight"),
    ],
)
def test_what_does_not_go_together_is_refused(given, fault):
    with pytest.raises(ValueError, match=fault):
        made(**given)


def test_the_last_layer_must_be_one():
    for last in ("nowhere", "phases|conv"):
        model = with_adversary(vqvae(), DISC, Adversary(last, LIKELIHOOD.mean))
        with pytest.raises(ValueError, match="of one is required"):
            model.losses["vq"].fn(weights_of(model), BATCH, KEYS, context())


def test_a_perceptual_loss_alone_has_no_discriminator():
    given = Adversary(CASES["VQ-VAE"][1], LIKELIHOOD.mean, perceptual="alexnet")
    model = with_adversary(vqvae(), None, given)
    assert set(model.losses) == {"vq"}
    assert set(weights_of(model).params) == {"net"}
    with pytest.raises(ValueError, match="frozen: 'perceptual'"):
        model.losses["vq"].fn(weights_of(model), BATCH, KEYS, context())
    with pytest.raises(ValueError, match="given.perceptual is required"):
        with_adversary(vqvae(), None, given._replace(perceptual=None))
