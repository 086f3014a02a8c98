import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.ops import keys as rng
from gen_jax.ops.averages import ema_decay_at
from gen_jax.protocols import LOCAL, Context, Turn, Weights
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step
from tests.train.toy import toy

KEY = jax.random.key(0)
BATCH = {"x": jax.random.normal(jax.random.key(1), (16, 3)) + 1.0}
SGD = {"gen": optax.sgd(0.1), "disc": optax.sgd(0.1)}


def start(model, optimizers=SGD):
    return init_state(model, optimizers, KEY, BATCH)


def run(step, state, num=1, batch=BATCH):
    step = jax.jit(step)
    for _ in range(num):
        state, metrics = step(state, {}, batch, KEY)
    return state, metrics


def differs(a, b):
    return any(
        (np.asarray(x) != y).any() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


@pytest.mark.parametrize(("turn", "other"), [("gen", "disc"), ("disc", "gen")])
def test_a_turn_leaves_the_other_player_bit_identical(turn, other):
    model = toy()
    before = start(model, {"gen": optax.adam(0.1), "disc": optax.adam(0.1)})
    optimizers = {"gen": optax.adam(0.1), "disc": optax.adam(0.1)}
    after, metrics = run(make_train_step(model, optimizers, turns=(turn,)), before)
    assert differs(before.params[turn], after.params[turn])
    chex.assert_trees_all_equal(before.params[other], after.params[other])
    chex.assert_trees_all_equal(before.opt_state[other], after.opt_state[other])
    assert {name.split("/")[0] for name in metrics} == {turn, "guard"}


def test_only_the_turn_s_own_player_changes_statistics():
    """The discriminator's loss observes a million on purpose."""
    after, _ = run(make_train_step(toy(), SGD), start(toy()))
    assert float(jnp.abs(after.stats["gen"]["mean"]).max()) < 10


def test_a_step_is_the_gradient_of_its_loss():
    model = toy()
    state = start(model)
    after, metrics = run(make_train_step(model, SGD, turns=("gen",)), state)
    keys = rng.fold_in(rng.per_example(jax.random.fold_in(KEY, 0), 0, 16), 0)
    context = Context(state.step, LOCAL, True)

    def loss(own):
        params = {**state.params, "gen": own}
        return model.losses["gen"].fn(Weights(params, state.stats), BATCH, keys, context)[0]

    value, grads = jax.value_and_grad(loss)(state.params["gen"])
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, state.params["gen"], grads)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.params["gen"], expected
    )
    assert float(metrics["gen/loss"]) == pytest.approx(float(value), rel=1e-6)
    assert float(metrics["gen/grad_norm"]) == pytest.approx(float(optax.tree.norm(grads)), 1e-5)


def test_of_a_loss_with_several_turns_the_one_that_was_taken_is_reported():
    turns = (Turn("gen", stop=1), Turn("gen", start=1))
    step, state = jax.jit(make_train_step(toy(), SGD, turns=turns)), start(toy())
    alone, single = jax.jit(make_train_step(toy(), SGD, turns=("gen",))), start(toy())
    for _ in range(2):
        state, metrics = step(state, {}, BATCH, KEY)
        single, expected = alone(single, {}, BATCH, KEY)
        assert np.isfinite(metrics["gen/loss"])
    # The second turn of a step has noise of its own.
    np.testing.assert_allclose(metrics["gen/loss"], expected["gen/loss"], rtol=0.2)


def test_turns_repeat_with_noise_of_their_own():
    model = toy(noise=1.0)
    once, _ = run(make_train_step(model, SGD, turns=("disc",)), start(model))
    twice, _ = run(make_train_step(model, SGD, turns=("disc", "disc")), start(model))
    first = once.params["disc"]["w"] - start(model).params["disc"]["w"]
    second = twice.params["disc"]["w"] - once.params["disc"]["w"]
    assert float(jnp.abs(first - second).max()) > 1e-4
    assert int(twice.step) == 1


@pytest.mark.parametrize(("microbatches", "unroll"), [(2, False), (4, False), (4, True)])
def test_accumulation_is_the_big_batch_for_means_over_examples(microbatches, unroll):
    """The discriminator's loss is one; its noise belongs to the example, not to the part."""
    model = toy()
    whole, big = run(make_train_step(model, SGD, turns=("disc",)), start(model))
    options = {"microbatches": microbatches, "unroll": unroll}
    step = make_train_step(model, SGD, turns=("disc",), **options)
    parts, small = run(step, start(model))
    np.testing.assert_allclose(whole.params["disc"]["w"], parts.params["disc"]["w"], atol=1e-6)
    assert float(big["disc/loss"]) == pytest.approx(float(small["disc/loss"]), rel=1e-5)


def test_statistics_are_those_of_the_whole_batch_under_accumulation():
    model = toy()
    whole, _ = run(make_train_step(model, SGD, turns=("gen",)), start(model))
    parts, _ = run(make_train_step(model, SGD, turns=("gen",), microbatches=4), start(model))
    np.testing.assert_allclose(whole.stats["gen"]["mean"], parts.stats["gen"]["mean"], atol=1e-6)


def test_microbatches_that_do_not_divide_are_refused():
    step = make_train_step(toy(), SGD, microbatches=3)
    with pytest.raises(ValueError, match="microbatches: 3 does not divide a batch of 16"):
        run(step, start(toy()))


def test_a_bad_batch_changes_nothing_and_is_counted():
    model = toy()
    optimizers = {"gen": optax.adam(0.1), "disc": optax.adam(0.1)}
    step = jax.jit(make_train_step(model, optimizers))
    good, _ = step(start(model, optimizers), {}, BATCH, KEY)
    bad_batch = {"x": BATCH["x"].at[3, 1].set(jnp.nan)}
    bad, metrics = step(good, {}, bad_batch, KEY)
    for name in ("params", "opt_state", "stats", "ema_params"):
        chex.assert_trees_all_equal(getattr(good, name), getattr(bad, name))
    assert int(bad.step) == 2
    assert [int(x) for x in bad.guard[:2]] == [1, 1]
    assert int(metrics["guard/skipped"]) == 1
    again, _ = step(bad, {}, bad_batch, KEY)
    assert [int(x) for x in again.guard[:2]] == [2, 2]
    healed, _ = step(again, {}, BATCH, KEY)
    assert [int(x) for x in healed.guard[:2]] == [2, 0]
    assert differs(again.params, healed.params)


class TestLeaps:
    """A loss far above its level is left out, where that is asked for."""

    WINDOW, SIGMA = 10, 6.0

    def batches(self, leaps=()):
        rng = np.random.default_rng(0)
        for number in range(30):
            x = rng.normal(size=(16, 3)).astype(np.float32)
            yield {"x": jnp.asarray(100 * x if number in leaps else x)}

    def train(self, leaps, **options):
        step = jax.jit(make_train_step(toy(), SGD, turns=("gen",), **options))
        state = start(toy())
        refused = []
        for number, batch in enumerate(self.batches(leaps)):
            after, _ = step(state, {}, batch, KEY)
            if int(after.guard.skipped) > int(state.guard.skipped):
                refused.append(number)
                chex.assert_trees_all_equal(after.params, state.params)
            state = after
        return refused, state

    def test_only_those_are_refused(self):
        options = {"spike_window": self.WINDOW, "spike_sigma": self.SIGMA}
        assert self.train((15, 22, 23), **options)[0] == [15, 22, 23]
        assert self.train((), **options)[0] == []

    def test_before_there_is_a_level_none_is(self):
        options = {"spike_window": self.WINDOW, "spike_sigma": self.SIGMA}
        assert self.train((4,), **options)[0] == []

    def test_by_default_none_is(self):
        assert self.train((15,))[0] == []

    def test_a_quiet_run_has_the_bits_of_an_unguarded_one(self):
        options = {"spike_window": self.WINDOW, "spike_sigma": self.SIGMA}
        chex.assert_trees_all_equal(self.train((), **options)[1].params, self.train(())[1].params)

    def test_the_level_is_the_mean_of_what_was_accepted(self):
        step = jax.jit(make_train_step(toy(), SGD, turns=("gen",), spike_window=100))
        state, values = start(toy()), []
        for batch in self.batches():
            state, metrics = step(state, {}, batch, KEY)
            values.append(float(metrics["gen/loss"]))
        expected = [np.mean(values), np.mean(np.square(values))]
        np.testing.assert_allclose(state.guard.levels["gen"], expected, rtol=1e-5)


def test_the_average_follows_its_definition():
    model = toy()
    step = jax.jit(make_train_step(model, SGD, ema_decay=0.5))
    state = start(model)
    expected = state.params
    for n in range(12):
        state, _ = step(state, {}, BATCH, KEY)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, expected, state.params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        state.ema_params,
        expected,
    )


def test_decay_warms_up():
    decays = [float(ema_decay_at(jnp.int32(n), 0.999)) for n in (0, 90, 10**6)]
    np.testing.assert_allclose(decays, [0.1, 0.91, 0.999], rtol=1e-6)


def test_training_draws_new_noise_every_step_and_the_same_again():
    model = toy(noise=1.0)
    step = make_train_step(model, {"gen": optax.sgd(0.0), "disc": optax.sgd(0.0)}, turns=("disc",))
    step = jax.jit(step)
    first, a = step(start(model), {}, BATCH, KEY)
    _, b = step(first, {}, BATCH, KEY)
    _, again = step(start(model), {}, BATCH, KEY)
    assert float(a["disc/loss"]) != float(b["disc/loss"])
    assert float(a["disc/loss"]) == float(again["disc/loss"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"turns": ("vae",)}, "turns: 'vae' is none of the losses"),
        ({"ema_decay": 1.0}, r"ema_decay: got 1.0; a number in \[0, 1\) is required"),
        ({"microbatches": 0}, "microbatches: got 0; at least 1 is required"),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_train_step(toy(), SGD, **options)


def test_optimisers_must_be_those_of_the_players():
    with pytest.raises(ValueError, match=r"optimizers: got .*one for each of \['disc', 'gen'\]"):
        start(toy(), {"gen": optax.sgd(0.1)})
