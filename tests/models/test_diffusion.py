import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax import diffusion as process
from gen_jax.codecs import rgb, with_codec
from gen_jax.models.diffusion import diffusion
from gen_jax.nn.unet import UNet
from gen_jax.ops import keys as rng
from gen_jax.protocols import LOCAL, Codec, Context, LogProb

SHAPE = (8, 8, 1)
KEYS = rng.per_example(jax.random.key(0), 0, 4)
FROZEN = {"codec": {}}
IMAGE = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, *SHAPE)), jnp.uint8)


def context(train=True):
    return Context(FROZEN, jnp.int32(0), LOCAL, train)


def make(num_classes=None, **options):
    network = UNet(
        resolution=8,
        out_channels=1,
        channels=8,
        multipliers=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(4,),
        groups=4,
        num_classes=num_classes,
    )
    return diffusion(
        network,
        process.linear_beta(20),
        process.epsilon,
        shape=SHAPE,
        num_steps=20,
        num_classes=num_classes,
        **options,
    )


@pytest.fixture(scope="module")
def trained():
    """A model on images, with parameters moved off zero."""
    model = with_codec(make(), rgb())
    params, stats = model.init(jax.random.key(0), {"image": IMAGE})
    params = jax.tree.map(lambda x: x + 0.02, params)
    return model, params, stats


def test_the_loss_starts_at_the_variance_of_the_noise():
    """A network that gives zero has E|eps|^2 = 1 a dimension."""
    model = make()
    params, stats = model.init(jax.random.key(0), {"x": jnp.zeros((4, *SHAPE))})
    keys = rng.per_example(jax.random.key(1), 0, 64)
    batch = {"x": jnp.zeros((64, *SHAPE))}
    value, _ = model.losses["diffusion"].fn(params, stats, batch, keys, context())
    assert float(value) == pytest.approx(1.0, abs=4 * np.sqrt(2 / 64**2))


def test_given_noise_is_used_and_padding_counts_nothing(trained):
    model, params, stats = trained
    fn = jax.jit(lambda b: model.losses["diffusion"].fn(params, stats, b, KEYS, context(False))[0])
    eps = jnp.ones((4, *SHAPE))
    assert float(fn({"image": IMAGE, "eps": eps})) != float(fn({"image": IMAGE, "eps": -eps}))
    weight = jnp.array([1.0, 1.0, 0.0, 0.0])
    other = IMAGE.at[2:].set(0)
    a, b = (fn({"image": image, "weight": weight}) for image in (IMAGE, other))
    assert float(a) == float(b)


def test_images_and_their_codes_are_the_same_batch(trained):
    model, params, stats = trained
    fn = model.losses["diffusion"].fn
    x = rgb().encode({}, IMAGE, KEYS)
    a, _ = fn(params, stats, {"image": IMAGE}, KEYS, context(False))
    b, _ = fn(params, stats, {"x": x}, KEYS, context(False))
    assert float(a) == float(b)


def test_samples_are_images_and_belong_to_their_keys(trained):
    model, params, stats = trained
    sample = jax.jit(lambda keys: model.sample(params, stats, keys, FROZEN, steps=5))
    images = sample(KEYS)
    assert images.dtype == jnp.uint8
    assert images.shape == (4, *SHAPE)
    np.testing.assert_allclose(sample(KEYS[2:]).astype(int), images[2:].astype(int), atol=1)


def test_default_steps_and_solvers(trained):
    model, params, stats = trained
    options = model.sample_options
    assert options["steps"].ok(20)
    assert not options["steps"].ok(21)
    results = [
        model.sample(params, stats, KEYS, FROZEN, **chosen)
        for chosen in ({}, {"solver": "ddpm"}, {"solver": "ddpm", "variance": "beta_tilde"})
    ]
    for a, b in ((0, 1), (1, 2)):
        assert (results[a] != results[b]).any()


def test_clipping_bounds_x_0():
    sharp = make(clip=True)
    params, stats = sharp.init(jax.random.key(0), {"x": jnp.zeros((4, *SHAPE))})
    params = jax.tree.map(lambda x: x + 0.3, params)
    bounded = sharp.sample(params, stats, KEYS, {}, steps=5)
    free = make(clip=False).sample(params, stats, KEYS, {}, steps=5)
    assert float(jnp.abs(bounded).max()) <= 1.0
    assert float(jnp.abs(free).max()) > 1.0


def test_conditions_reach_the_network():
    model = make(num_classes=3)
    batch = {"x": jnp.zeros((4, *SHAPE)), "label": jnp.array([0, 1, 2, 0])}
    params, stats = model.init(jax.random.key(0), batch)
    params = jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size).reshape(x.shape)), params)
    sample = jax.jit(lambda cond: model.sample(params, stats, KEYS, {}, cond, steps=3))
    a, b = sample(jnp.array([0, 0, 0, 0])), sample(jnp.array([0, 0, 2, 2]))
    np.testing.assert_allclose(a[:2], b[:2], atol=1e-5)
    assert float(jnp.abs(a[2:] - b[2:]).max()) > 1e-4


def test_rgb_is_exact_on_every_grey_level_and_clips():
    codec = rgb()
    image = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    x = codec.encode({}, image, KEYS[:1])
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    np.testing.assert_array_equal(codec.decode({}, x), image)
    np.testing.assert_array_equal(codec.decode({}, jnp.array([[-9.0, 9.0]])), [[0, 255]])


def test_densities_change_by_the_codec_s_scale():
    """A uniform density over [-1, 1] is one over 256 grey levels, 255 units wide."""
    codec: Codec = rgb()
    uniform = make()._replace(
        log_prob=lambda params, stats, batch, keys, frozen: LogProb(
            jnp.full(4, 64 * np.log(0.5)), jnp.zeros(4)
        )
    )
    model = with_codec(uniform, codec)
    nats = model.log_prob({}, {}, {"image": IMAGE}, KEYS, FROZEN).nats
    np.testing.assert_allclose(nats, -64 * np.log(255), rtol=1e-6)


def test_a_codec_without_density_leaves_one_over_x():
    model = make()._replace(log_prob=lambda *_: LogProb(jnp.array([1.5]), jnp.zeros(1)))
    batch = {"x": jnp.zeros((1, 8, 8, 1))}
    keys = rng.per_example(jax.random.key(0), 0, 1)
    for codec, nats in ((rgb()._replace(log_scale=None), 1.5), (rgb(), 1.5 - 64 * np.log(127.5))):
        wrapped = with_codec(model, codec)
        estimate = wrapped.log_prob({}, {}, batch, keys, {"codec": {}})
        assert float(estimate.nats[0]) == pytest.approx(nats, rel=1e-6)
        assert wrapped.over_pixels == (codec.log_scale is not None)
