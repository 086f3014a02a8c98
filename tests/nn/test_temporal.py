"""Layers over time: nothing at the start, of every frame afterwards, in both networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.models.stages import _merged, _without
from gen_jax.nn.dit import DiT
from gen_jax.nn.temporal import TemporalLayer
from gen_jax.nn.unet import UNet

FRAMES = 3
NETWORKS = {
    "dit": lambda frames: DiT(
        8, 3, patch=4, width=16, depth=1, num_heads=2, num_classes=2, frames=frames
    ),
    "unet": lambda frames: UNet(
        8, 3, channels=8, multipliers=(1, 1), num_res_blocks=1, groups=4, dropout=0.0,
        attention_resolutions=(), num_classes=2, frames=frames,
    ),
}  # fmt: skip


def stirred(params, by=0.1):
    wave = lambda p: by * jnp.sin(1 + jnp.arange(p.size).reshape(p.shape))  # noqa: E731
    return jax.tree.map(lambda p: p + wave(p), params)


@pytest.fixture(scope="module", params=sorted(NETWORKS))
def networks(request):
    still, moving = (NETWORKS[request.param](frames) for frames in (0, FRAMES))
    x = jax.random.normal(jax.random.key(0), (2, FRAMES, 8, 8, 3))
    t, label = jnp.array([0.2, 0.7]), jnp.array([0, 1])
    image = jax.jit(lambda: still.init(jax.random.key(1), x[:, 0], t, label))()["params"]
    film = jax.jit(lambda: moving.init(jax.random.key(2), x, t, label))()["params"]
    over_time = _without(film, image)
    image = stirred(image)

    @jax.jit
    def run(over_time, x):
        return moving.apply({"params": _merged(image, over_time)}, x, t, label)

    @jax.jit
    def alone(x):
        return still.apply({"params": image}, x, t, label)

    return run, alone, over_time, x


def test_a_film_begins_as_the_image_network_frame_by_frame(networks):
    run, alone, over_time, x = networks
    made = run(over_time, x)
    for frame in range(FRAMES):
        np.testing.assert_allclose(made[:, frame], alone(x[:, frame]), atol=1e-5)
    order = jnp.array([2, 0, 1])
    np.testing.assert_allclose(run(over_time, x[:, order]), made[:, order], atol=1e-5)


def test_every_layer_over_time_learns_and_then_frames_see_one_another(networks):
    run, _, over_time, x = networks
    # What begins at zero moves first, and what stands before it then.
    grads = jax.grad(lambda over_time: jnp.sum(jnp.square(run(over_time, x))))(over_time)
    ends = [
        (jax.tree_util.keystr(path), g)
        for path, g in jax.tree_util.tree_flatten_with_path(grads)[0]
        if "attention_out" in str(path) or "'convolution'" in str(path)
    ]
    assert ends
    assert all(np.abs(np.asarray(g)).max() > 0 for _, g in ends)
    moved = stirred(over_time)
    grads = jax.grad(lambda over_time: jnp.sum(jnp.square(run(over_time, x))))(moved)
    silent = [
        jax.tree_util.keystr(path)
        for path, g in jax.tree_util.tree_flatten_with_path(grads)[0]
        if not np.abs(np.asarray(g)).max() > 0 and "'key']['bias'" not in str(path)
    ]
    assert [name for name in silent if "key" not in name] == []  # softmax ignores keys' bias
    other = run(moved, x.at[:, 2].add(1.0))
    changed = np.abs(np.asarray(other - run(moved, x))).max(axis=(0, 2, 3, 4))
    assert (changed > 1e-5).all()


def test_clips_of_another_length_are_refused_and_one_frame_is_a_film():
    layer = TemporalLayer(1, 2)
    h, condition = jnp.ones((4, 6, 8)), jnp.ones((4, 5))
    params = layer.init(jax.random.key(0), h, condition)
    assert layer.apply(stirred(params), h, condition).shape == h.shape
    network = NETWORKS["dit"](FRAMES)
    with pytest.raises(ValueError, match=r"\[batch, 3, height, width, channels\] is required"):
        network.init(jax.random.key(0), jnp.ones((1, 2, 8, 8, 3)), jnp.ones(1), jnp.zeros(1, int))


def test_what_is_frozen_must_be_of_the_network():
    ours = {"a": {"b": jnp.ones(2), "c": jnp.ones(3)}}
    assert list(_without(ours, {"a": {"b": jnp.zeros(2)}})["a"]) == ["c"]
    whole = _merged({"a": {"b": jnp.zeros(2)}}, {"a": {"c": jnp.ones(3)}})
    assert sorted(whole["a"]) == ["b", "c"]
    with pytest.raises(ValueError, match=r"b: got \(4,\); \(2,\) is required"):
        _without(ours, {"a": {"b": jnp.zeros(4)}})
    with pytest.raises(ValueError, match="d: frozen, and not of this network"):
        _without(ours, {"a": {"b": jnp.zeros(2), "d": jnp.zeros(1)}})
