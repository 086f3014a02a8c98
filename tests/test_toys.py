"""The protocol carries families that the house does not have yet, through all of its seams."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.codecs import rgb, with_codec
from gen_jax.errors import ConfigError
from gen_jax.evals.losses import mean_losses
from gen_jax.launch.build.experiment import abstract_batch
from gen_jax.launch.cli.flags import model_flags
from gen_jax.launch.sampling.draw import (
    Draw,
    conditions_from_data,
    decode,
    draw_prior,
    draw_samples,
    encode,
    interpolate,
)
from gen_jax.ops import keys as rng
from gen_jax.protocols import Turn, Weights
from gen_jax.train import checkpoint
from gen_jax.train.engines import make_engine
from gen_jax.train.sharding import Rules, make_mesh
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step
from tests.toys import SHAPE, TEXT, TOYS, affine_codec, flow, gan

NUM = 16
RNG = np.random.default_rng(0)
DATA = {
    "image": RNG.integers(0, 256, (NUM, *SHAPE), np.uint8),
    "source": RNG.integers(0, 256, (NUM, *SHAPE), np.uint8),
    "text": RNG.integers(0, 16, (NUM, 3)).astype(np.int32),
}
FROZEN = {"codec": {"scale": jnp.float32(1 / 127.5)}, **TEXT}
STEPS = 4
LAYOUTS = {
    "jit on 8": ("jit", {}),
    "shard_map on 8": ("shard_map", {}),
    "pmap on 8": ("pmap", {}),
    "4x2 fsdp": ("jit", {"fsdp": 2}),
}


def model_of(name):
    """Behind a codec with weights, so that these are seen by everything."""
    return with_codec(TOYS[name](), affine_codec())


def batch_of(model):
    return {name: DATA[name] for name in abstract_batch(model, SHAPE)}


def train(name, layout, mesh):
    """Train a few steps; gives each step's metrics, and the last state."""
    model = model_of(name)
    batch = batch_of(model)
    players = jax.eval_shape(model.init, jax.random.key(0), batch, FROZEN)[0]
    sgd = {player: optax.sgd(0.05) for player in players}
    engine = make_engine(layout[0], model, sgd, mesh, Rules({}, min_size=8), ema_decay=0.5)
    frozen, key = engine.place(FROZEN), engine.key(0)
    state = engine.init(key, engine.put(batch), frozen)
    step = engine.compile(state, frozen, engine.put(batch), key)
    history = []
    for _ in range(STEPS):
        state, metrics = step(state, frozen, engine.put(batch), key)
        history.append(jax.device_get(dict(metrics)))
    return history, jax.device_get(state)


@pytest.fixture(scope="module", params=sorted(TOYS))
def trained(request):
    history, state = train(request.param, ("jit", {}), make_mesh(devices=jax.devices()[:1]))
    return request.param, history, state


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_engine_trains_as_one_device(trained, layout):
    name, history, state = trained
    engine, axes = LAYOUTS[layout]
    if name == "gan" and engine != "jit":
        pytest.skip("two parts of a batch do not divide the two examples of each device here")
    found, other = train(name, (engine, {}), make_mesh(**axes))
    for a, b in zip(found, history, strict=True):
        assert a.keys() == b.keys()
        for metric, value in a.items():
            np.testing.assert_allclose(value, b[metric], rtol=1e-4, atol=1e-5, err_msg=metric)
    for field in ("params", "stats", "ema_params"):
        chex.assert_trees_all_close(
            getattr(other, field), getattr(state, field), rtol=1e-4, atol=1e-5
        )


def test_parts_of_a_batch_are_the_same_on_every_device():
    """With four examples a device, of which each turn sees two."""
    model = with_codec(gan(), rgb())
    batch = {"image": np.tile(DATA["image"], (2, 1, 1, 1))}
    sgd = {player: optax.sgd(0.05) for player in ("gen", "disc")}
    params = []
    for engine, devices in (("jit", 1), ("shard_map", 8)):
        made = make_engine(engine, model, sgd, make_mesh(devices=jax.devices()[:devices]))
        state = made.init(made.key(0), made.put(batch))
        state, _ = made.step(state, {}, made.put(batch), made.key(0))
        params.append(jax.device_get(state.params))
    chex.assert_trees_all_close(*params, rtol=1e-5, atol=1e-6)


def test_a_turn_that_waits_changes_nothing_and_reports_nothing():
    history, _ = train("gan", ("jit", {}), make_mesh(devices=jax.devices()[:1]))
    taken = [bool(np.isfinite(metrics["r1/loss"])) for metrics in history]
    assert taken == [False, True, False, True]
    model, state = with_codec(gan(), rgb()), None
    sgd = {player: optax.sgd(0.05) for player in ("gen", "disc")}
    batch = {"image": jnp.asarray(DATA["image"])}
    state = init_state(model, sgd, jax.random.key(0), batch)
    turns = {"alone": ("disc",), "with one that waits": ("disc", Turn("r1", start=5))}
    after = {
        name: jax.jit(make_train_step(model, sgd, turns=chosen))(
            state, {}, batch, jax.random.key(0)
        )[0]
        for name, chosen in turns.items()
    }
    chex.assert_trees_all_equal(after["alone"].params, after["with one that waits"].params)
    chex.assert_trees_all_equal(after["alone"].stats, after["with one that waits"].stats)


def test_a_late_loss_has_a_level_of_its_own():
    """A turn that begins late is no leap above the level it never had."""
    model = with_codec(gan(), rgb())
    sgd = {player: optax.sgd(1e-3) for player in ("gen", "disc")}
    batch = {"image": jnp.asarray(DATA["image"])}
    turns = ("disc", Turn("r1", every=2, start=6))
    options = {"turns": turns, "spike_window": 3, "spike_sigma": 3.0}
    step = jax.jit(make_train_step(model, sgd, **options))
    state = init_state(model, sgd, jax.random.key(0), batch)
    for _ in range(12):
        state, _ = step(state, {}, batch, jax.random.key(0))
    assert int(state.guard.skipped) == 0
    level, value = float(state.guard.levels["r1"][0]), 0.0
    assert level > value


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (Turn("nothing"), "'nothing' is none of the losses"),
        (Turn("r1", every=0), "every >= 1"),
        (Turn("r1", start=4, stop=4), "stop > start"),
        (Turn("r1", part=(2, 2)), "0 <= i < n"),
    ],
)
def test_turns_that_are_never_due_are_refused(turn, message):
    with pytest.raises(ValueError, match=message):
        make_train_step(gan(), {}, turns=(turn,))


def test_statistics_see_the_parameters_of_their_turn():
    """The spectral norm is that of the weights after the update, by one more power iteration."""
    model = gan()
    sgd = {player: optax.sgd(0.5) for player in ("gen", "disc")}
    batch = {"x": jax.random.normal(jax.random.key(1), (8, *SHAPE))}
    state = init_state(model, sgd, jax.random.key(0), batch)
    step = jax.jit(make_train_step(model, sgd, turns=("disc",)))
    after, metrics = step(state, {}, batch, jax.random.key(0))
    w = after.params["disc"][0]["w"]
    u = w.T @ (w @ state.stats["disc"]["u"])
    np.testing.assert_allclose(after.stats["disc"]["u"], u / jnp.linalg.norm(u), rtol=1e-5)
    assert float(metrics["disc/sigma"]) <= float(jnp.linalg.norm(w, 2)) + 1e-5


def test_a_discriminator_is_not_averaged_and_yet_can_be_evaluated(trained, tmp_path):
    name, _, state = trained
    model = model_of(name)
    averaged = set(state.params) if model.averaged is None else set(model.averaged)
    assert set(state.ema_params) == averaged
    with checkpoint.open_checkpoints(tmp_path) as manager:
        checkpoint.save(manager, jax.device_put(state, jax.devices()[0]), {}, wait=True)
    here = jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype), state)
    for whole in (False, True):
        found, _ = checkpoint.restore_weights(tmp_path, STEPS, here, whole=whole)
        assert set(found["ema_params"]) == (set(state.params) if whole else averaged)
        chex.assert_trees_all_equal(
            {player: found["ema_params"][player] for player in averaged}, state.ema_params
        )
    weights = Weights(found["ema_params"], found["stats"], FROZEN)
    batch = {**batch_of(model), "weight": np.ones(NUM, np.float32)}
    losses = mean_losses(model, weights, [batch], jax.random.key(0))
    assert set(losses) == set(model.losses)
    assert np.isfinite(list(losses.values())).all()


def test_an_initialization_sees_frozen_weights():
    """Behind a codec with weights: the first batch has mean 0 and variance 1 after an actnorm."""
    model = with_codec(flow(layers=0), affine_codec())
    batch = {"image": jnp.asarray(DATA["image"])}
    params, stats = jax.jit(model.init)(jax.random.key(0), batch, FROZEN)
    z = model.latents.encode(Weights(params, stats, FROZEN), batch["image"], {})
    np.testing.assert_allclose(jnp.mean(z, axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(jnp.std(z, axis=0), 1, atol=1e-2)


def test_from_its_inputs_alone_follow_batch_conditions_and_samples(trained):
    name, _, state = trained
    model, mesh = model_of(name), make_mesh()
    shapes = abstract_batch(model, SHAPE, NUM)
    assert {n: (x.shape, x.dtype) for n, x in shapes.items()} == {
        n: (x.shape, x.dtype) for n, x in batch_of(model).items()
    }
    cond = conditions_from_data(model, DATA, every_class=True)
    assert set(cond) == {n for n, given in model.inputs.items() if given.needed}
    weights = Weights(state.params, state.stats, FROZEN)
    draw = Draw(3, {}, cond, batch_size=8)
    images = draw_samples(model, weights, draw, mesh, NUM).astype(int)
    assert images.shape == (NUM, *SHAPE)
    part = draw._replace(batch_size=16)
    np.testing.assert_allclose(draw_samples(model, weights, part, mesh, NUM), images, atol=1)
    if name == "translator":  # a sample is what is made of its own source
        back = {"source": cond["source"][::-1]}
        other = draw_samples(model, weights, draw._replace(cond=back), mesh, NUM)
        np.testing.assert_allclose(other[::-1], images, atol=1)


@pytest.mark.parametrize("name", ["gan", "flow", "text"])
def test_one_interpolation_serves_them_all(name):
    """From the draws' own latents: a way begins and ends at samples."""
    model, mesh = model_of(name), make_mesh()
    cond = {n: x[:1].repeat(4, axis=0) for n, x in DATA.items() if n in model.inputs}
    init = jax.jit(model.init)
    weights = Weights(*init(jax.random.key(0), batch_of(model), FROZEN), FROZEN)
    draw = Draw(0, {}, cond)
    ends = draw_samples(model, weights, draw, mesh, 4).astype(int)
    z = draw_prior(model, seed=0, num=4)
    way = interpolate(draw._replace(cond={n: x[:3] for n, x in cond.items()}), z[:-1], z[1:], 5)
    film = draw_samples(model, weights, way, mesh, 15).astype(int).reshape(3, 5, *SHAPE)
    np.testing.assert_allclose(film[:, 0], ends[:-1], atol=1)
    np.testing.assert_allclose(film[:, -1], ends[1:], atol=1)
    if model.latents.encode is not None:
        again = encode(model, weights, draw, ends.astype(np.uint8))
        back = decode(model, weights, draw._replace(z=again, options=dict(model.latents.undo)))
        assert np.abs(back.astype(int) - ends).mean() < (1 if name == "flow" else 25)


def test_flags_and_their_checks_follow_too():
    for name, flag, value in (("text", "text", "x.npz"), ("translator", "source", "x.png")):
        model = model_of(name)
        options, told = model_flags(
            "sample", model, [f"--{flag}", value], model.sampler.options, inputs=True
        )
        assert (options, told) == ({}, {flag: value})
    model = model_of("text")
    with pytest.raises(ConfigError, match="--label: this model is not told it; it is told --text"):
        model_flags("sample", model, ["--label=3"], model.sampler.options, inputs=True)
    assert model.sampler.faults({}, {"text", "no_text"})
    assert not model.sampler.faults({"guidance": 2.0}, {"text", "no_text"})


def test_a_flow_s_density_is_over_pixels_behind_a_codec_that_passes_it():
    model = with_codec(flow(), rgb())
    batch = {"image": jnp.asarray(DATA["image"])}
    weights = Weights(*jax.jit(model.init)(jax.random.key(0), batch, {}))
    keys = rng.per_example(jax.random.key(0), 0, NUM)
    bare = flow().density.log_prob(weights, {"x": rgb().encode({}, batch["image"], keys)}, keys)
    found = model.density.log_prob(weights, batch, keys)
    np.testing.assert_allclose(found.nats, bare.nats - 16 * np.log(127.5), rtol=1e-5)
    assert (model.density.kind, model.density.over_pixels) == ("exact", True)
