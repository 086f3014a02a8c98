"""GANs: what each turn minimizes, what statistics do, and a game that is won."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen_jax.models import rules
from gen_jax.models.gan import Augmenting, Penalties, gan_model
from gen_jax.nn import perceptual
from gen_jax.nn.gan import Discriminator, Generator, PatchDiscriminator, halved, twice
from gen_jax.ops import adversarial, keys as rng
from gen_jax.ops.ramps import Ramp
from gen_jax.protocols import LOCAL, Context, Weights
from gen_jax.train.state import init_state
from gen_jax.train.step import make_train_step

SHAPE = (1, 1, 2)


class Gen(nn.Module):
    """From z and a class to a point."""

    num_classes: int | None = None

    @nn.compact
    def __call__(self, z, label=None):
        if self.num_classes is not None:
            z = jnp.concatenate([z, jax.nn.one_hot(label, self.num_classes)], axis=-1)
        h = nn.leaky_relu(nn.Dense(32)(z), 0.2)
        return nn.Dense(2)(nn.leaky_relu(nn.Dense(32)(h), 0.2)).reshape(-1, *SHAPE)


class Disc(nn.Module):
    num_classes: int | None = None

    @nn.compact
    def __call__(self, x, label=None):
        x = x.reshape(len(x), -1)
        if self.num_classes is not None:
            x = jnp.concatenate([x, jax.nn.one_hot(label, self.num_classes)], axis=-1)
        h = nn.leaky_relu(nn.Dense(32)(x), 0.2)
        return nn.Dense(1)(nn.leaky_relu(nn.Dense(32)(h), 0.2))[:, 0]


class Linear(nn.Module):
    """A critic whose slope is known."""

    @nn.compact
    def __call__(self, x, label=None):
        return nn.Dense(1)(x.reshape(len(x), -1))[:, 0]


def test_rules_know_the_games_and_networks_that_there_are():
    assert set(rules.GAMES) == set(adversarial.GAMES)
    assert set(rules.PERCEPTUAL) == set(perceptual.PERCEPTUAL)


def constant(value):
    return Ramp(value, value, 0)


ADAM = {name: optax.adam(2e-3, b1=0.0, b2=0.9) for name in ("gen", "disc")}
KEYS = rng.per_example(jax.random.key(0), 0, 16)
BATCH = {"x": rng.normal(KEYS, SHAPE)}


def context(step=0):
    return Context(jnp.int32(step), LOCAL, train=True)


def test_each_class_becomes_its_gaussian():
    """R3GAN's game on three Gaussians, one a class: samples are where their class is."""
    centers = jnp.array([[0.0, 1.0], [1.0, -0.5], [-1.0, -0.5]])
    model = gan_model(Gen(3), Disc(3), 4, SHAPE, num_classes=3, penalties=Penalties(constant(0.1)))

    def data(key):
        keys = rng.per_example(key, 0, 96)
        label = jnp.arange(96) % 3
        return {"x": (centers[label] + 0.1 * rng.normal(keys, (2,)))[:, None, None], "label": label}

    step = make_train_step(model, ADAM, ema_decay=0.98)

    @jax.jit
    def train(state):
        def one(state, key):
            return step(state, {}, data(key), jax.random.key(1))

        return jax.lax.scan(one, state, jax.random.split(jax.random.key(2), 1500))

    state, metrics = train(init_state(model, ADAM, jax.random.key(0), data(jax.random.key(3))))
    assert set(state.ema_params) == {"gen"}
    keys = rng.per_example(jax.random.key(5), 0, 300)
    label = jnp.arange(300) % 3
    made = model.sampler.draw(Weights(state.ema_params, state.stats), keys, {"label": label})
    made = made.reshape(100, 3, 2)
    np.testing.assert_allclose(made.mean(axis=0), centers, atol=0.06)
    assert (made.std(axis=0) > 0.05).all()  # and no class is one point
    late = jax.tree.map(lambda x: float(x[-300:].mean()), metrics)
    assert late["disc/game"] == pytest.approx(np.log(2), abs=0.05)
    assert late["disc/accuracy"] == pytest.approx(0.5, abs=0.1)
    assert late["gen/diversity"] == pytest.approx(1.0, abs=0.1)
    assert int(state.guard.skipped) == 0


def weights_of(model, batch=BATCH):
    params, stats = model.init(jax.random.key(0), batch, {})
    return Weights(params, stats)


def test_a_lazy_penalty_is_taken_now_and_then_and_counts_as_often():
    model = gan_model(
        Gen(), Linear(), 4, SHAPE, penalties=Penalties(constant(2.0), r2=False, every=4)
    )
    weights = weights_of(model)
    slope = weights.params["disc"]["Dense_0"]["kernel"]
    for step, times in ((0, 4), (1, 0), (3, 0), (4, 4)):
        _, aux = model.losses["disc"].fn(weights, BATCH, KEYS, context(step))
        expected = times * 0.5 * 2.0 * float(jnp.sum(slope**2))
        assert float(aux.metrics["penalty"]) == pytest.approx(expected, rel=1e-5)


def test_r1_is_of_real_and_r2_of_fake_examples():
    given = {"r1": Penalties(constant(1.0), r2=False), "both": Penalties(constant(1.0))}
    made = {}
    for name, penalties in given.items():
        model = gan_model(Gen(), Disc(), 4, SHAPE, penalties=penalties)
        _, aux = model.losses["disc"].fn(weights_of(model), BATCH, KEYS, context())
        made[name] = float(aux.metrics["penalty"])
    assert 0 < made["r1"] < made["both"]


def test_wgan_gp_trains_its_critic_five_times_on_five_parts():
    model = gan_model(
        Gen(),
        Disc(),
        4,
        SHAPE,
        game="wasserstein",
        penalties=Penalties(constant(0.0), r1=False, r2=False, interpolation=10.0),
        critic_turns=5,
    )
    parts = [turn.part for turn in model.turns]
    assert parts == [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5), (0, 5)]
    batch = {"x": rng.normal(rng.per_example(jax.random.key(1), 0, 20), SHAPE)}
    state = init_state(model, ADAM, jax.random.key(0), batch)
    step = jax.jit(make_train_step(model, ADAM))
    for _ in range(3):
        state, metrics = step(state, {}, batch, jax.random.key(1))
    assert int(state.opt_state["disc"][0].count) == 15
    assert int(state.opt_state["gen"][0].count) == 3
    assert all(np.isfinite(float(x)) for x in metrics.values())


def test_augmentation_adapts_to_how_sure_the_discriminator_is():
    model = gan_model(Gen(), Disc(), 4, SHAPE, augmenting=Augmenting(ramp_steps=20))
    weights = weights_of(model)

    def play(weights, sign, steps):
        for _ in range(steps):
            stats, metrics = model.update_stats(
                weights, {"disc": {"sign": jnp.float32(sign)}}, jax.random.key(0), jnp.int32(0)
            )
            weights = weights._replace(stats=stats)
        return weights, float(metrics["augmentation"])

    assert float(weights.stats["disc"]["strength"]) == 0.0
    weights, strong = play(weights, 1.0, 20)  # it knows its images by heart
    assert 0.3 < strong < 1.0
    _, weak = play(weights, 0.0, 40)
    assert weak == 0.0


def test_a_discriminator_that_learns_its_images_by_heart_is_shown_more_than_them():
    """Sixteen images, a generator that stands still: p leaves 0 by itself."""
    shape = (8, 8, 1)
    model = gan_model(
        Generator(shape, (8, 8)),
        Discriminator(shape, (8, 8)),
        4,
        shape,
        penalties=Penalties(constant(0.0), r1=False, r2=False),
        augmenting=Augmenting(ramp_steps=40, kinds=("flip", "shift")),
    )
    batch = {"x": rng.normal(KEYS, shape)}
    optimizers = {"gen": optax.sgd(0.0), "disc": optax.adam(5e-3)}
    state = init_state(model, optimizers, jax.random.key(0), batch)
    step = jax.jit(make_train_step(model, optimizers))
    seen = []
    for _ in range(60):
        state, metrics = step(state, {}, batch, jax.random.key(1))
        seen.append(float(metrics["disc/augmentation"]))
    assert seen[0] == 0.0
    assert max(seen) > 0.1


class TestNetworks:
    def test_resampling_keeps_what_is_smooth(self):
        flat = jnp.full((1, 4, 6, 2), 3.0)
        np.testing.assert_allclose(twice(flat), jnp.full((1, 8, 12, 2), 3.0), rtol=1e-6)
        np.testing.assert_allclose(halved(flat), jnp.full((1, 2, 3, 2), 3.0), rtol=1e-6)
        ramp = jnp.broadcast_to(jnp.arange(8.0)[None, :, None, None], (1, 8, 8, 1))
        inside = twice(ramp)[0, 1:-1, 3, 0]
        np.testing.assert_allclose(inside, np.arange(14) / 2 + 0.25, rtol=1e-6)
        np.testing.assert_allclose(halved(ramp)[0, 1:-1, 0, 0], [2.5, 4.5], rtol=1e-6)
        # As image libraries do it.
        x = rng.normal(KEYS[:1], (5, 4, 3))
        np.testing.assert_allclose(
            twice(x), jax.image.resize(x, (1, 10, 8, 3), "bilinear"), atol=1e-5
        )

    def test_a_checkerboard_does_not_pass_downward(self):
        board = jnp.indices((8, 8)).sum(0) % 2
        made = halved(jnp.float32(board)[None, :, :, None])
        np.testing.assert_allclose(made[0, 1:-1, 1:-1], 0.5, atol=1e-6)

    def test_labels_reach_both_players_and_shapes_are_checked(self):
        shape = (6, 4, 3)
        gen = Generator(shape, (8, 8), num_classes=3, embedding_dim=4)
        disc = Discriminator(shape, (8, 8), num_classes=3, embedding_dim=4)
        z, label = rng.normal(KEYS, (5,)), jnp.arange(16) % 3
        x, variables = jax.jit(gen.init_with_output)(jax.random.key(0), z, label)
        assert x.shape == (16, *shape)
        other = gen.apply(variables, z, (label + 1) % 3)
        assert (jnp.abs(other - x).max((1, 2, 3)) > 1e-3).all()
        logits, variables = jax.jit(disc.init_with_output)(jax.random.key(0), x, label)
        assert logits.shape == (16,)
        assert (disc.apply(variables, x, (label + 1) % 3) != logits).all()
        for wrong, error in (((7, 4, 3), "no multiple"), ((6, 4, 3), "label")):
            with pytest.raises(ValueError, match=error):
                Generator(wrong, (8, 8)).init(jax.random.key(0), z, label)
        patches = PatchDiscriminator((4, 8), groups=4)
        assert jax.eval_shape(
            lambda: patches.init_with_output(jax.random.key(0), jnp.zeros((2, 32, 32, 3)))[0]
        ).shape == (2, 8, 8)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"game": "chess"}, "game"),
        (
            {"game": "wasserstein", "penalties": Penalties(constant(0.0), r1=False, r2=False)},
            "wasserstein",
        ),
        ({"penalties": Penalties(constant(-1.0))}, "gamma"),
        ({"critic_turns": 0}, "critic_turns"),
        ({"augmenting": Augmenting(constant(1.5))}, "augmentation"),
    ],
)
def test_what_does_not_go_together_is_refused(given, fault):
    with pytest.raises(ValueError, match=fault):
        gan_model(Gen(), Disc(), 4, SHAPE, **given)
