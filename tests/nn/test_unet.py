import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from gen_jax.nn.blocks import Dropout
from gen_jax.nn.embeddings import sinusoidal
from gen_jax.nn.geometry import unet_faults, unet_resolutions
from gen_jax.nn.unet import UNet
from gen_jax.ops import keys as rng
from tests.weights import begun, filled

pytestmark = pytest.mark.slow

TINY = {
    "resolution": 8,
    "out_channels": 1,
    "channels": 8,
    "multipliers": (1, 2),
    "num_res_blocks": 1,
    "attention_resolutions": (4,),
    "groups": 4,
}
KEYS = rng.per_example(jax.random.key(5), 0, 3)
X = rng.normal(KEYS, (8, 8, 1))
T = jnp.array([0.1, 0.5, 1.0])


@pytest.fixture(scope="module")
def tiny():
    network = UNet(**TINY, dropout=0.2)
    return jax.jit(network.apply), filled(network.init, X, T)


def count(network, *shapes):
    abstract = jax.eval_shape(network.init, jax.random.key(0), *shapes)
    return sum(x.size for x in jax.tree.leaves(abstract))


def test_the_paper_s_network_has_the_paper_s_parameters():
    """Ho et al. 2020, Section 4: 35.7 million for CIFAR-10; 35,746,307 in their code."""
    network = UNet(resolution=32, out_channels=3)
    assert count(network, jnp.zeros((1, 32, 32, 3)), jnp.zeros(1)) == 35_746_307


def test_the_output_starts_at_zero_and_is_float32():
    network = UNet(**TINY, dtype=jnp.bfloat16)
    variables = begun(network, ["conv_out"], X, T)  # whatever stands before it
    output = jax.jit(network.apply)(variables, X, T)
    assert output.dtype == jnp.float32
    assert output.shape == X.shape
    np.testing.assert_array_equal(output, 0.0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), X, T)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}


def test_examples_do_not_see_each_other(tiny):
    apply, variables = tiny
    together = apply(variables, X, T)
    changed = apply(variables, X.at[0].set(3.0), T)
    np.testing.assert_allclose(changed[1:], together[1:], atol=1e-5)
    assert float(jnp.abs(changed[0] - together[0]).max()) > 1e-3


def test_time_matters_and_every_pixel_reaches_every_other(tiny):
    apply, variables = tiny
    assert float(jnp.abs(apply(variables, X, T) - apply(variables, X, T[::-1])).max()) > 1e-3

    def one(x):
        return apply(variables, x[None], T[:1])[0, 0, 0, 0]

    assert (np.abs(jax.jit(jax.grad(one))(X[0])) > 0).all()


def test_every_parameter_gets_a_gradient(tiny):
    apply, variables = tiny
    grads = jax.jit(jax.grad(lambda v: jnp.sum(jnp.square(apply(v, X, T)))))(variables)
    names = jax.tree_util.tree_flatten_with_path(grads)[0]
    # A constant added to every key changes no softmax: this bias alone can have none.
    silent = [jax.tree_util.keystr(path) for path, g in names if not np.abs(g).max() > 1e-6]
    assert all("'key']['bias'" in name for name in silent), silent


def test_dropout_belongs_to_the_example_and_needs_keys(tiny):
    apply, variables = tiny
    without = apply(variables, X, T)
    np.testing.assert_array_equal(without, apply(variables, X, T))
    dropped = apply(variables, X, T, None, KEYS)
    assert float(jnp.abs(dropped - without).max()) > 1e-3
    order = jnp.array([2, 0, 1])
    shuffled = apply(variables, X[order], T[order], None, KEYS[order])
    np.testing.assert_allclose(shuffled, dropped[order], atol=1e-5)


def test_dropout_keeps_the_mean():
    x = jnp.ones((4, 50, 50))
    y = Dropout(0.3).apply({}, x, rng.per_example(jax.random.key(0), 0, 4))
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.7)}
    assert float(y.mean()) == pytest.approx(1.0, abs=0.03)


def test_labels_matter():
    network = UNet(**TINY, num_classes=3)
    label = jnp.array([0, 1, 2])
    variables = filled(network.init, X, T, label)
    apply = jax.jit(network.apply)
    a, b = (apply(variables, X, T, classes) for classes in (label, label[::-1]))
    assert float(jnp.abs(a[0] - b[0]).max()) > 1e-3
    np.testing.assert_allclose(a[1], b[1], atol=1e-5)
    with pytest.raises(ValueError, match="label: missing with num_classes=3"):
        network.apply(variables, X, T)


def test_unexpected_labels_and_sizes_are_refused(tiny):
    network = UNet(**TINY)
    with pytest.raises(ValueError, match="label: not expected with num_classes=None"):
        network.init(jax.random.key(0), X, T, jnp.array([0, 1, 2]))
    with pytest.raises(ValueError, match="x: got .*images of 8 x 8 are required"):
        network.init(jax.random.key(0), X[:, :4], T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"attention_resolutions": (16,)},
            "attention_resolutions: 16 never occurs: .* visits 8, 4",
        ),
        ({"groups": 3}, "groups: 3 does not divide the 8 channels"),
        ({"groups": 16}, "groups: 16 does not divide the 8 channels"),
        ({"groups": 16, "multipliers": (2, 4)}, "groups: 16 does not divide the 8 channels"),
        ({"num_heads": 3}, "num_heads: 3 does not divide the 16 channels"),
        ({"resolution": 7, "attention_resolutions": ()}, "multipliers: .* its side 7 is not"),
        ({"multipliers": ()}, r"multipliers: got \(\); at least one level"),
        ({"multipliers": (1, 0)}, "multipliers: got 0 of 8 channels; a multiple that gives"),
        ({"multipliers": (0.3, 1)}, "multipliers: got 0.3 of 8 channels"),
        ({"channels": 2, "groups": 1}, "channels: got 2; an even number from 4"),
    ],
)
def test_what_cannot_work_is_refused_at_construction(change, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{**TINY, **change})


def test_all_faults_are_told_together():
    faults = unet_faults(
        resolution=8,
        channels=8,
        multipliers=(1, 2),
        attention_resolutions=(5,),
        num_heads=3,
        groups=3,
    )
    assert set(faults) == {"attention_resolutions", "num_heads", "groups"}


def test_resolutions_halve():
    assert unet_resolutions(32, 4) == (32, 16, 8, 4)


def test_attention_is_softmax_attention():
    """Against NumPy, by making the block's projections known."""
    from gen_jax.nn.blocks import AttentionBlock

    block = AttentionBlock(num_heads=2, groups=1)
    x = rng.normal(KEYS[:1], (2, 2, 4))
    variables = filled(block.init, x)
    p = jax.tree.map(np.asarray, variables["params"])
    h = np.asarray(x).reshape(4, 4)
    normed = (h - h.mean()) / np.sqrt(h.var() + 1e-6) * p["norm"]["scale"] + p["norm"]["bias"]
    expected = h + p["out"]["bias"]
    for head in range(2):
        q, k, v = (
            normed @ p[n]["kernel"][:, head] + p[n]["bias"][head] for n in ("query", "key", "value")
        )
        scores = np.exp(q @ k.T / np.sqrt(2))
        expected += scores / scores.sum(-1, keepdims=True) @ v @ p["out"]["kernel"][head]
    np.testing.assert_allclose(block.apply(variables, x)[0].reshape(4, 4), expected, atol=1e-4)


def test_a_residual_block_is_what_the_paper_draws():
    """GroupNorm, SiLU, convolution, embedding, the same again, sum; in NumPy, at 1x1."""
    from gen_jax.nn.blocks import ResBlock

    block = ResBlock(channels=4, groups=2, dropout=0.0)
    x, embedding = rng.normal(KEYS[:1], (1, 1, 2)), rng.normal(KEYS[1:2], (3,))
    variables = filled(block.init, x, embedding, None)
    p = jax.tree.map(np.asarray, variables["params"])

    def silu(h):
        return h * expit(h)

    def norm(h, name):
        groups = h.reshape(2, -1)
        groups = (groups - groups.mean(1, keepdims=True)) / np.sqrt(
            groups.var(1, keepdims=True) + 1e-6
        )
        return groups.reshape(-1) * p[name]["scale"] + p[name]["bias"]

    def conv(h, name):  # only the kernel's center touches a single pixel
        kernel = p[name]["kernel"]
        return h @ kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] + p[name]["bias"]

    h = np.asarray(x).reshape(2)
    out = conv(silu(norm(h, "norm_in")), "conv_in")
    out = out + silu(np.asarray(embedding)[0]) @ p["embedding"]["kernel"] + p["embedding"]["bias"]
    out = conv(silu(norm(out, "norm_out")), "conv_out") + conv(h, "shortcut")
    actual = block.apply(variables, x, embedding, None).reshape(4)
    np.testing.assert_allclose(actual, out, atol=1e-4)


def test_sinusoids():
    t = jnp.array([0.0, 0.25])
    embedded = np.asarray(sinusoidal(t, 6))
    frequencies = 10000.0 ** (-np.arange(3) / 2)
    np.testing.assert_allclose(embedded[0], [0, 0, 0, 1, 1, 1], atol=1e-6)
    np.testing.assert_allclose(embedded[1, :3], np.sin(250 * frequencies), atol=1e-4)
    np.testing.assert_allclose(embedded[1, 3:], np.cos(250 * frequencies), atol=1e-4)
    with pytest.raises(ValueError, match="dim: got 5; an even number from 4 is required"):
        sinusoidal(t, 5)


@pytest.mark.parametrize("remat", ["full", pytest.param("matmuls", marks=pytest.mark.nightly)])
def test_computing_again_changes_no_gradient_and_no_parameter(remat):
    """Dropout included: its masks belong to the layer's place in the network."""
    options = {**TINY, "multipliers": (1,), "attention_resolutions": (), "dropout": 0.3}
    plain, again = UNet(**options), UNet(**options, remat=remat)
    variables = filled(plain.init, X, T)
    shapes = jax.eval_shape(again.init, KEYS[0], X, T)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, variables)

    def loss(variables, network):
        return jnp.mean(jnp.square(network.apply(variables, X, T, None, KEYS) - 1.0))

    grads = [jax.jit(jax.grad(loss), static_argnums=1)(variables, n) for n in (plain, again)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), *grads)
    saved = str(jax.make_jaxpr(jax.grad(loss), static_argnums=1)(variables, again))
    assert "remat" in saved or "checkpoint" in saved


def test_another_policy_is_refused():
    with pytest.raises(ValueError, match="remat: got .*one of none, matmuls, full is required"):
        UNet(**TINY, remat="some").init(KEYS[0], X, T)
