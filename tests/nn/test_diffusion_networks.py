"""The options of the U-Net, cross-attention, and the diffusion transformer."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.nn.blocks import AttentionBlock, ConvNeXtBlock, ResBlock
from gen_jax.nn.classifier import Classifier
from gen_jax.nn.dit import DiT, _from_patches, _to_patches, grid_positions
from gen_jax.nn.embeddings import sinusoidal
from gen_jax.nn.lowering import GroupNorm
from gen_jax.nn.unet import UNet
from gen_jax.ops import keys as rng
from tests.nn.test_unet import KEYS, TINY, T, X, count
from tests.weights import begun, filled

pytestmark = pytest.mark.slow

CONTEXT = rng.normal(KEYS, (5, 6))
OPTIONS = {
    "adaptive": {"adaptive": True},
    "blocks": {"resample": "blocks"},
    "convnext": {"block": "convnext"},
    "convnext adaptive blocks": {"block": "convnext", "adaptive": True, "resample": "blocks"},
    "gelu": {"activation": "gelu"},
    "head_dim": {"head_dim": 4},
    "scale_skips": {"scale_skips": True},
    "no middle": {"middle_attention": False},
    "centered": {"centered": True},
    "context": {"context_dim": 6, "num_heads": 2},
    "context twice": {"context_dim": 6, "context_depth": 2},
}
ONE_LEVEL = {"multipliers": (1,), "attention_resolutions": (8,)}
DIT = DiT(resolution=8, out_channels=1, width=16, depth=2, num_heads=2, dropout=0.2)


def test_the_papers_networks_have_the_papers_parameters():
    """Dhariwal & Nichol 2021: 296M at 64 x 64, 559M at 512 x 512; Peebles & Xie 2023: 675M;
    Rombach et al. 2022: 860M."""
    x, t, label = jnp.zeros((1, 64, 64, 3)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    adm = UNet(
        resolution=64,
        out_channels=6,
        channels=192,
        multipliers=(1, 2, 3, 4),
        num_res_blocks=3,
        attention_resolutions=(32, 16, 8),
        head_dim=64,
        adaptive=True,
        resample="blocks",
        num_classes=1000,
    )
    assert count(adm, x, t, label) == 295_904_454
    widest = adm.clone(
        resolution=512, channels=256, multipliers=(0.5, 1, 1, 2, 2, 4, 4), num_res_blocks=2
    )
    assert count(widest, jnp.zeros((1, 512, 512, 3)), t, label) == 558_997_638
    dit = DiT(resolution=32, out_channels=8, width=1152, depth=28, num_heads=16, num_classes=1001)
    # Their 675,129,632 count the fixed table of positions, 256 x 1152, as well.
    assert count(dit, jnp.zeros((1, 32, 32, 4)), t, label) == 675_129_632 - 256 * 1152
    latent = UNet(
        resolution=64,
        out_channels=4,
        channels=320,
        multipliers=(1, 2, 4, 4),
        attention_resolutions=(64, 32, 16),
        num_heads=8,
        context_dim=768,
    )
    shapes = jnp.zeros((1, 64, 64, 4)), t, None, None, jnp.zeros((1, 77, 768))
    assert count(latent, *shapes) == 859_520_964


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_starts_at_zero_and_each_example_stands_alone(name):
    options = OPTIONS[name]
    levels = {} if "resample" in options or name == "scale_skips" else ONE_LEVEL
    network = UNet(**{**TINY, **levels, **options})
    extra = (None, None, CONTEXT) if "context_dim" in OPTIONS[name] else ()
    apply = jax.jit(network.apply)
    variables = begun(network, ["conv_out"], X, T, *extra)  # whatever stands before it
    np.testing.assert_array_equal(apply(variables, X, T, *extra), 0.0)
    variables = filled(network.init, X, T, *extra)
    together = apply(variables, X, T, *extra)
    assert together.shape == X.shape
    changed = apply(variables, X.at[0].set(3.0), T, *extra)
    np.testing.assert_allclose(changed[1:], together[1:], atol=2e-5)
    assert float(jnp.abs(changed[0] - together[0]).max()) > 1e-3
    assert float(jnp.abs(apply(variables, X, T[::-1], *extra) - together).max()) > 1e-3


def test_options_do_what_they_say():
    plain = count(UNet(**TINY), X, T)
    # The embedding of every block gives two numbers a channel in place of one.
    assert count(UNet(**TINY, adaptive=True), X, T) > plain
    assert count(UNet(**TINY, head_dim=4), X, T) == plain
    assert count(UNet(**TINY, middle_attention=False), X, T) < plain
    variables = filled(UNet(**TINY).init, X, T)
    for change in ({"scale_skips": True}, {"activation": "gelu"}, {"centered": True}):
        a, b = (jax.jit(UNet(**{**TINY, **c}).apply)(variables, X, T) for c in ({}, change))
        assert float(jnp.abs(a - b).max()) > 1e-4, change


def test_the_sequence_matters_and_its_order_does_not():
    network = UNet(**{**TINY, "context_dim": 6, "num_heads": 2})
    variables = filled(network.init, X, T, None, None, CONTEXT)
    apply = jax.jit(lambda context: network.apply(variables, X, T, None, None, context))
    out = apply(CONTEXT)
    np.testing.assert_allclose(apply(CONTEXT[:, ::-1]), out, atol=1e-5)
    changed = apply(CONTEXT.at[0, 2].add(1.0))
    assert float(jnp.abs(changed[0] - out[0]).max()) > 1e-4
    np.testing.assert_allclose(changed[1:], out[1:], atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block": "vit"}, "block: got 'vit'; one of resnet, convnext is required"),
        ({"resample": "pool"}, "resample: got 'pool'; one of conv, blocks"),
        ({"head_dim": 3}, "head_dim: 3 does not divide the 16 channels"),
        ({"activation": "swish"}, "activation: got 'swish'; one of"),
        (
            {"context_dim": 4, "middle_norm": False},
            "middle_norm: True is required with context_dim",
        ),
        (
            {"context_dim": 4, "scale_skips": True},
            "scale_skips: False is required with context_dim",
        ),
    ],
)
def test_impossible_options_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{**TINY, **change})


def test_a_sequence_is_needed_if_and_only_if_the_network_has_room():
    network = UNet(**{**TINY, "context_dim": 6})
    with pytest.raises(ValueError, match="context: missing with context_dim=6"):
        network.init(jax.random.key(0), X, T)
    with pytest.raises(ValueError, match="context: not expected"):
        UNet(**TINY).init(jax.random.key(0), X, T, None, None, CONTEXT)


@pytest.mark.parametrize("block", [ResBlock, ConvNeXtBlock])
@pytest.mark.parametrize(("how", "side"), [("down", 4), ("up", 16), ("", 8)])
def test_blocks_start_as_resampling_and_nothing_else(block, how, side):
    x = jnp.tile(X, (1, 1, 1, 8))
    module = block(8, 4, 0.0, resample=how)
    embedding = rng.normal(KEYS, (4,))
    begin = jax.jit(lambda: module.init_with_output(jax.random.key(0), x, embedding, None)[0])
    out = begin()
    assert out.shape == (3, side, side, 8)
    np.testing.assert_allclose(out.mean(), x.mean(), atol=1e-5)
    if how == "":
        np.testing.assert_allclose(out, x, atol=1e-6)


class TestDiT:
    def test_patches_come_back(self):
        x = rng.normal(KEYS, (8, 8, 3))
        patches = _to_patches(x, 2)
        assert patches.shape == (3, 16, 12)
        np.testing.assert_array_equal(_from_patches(patches, 2, 4), x)
        np.testing.assert_array_equal(patches[:, 1], x[:, :2, 2:4].reshape(3, -1))

    def test_positions_tell_rows_from_columns(self):
        table = grid_positions(4, 16)
        assert table.shape == (16, 16)
        assert len(np.unique(table.round(5), axis=0)) == 16
        np.testing.assert_array_equal(table[:4, 8:], table[[0, 0, 0, 0], 8:])  # one row

    def test_it_starts_at_zero_and_every_pixel_reaches_every_other(self):
        apply = jax.jit(DIT.apply)
        np.testing.assert_array_equal(apply(begun(DIT, ["out"], X, T), X, T), 0.0)
        variables = filled(DIT.init, X, T)
        together = apply(variables, X, T)
        changed = apply(variables, X.at[0].set(3.0), T)
        np.testing.assert_allclose(changed[1:], together[1:], atol=1e-5)
        slope = jax.jit(jax.grad(lambda x: apply(variables, x[None], T[:1])[0, 0, 0, 0]))(X[0])
        assert (np.abs(slope) > 0).all()
        assert float(jnp.abs(apply(variables, X, T[::-1]) - together).max()) > 1e-3

    def test_labels_dropout_and_remat(self):
        network = DiT(resolution=8, out_channels=1, width=16, depth=2, num_heads=2, num_classes=3)
        label = jnp.array([0, 1, 2])
        variables = filled(network.init, X, T, label)
        apply = jax.jit(network.apply)
        out, other = (apply(variables, X, T, classes) for classes in (label, label[::-1]))
        np.testing.assert_allclose(out[1], other[1], atol=1e-5)
        assert float(jnp.abs(out[0] - other[0]).max()) > 1e-4
        with pytest.raises(ValueError, match="label: missing"):
            network.apply(variables, X, T)
        with pytest.raises(ValueError, match="context: not expected"):
            network.apply(variables, X, T, label, None, CONTEXT)
        variables = filled(DIT.init, X, T)
        apply = jax.jit(DIT.apply)
        dropped = [apply(variables, X, T, None, keys) for keys in (KEYS, KEYS, None)]
        np.testing.assert_array_equal(dropped[0], dropped[1])
        assert float(jnp.abs(dropped[0] - dropped[2]).max()) > 1e-3
        full = DiT(
            resolution=8, out_channels=1, width=16, depth=2, num_heads=2, dropout=0.2, remat="full"
        )
        np.testing.assert_allclose(jax.jit(full.apply)(variables, X, T), dropped[2], atol=1e-5)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"patch": 3}, "patch: 3 does not divide the image's side 8"),
            ({"num_heads": 3}, "num_heads: 3 does not divide the width 16"),
            ({"width": 18, "num_heads": 2}, "width: got 18; a multiple of 4"),
        ],
    )
    def test_what_does_not_divide_is_refused(self, change, message):
        with pytest.raises(ValueError, match=message):
            DiT(**{**{"resolution": 8, "out_channels": 1, "width": 16, "num_heads": 2}, **change})


def test_the_options_of_the_time_embedding():
    t = jnp.array([0.25, 0.9])
    plain = sinusoidal(t, 8)
    np.testing.assert_array_equal(sinusoidal(t, 8, cos_first=True), jnp.roll(plain, 4, axis=1))
    np.testing.assert_allclose(sinusoidal(t, 8, offset=-1.0), sinusoidal(t - 1e-3, 8), atol=1e-4)
    slowest = sinusoidal(jnp.array([1.0]), 8, shift=0)[0, 3]
    assert float(slowest) == pytest.approx(np.sin(1000 * 10000 ** (-3 / 4)), abs=1e-4)


def _is_first(module, method):
    return module.name == "conv_in"


def test_a_classifier_sees_noise_levels_and_gives_features():
    network = Classifier(resolution=8, num_classes=5, channels=8, multipliers=(1, 2), groups=4)
    variables = filled(network.init, X, T)
    apply = jax.jit(network.apply)
    logits, features = apply(variables, X, T)
    assert logits.shape == (3, 5)
    assert features.shape == (3, 16)
    other, _ = apply(variables, X, T[::-1])
    assert float(jnp.abs(other - logits).max()) > 1e-3
    # Two images that are the same in bfloat16 are still two to the first layer.
    half, pair = network.clone(dtype=jnp.bfloat16), (jnp.ones_like(X), jnp.full_like(X, 1.001))
    np.testing.assert_array_equal(pair[0].astype(jnp.bfloat16), pair[1].astype(jnp.bfloat16))
    caught = {"mutable": ["intermediates"], "capture_intermediates": _is_first}
    first, second = (
        half.apply(variables, x, T, **caught)[1]["intermediates"]["conv_in"]["__call__"][0]
        for x in pair
    )
    assert first.dtype == jnp.float32
    assert float(jnp.abs(second - first).max()) > 1e-4
    kernel, bias = (variables["params"]["logits"][name] for name in ("kernel", "bias"))
    np.testing.assert_allclose(features @ kernel + bias[None], logits, rtol=1e-5, atol=1e-5)


def test_normalization_keeps_its_digits_far_from_zero():
    """E[x^2] - E[x]^2 loses three of them at a mean of a hundred deviations."""
    x = 100 + np.random.default_rng(0).normal(size=(1, 16, 16, 4)).astype(np.float32)
    block = AttentionBlock(1, 1, dtype=jnp.float32)
    params = block.init(jax.random.key(0), jnp.asarray(x))
    normed = {}

    def record(next_fun, args, kwargs, context):
        out = next_fun(*args, **kwargs)
        if isinstance(context.module, GroupNorm):
            normed["norm"] = out
        return out

    with nn.intercept_methods(record):
        block.apply(params, jnp.asarray(x))
    wide = x.astype(np.float64)
    truth = (wide - wide.mean()) / np.sqrt(wide.var() + block.epsilon)
    np.testing.assert_allclose(normed["norm"], truth, atol=2e-4)
