import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, strategies as st
from jax.sharding import PartitionSpec as P

from gen_jax.train.engines import ENGINES, jit_engine, make_engine
from gen_jax.train.sharding import (
    AXES,
    Rules,
    arrange,
    axis_sizes,
    make_mesh,
    spec_of,
    state_shardings,
)
from tests.train.toy import toy

OPTIMIZERS = {"gen": optax.adam(0.1), "disc": optax.adam(0.1)}


def test_axes_are_laid_out_as_asked():
    assert axis_sizes(8) == (8, 1, 1)
    assert axis_sizes(8, -1, 4) == (2, 4, 1)
    assert axis_sizes(8, 1, -1) == (1, 8, 1)
    assert axis_sizes(8, 2, 2, -1) == (2, 2, 2)
    assert make_mesh(2, 4).shape == {"data": 2, "fsdp": 4, "tensor": 1}


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ((3,), "mesh: data 3 x fsdp 1 x tensor 1 = 3 devices, but there are 8; -1 for one axis"),
        ((16,), "= 16 devices, but there are 8"),
        ((0,), "mesh: data 0 x fsdp 1 x tensor 1; whole numbers from 1, or one -1"),
        ((-2,), "whole numbers from 1, or one -1"),
        ((-1, -1), "mesh: data -1 x fsdp -1 x tensor 1; -1 may stand for one axis only"),
        ((-1, 3), "mesh: data -1 x fsdp 3 x tensor 1; 3 does not divide the 8 devices"),
    ],
)
def test_meshes_that_would_leave_devices_idle_are_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(*axes)


class Device:
    def __init__(self, id, slice_index):
        self.id, self.slice_index, self.platform = id, slice_index, "gpu"
        self.process_index = slice_index


def test_hosts_lie_along_the_axis_that_talks_least():
    """Each host of GPUs is a slice of its own; JAX's make_mesh refuses several."""
    devices = [Device(id, id // 4) for id in reversed(range(8))]
    hosts = np.vectorize(lambda device: device.slice_index)(arrange(devices, (2, 4, 1)))
    assert hosts[:, :, 0].tolist() == [[0] * 4, [1] * 4]
    assert arrange(devices, (1, 8, 1)).shape == (1, 8, 1)


def spec(shape, path="params/net/a/kernel", fsdp=1, tensor=1, **rules):
    axes = {"data": 1, "fsdp": fsdp, "tensor": tensor}
    return spec_of(path, shape, axes, Rules(**{"min_size": 1, **rules}))


def test_fsdp_takes_the_largest_dimension_it_divides():
    assert spec((3, 3, 64, 128), fsdp=8) == P(None, None, None, "fsdp")
    assert spec((3, 3, 128, 64), fsdp=8) == P(None, None, "fsdp")
    assert spec((3, 3, 64, 64), fsdp=8) == P(None, None, None, "fsdp")
    assert spec((24, 100), fsdp=8) == P("fsdp")
    assert spec((3, 5), fsdp=8) == P()
    assert spec((), fsdp=8) == P()
    assert spec((0,), fsdp=8) == P()
    assert spec((64, 64), fsdp=1) == P()


def test_small_arrays_stay_whole():
    assert spec((16, 16), fsdp=8, min_size=257) == P()
    assert spec((16, 16), fsdp=8, min_size=256) == P(None, "fsdp")


def test_tensor_takes_the_dimension_of_heads_or_channels():
    dims = {"query/kernel$": -2, "conv_in/kernel$": -1}
    at = "opt_state/net/1/mu/mid/query/kernel"
    assert spec((64, 8, 16), at, tensor=4, tensor_dims=dims) == P(None, "tensor")
    assert spec((64, 8, 16), at, fsdp=2, tensor=4, tensor_dims=dims) == P("fsdp", "tensor")
    assert spec((64, 6, 16), at, tensor=4, tensor_dims=dims) == P()  # heads are not cut in two
    assert spec((64,), at, tensor=4, tensor_dims=dims) == P()
    assert spec((64, 8, 16), at, tensor=1, tensor_dims=dims) == P()


def test_overrides_decide_alone():
    over = {"a/kernel": ("fsdp", None)}
    assert spec((8, 64), fsdp=8, overrides=over) == P("fsdp", None)
    assert spec((8,), fsdp=8, overrides=over) == P()  # a factored moment under the same name
    assert spec((8, 64), "params/net/b", fsdp=8, overrides=over) == P(None, "fsdp")
    with pytest.raises(ValueError, match="'expert' is none of data, fsdp, tensor"):
        spec((8, 64), overrides={"a": ("expert", None)})
    with pytest.raises(ValueError, match="fsdp 8 does not divide 12, a dimension of params/net/a"):
        spec((12, 64), fsdp=8, overrides=over)


@given(
    shape=st.lists(st.integers(0, 48), max_size=4),
    fsdp=st.sampled_from([1, 2, 8]),
    tensor=st.sampled_from([1, 2, 4]),
    dim=st.integers(-5, 4),
)
def test_whatever_is_split_can_be_split(shape, fsdp, tensor, dim):
    axes = {"data": 1, "fsdp": fsdp, "tensor": tensor}
    result = spec(shape, fsdp=fsdp, tensor=tensor, tensor_dims={"kernel": dim})
    assert len(result) <= len(shape)
    used = [axis for axis in result if axis is not None]
    assert len(used) == len(set(used))
    for axis, size in zip(result, shape, strict=False):
        assert axis is None or size % axes[axis] == 0


def test_the_state_is_created_in_its_sharding():
    mesh = make_mesh(2, 4)
    engine = jit_engine(toy(), OPTIMIZERS, mesh, Rules(min_size=16))
    batch = engine.put({"x": np.ones((8, 4), np.float32)})
    state = engine.init(engine.key(0), batch)
    for tree in (state.params, state.ema_params, state.opt_state["gen"][0].mu):
        kernel = tree.get("gen", tree)["w"]
        assert kernel.sharding.spec == P(None, "fsdp")
        assert {shard.data.shape for shard in kernel.addressable_shards} == {(4, 1)}
    assert state.params["disc"]["w"].sharding.spec == P()
    planned = jax.tree.map(lambda x: x.sharding, engine.abstract(batch))
    assert planned == jax.tree.map(lambda x: x.sharding, state)


def test_an_override_that_matches_nothing_is_a_mistake():
    engine = jit_engine(toy(), OPTIMIZERS, make_mesh(), Rules(overrides={"kernle": ("fsdp",)}))
    batch = engine.put({"x": np.ones((8, 4), np.float32)})
    with pytest.raises(ValueError, match="override 'kernle': matches no array"):
        engine.init(engine.key(0), batch)


@pytest.mark.parametrize("name", ENGINES)
def test_every_row_reaches_the_device_that_owns_it(name):
    engine = make_engine(name, toy(), OPTIMIZERS, make_mesh())
    np.testing.assert_array_equal(engine.rows(16), np.arange(16))
    x = np.arange(48, dtype=np.float32).reshape(16, 3)
    batch = engine.put({"x": x})["x"]
    np.testing.assert_array_equal(np.asarray(batch).reshape(16, 3), x)
    assert {shard.data.size for shard in batch.addressable_shards} == {6}
    shapes = engine.inputs({"x": jax.ShapeDtypeStruct((16, 3), jnp.float32)})[0]["x"]
    assert (shapes.shape, shapes.sharding) == (batch.shape, batch.sharding)


def test_frozen_weights_are_placed_by_the_same_rules():
    mesh = make_mesh(2, 4)
    engine = jit_engine(toy(), OPTIMIZERS, mesh, Rules(min_size=16))
    placed = engine.place({"codec": {"w": np.ones((4, 8)), "b": np.ones(3)}})
    assert placed["codec"]["w"].sharding.spec == P(None, "fsdp")
    assert placed["codec"]["b"].sharding.spec == P()
    np.testing.assert_array_equal(placed["codec"]["w"], np.ones((4, 8)))


def test_engines_that_copy_the_state_refuse_to_split_it():
    for name in ("pmap", "shard_map"):
        with pytest.raises(ValueError, match="fsdp 2 x tensor 1; only the engine 'jit'"):
            make_engine(name, toy(), OPTIMIZERS, make_mesh(4, 2))
    with pytest.raises(ValueError, match="engine: got .*one of jit, pmap, shard_map is required"):
        make_engine("xmap", toy(), OPTIMIZERS, make_mesh())


@pytest.mark.parametrize(
    "layout",
    [("jit", (8,)), ("shard_map", (8,)), ("pmap", (8,)), ("jit", (4, 2)), ("jit", (2, 2, 2))],
    ids=str,
)
def test_two_players_and_a_loss_nonlinear_in_the_batch_on_every_engine(layout):
    """The toy has what the families may not: a batch statistic inside a loss, two players."""
    name, axes = layout
    x = {"x": np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)}
    sgd = {"gen": optax.sgd(0.1), "disc": optax.sgd(0.1)}
    results = []
    for kind, mesh in (("jit", make_mesh(devices=jax.devices()[:1])), (name, make_mesh(*axes))):
        engine = make_engine(kind, toy(), sgd, mesh, Rules(min_size=1))
        state, batch, key = engine.init(engine.key(0), engine.put(x)), engine.put(x), engine.key(0)
        for _ in range(10):
            state, metrics = engine.step(state, {}, batch, key)
        results.append(jax.device_get((state.params, state.stats, metrics)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *results)


def test_axes_are_named_once():
    assert tuple(make_mesh().axis_names) == AXES
    tree = {"w": jnp.ones((64, 64))}
    (sharding,) = jax.tree.leaves(state_shardings(tree, make_mesh(1, 8), Rules(min_size=1)))
    assert sharding.spec == P(None, "fsdp")
