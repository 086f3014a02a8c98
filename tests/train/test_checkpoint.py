import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.errors import CheckpointError, DamagedError
from gen_jax.train import checkpoint
from gen_jax.train.engines import jit_engine
from gen_jax.train.sharding import make_mesh
from tests.train.toy import toy

BATCH = {"x": np.ones((8, 3), np.float32)}
OPTIMIZERS = {"gen": optax.adam(0.1), "disc": optax.adam(0.1)}


@pytest.fixture(scope="module")
def engine():
    return jit_engine(toy(), OPTIMIZERS, make_mesh())


@pytest.fixture(scope="module")
def state(engine):
    state = engine.init(engine.key(0), engine.put(BATCH))
    state, _ = engine.step(state, {}, engine.put(BATCH), engine.key(0))
    return state


def test_what_is_saved_is_restored_with_its_sharding(engine, state, tmp_path):
    with checkpoint.open_checkpoints(tmp_path) as manager:
        checkpoint.save(manager, state, {"config": {"a": (1, 2)}})
    restored, meta = checkpoint.restore(tmp_path, 1, engine.abstract(engine.put(BATCH)))
    chex.assert_trees_all_equal(state, restored)
    assert jax.tree.leaves(restored)[0].sharding == jax.tree.leaves(state)[0].sharding
    assert meta["config"] == {"a": [1, 2]}
    assert meta["step"] == 1


def test_sampling_restores_weights_alone(engine, state, tmp_path):
    with checkpoint.open_checkpoints(tmp_path) as manager:
        checkpoint.save(manager, state, {}, wait=True)
    (training,) = tmp_path.glob("1/training")
    training.rename(tmp_path / "gone")
    weights, _ = checkpoint.restore_weights(tmp_path, 1, engine.abstract(engine.put(BATCH)))
    chex.assert_trees_all_equal(weights["ema_params"], state.ema_params)
    chex.assert_trees_all_equal(weights["stats"], state.stats)


def test_only_the_latest_are_kept(engine, state, tmp_path):
    with checkpoint.open_checkpoints(tmp_path, keep=2) as manager:
        for step in range(4):
            later = state.replace(step=jnp.int32(step))
            checkpoint.save(manager, later, {})
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.isdecimal()) == ["2", "3"]


def test_an_older_step_is_not_silently_dropped(state, tmp_path):
    with checkpoint.open_checkpoints(tmp_path) as manager:
        checkpoint.save(manager, state.replace(step=jnp.int32(5)), {}, wait=True)
        with pytest.raises(CheckpointError, match="step 3: not saved, because step 5 is already"):
            checkpoint.save(manager, state.replace(step=jnp.int32(3)), {})


def test_another_network_is_refused_by_parameter(state, tmp_path):
    with checkpoint.open_checkpoints(tmp_path) as manager:
        checkpoint.save(manager, state, {}, wait=True)
        other = jit_engine(toy(), OPTIMIZERS, make_mesh())
        wide = other.abstract(other.put({"x": np.ones((8, 4), np.float32)}))
        with pytest.raises(CheckpointError, match="does not fit the config") as error:
            checkpoint.restore(tmp_path, 1, wide)
        assert ".ema_params['disc']['w']: checkpoint float32[3], config float32[4]" in str(
            error.value
        )
        half = wide.replace(step=jax.ShapeDtypeStruct((), jnp.int16))
        with pytest.raises(CheckpointError, match="does not fit the config"):
            checkpoint.restore(tmp_path, 1, half)


def test_a_damaged_checkpoint_is_one_error(engine, state, tmp_path):
    with checkpoint.open_checkpoints(tmp_path) as manager:
        checkpoint.save(manager, state, {}, wait=True)
    for file in (tmp_path / "1" / "training").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DamagedError, match="1: damaged: "):
        checkpoint.restore(tmp_path, 1, engine.abstract(engine.put(BATCH)))
