"""Games and penalties against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen_jax.ops import adversarial, augmentations, keys as rng


def keys_of(num, seed=0):
    return rng.per_example(jax.random.key(seed), 0, num)


class TestGames:
    @pytest.mark.parametrize("name", adversarial.GAMES)
    def test_where_nothing_can_be_told_apart_the_discriminator_has_its_known_loss(self, name):
        game, zeros = adversarial.GAMES[name], jnp.zeros(3)
        np.testing.assert_allclose(game.disc(zeros, zeros), game.equilibrium, rtol=1e-6)

    @pytest.mark.parametrize("name", adversarial.GAMES)
    def test_each_player_pulls_its_own_way(self, name):
        """The discriminator lifts real logits and lowers fake ones; the generator lifts fake."""
        game, zeros = adversarial.GAMES[name], jnp.zeros(1)
        real, fake = jax.grad(lambda r, f: game.disc(r, f).sum(), (0, 1))(zeros, zeros)
        assert (real < 0).all()
        assert (fake > 0).all() or name == "least_squares"  # fake's label is where it stands
        assert (jax.grad(lambda f: game.gen(zeros, f).sum())(zeros) < 0).all()

    def test_pairs_do_not_see_a_shift_of_all_logits(self):
        real, fake = jnp.array([0.3, -2.0]), jnp.array([1.0, 0.5])
        game = adversarial.GAMES["paired"]
        np.testing.assert_allclose(game.disc(real + 7, fake + 7), game.disc(real, fake), rtol=1e-5)
        np.testing.assert_allclose(game.gen(real, fake), game.disc(fake, real))

    def test_the_best_discriminator_of_two_gaussians(self):
        """Goodfellow et al. 2014, Eq. 4: its loss is 2 log 2 - 2 JSD."""
        grid = np.linspace(-8, 8, 4001)
        p, q = (np.exp(-0.5 * (grid - m) ** 2) / np.sqrt(2 * np.pi) for m in (-1.0, 1.0))
        mean = 0.5 * (p + q)
        step = grid[1] - grid[0]
        jsd = 0.5 * step * np.sum(p * np.log(p / mean) + q * np.log(q / mean))
        best = jnp.asarray(np.log(p / q), jnp.float32)
        zeros = jnp.zeros_like(best)
        # Of real examples the first term alone, of fake ones the second; with logits of 0 each
        # other is log 2.
        game = adversarial.GAMES["non_saturating"]
        real = np.asarray(game.disc(best, zeros)) - np.log(2)
        fake = np.asarray(game.disc(zeros, best)) - np.log(2)
        loss = step * np.sum(p * real + q * fake)
        assert loss == pytest.approx(2 * np.log(2) - 2 * jsd, abs=1e-4)


class TestPenalties:
    def test_of_a_linear_critic_it_is_the_weight_s_square(self):
        w, x = jnp.array([3.0, -4.0, 1.0]), rng.normal(keys_of(4), (3,))
        made = adversarial.squared_gradient(lambda x: x @ w, x)
        np.testing.assert_allclose(made, np.full(4, 26.0), rtol=1e-6)

    def test_of_a_quadratic_critic_it_is_the_square_of_its_slope(self):
        a = jnp.array([[2.0, 1.0], [1.0, 3.0]])
        x = rng.normal(keys_of(4), (2,))
        made = adversarial.squared_gradient(lambda x: 0.5 * jnp.sum(x * (x @ a), axis=1), x)
        np.testing.assert_allclose(made, jnp.sum(jnp.square(x @ a), axis=1), rtol=1e-5)

    def test_interpolation_wants_a_slope_of_1_everywhere_between(self):
        real, fake = jnp.ones((3, 2)), -jnp.ones((3, 2))
        w = jnp.array([0.6, 0.8])
        penalty = adversarial.interpolation_penalty
        np.testing.assert_allclose(
            penalty(lambda x: x @ w, real, fake, keys_of(3)), np.zeros(3), atol=1e-6
        )
        np.testing.assert_allclose(
            penalty(lambda x: 3 * x @ w, real, fake, keys_of(3)), np.full(3, 4.0), rtol=1e-5
        )
        # |d (x^2 / 2) / dx| = |x|: the points lie between.
        seen = penalty(lambda x: 0.5 * x[:, 0] ** 2, real[:, :1], fake[:, :1], keys_of(3))
        assert ((seen >= 0) & (seen <= 1)).all()
        assert np.ptp(np.asarray(seen)) > 0

    def test_the_dirac_game_converges_with_a_penalty_and_circles_without(self):
        """Mescheder et al. 2018, section 2: real at 0, fake at theta, D(x) = psi x."""
        zero = jnp.zeros((1, 1))

        def play(name, gamma):
            game = adversarial.GAMES[name]

            def step(state, _):
                theta, psi = state

                def disc(psi):
                    critic = lambda x: x[:, 0] * psi  # noqa: E731
                    penalty = adversarial.squared_gradient(critic, zero)
                    fake = critic(jnp.full((1, 1), theta))
                    return (game.disc(critic(zero), fake) + 0.5 * gamma * penalty)[0]

                def gen(theta):
                    return game.gen(jnp.zeros(1), psi * theta[None])[0]

                state = theta - 0.05 * jax.grad(gen)(theta), psi - 0.05 * jax.grad(disc)(psi)
                return state, jnp.hypot(*state)

            return jax.lax.scan(step, (jnp.float32(1), jnp.float32(0)), None, length=800)[1]

        circling, converging = play("wasserstein", 0.0), play("wasserstein", 1.0)
        assert circling[-1] > 1.0  # Euler's steps even lead outward
        # Eigenvalues -gamma/2 +- sqrt(gamma^2/4 - 1): distance falls as exp(-t / 2).
        fall = float(jnp.log(converging[500] / converging[100])) / (400 * 0.05)
        assert fall == pytest.approx(-0.5, abs=0.05)
        assert play("non_saturating", 1.0)[-1] < 0.01
        assert play("non_saturating", 0.0)[-1] > 0.3

    def test_lecam_looks_beyond_the_other_side_s_mean_alone(self):
        made = adversarial.lecam_penalty(jnp.array([2.0, -3.0]), jnp.array([0.5, 4.0]), 1.0, 0.0)
        np.testing.assert_allclose(made, [4.0 + 0.25, 0.0])

    def test_the_adaptive_weight_makes_both_gradients_equally_long(self):
        wanted, other = {"kernel": jnp.array([3.0, 4.0])}, {"kernel": jnp.array([0.5, 0.0])}
        weight = adversarial.adaptive_weight(wanted, other, epsilon=0.0)
        assert float(weight) == pytest.approx(10.0)
        assert float(adversarial.adaptive_weight(wanted, {"kernel": jnp.zeros(2)})) == 1e4
        slope = jax.grad(lambda x: adversarial.adaptive_weight({"kernel": x}, other))(jnp.ones(2))
        np.testing.assert_array_equal(slope, jnp.zeros(2))

    def test_paths_of_a_linear_generator(self):
        """x = w M: |J^T y| = |M y|, whose mean square is tr(M M^T) / (H W)."""
        m = jax.random.normal(jax.random.key(3), (5, 4 * 4 * 2))
        num = 4000
        lengths = adversarial.path_lengths(
            lambda w: (w @ m).reshape(-1, 4, 4, 2), jnp.ones((num, 5)), keys_of(num)
        )
        expected = float(jnp.sum(m**2)) / 16
        assert float(jnp.mean(lengths**2)) == pytest.approx(expected, rel=0.05)


IMAGES = rng.normal(keys_of(64, 5), (8, 8, 3))


class TestAugmentations:
    def test_at_strength_0_nothing_changes_and_at_1_all_do(self):
        run = jax.jit(augmentations.augment)
        np.testing.assert_array_equal(run(keys_of(64), IMAGES, 0.0), IMAGES)
        assert (jnp.abs(run(keys_of(64), IMAGES, 1.0) - IMAGES).max((1, 2, 3)) > 1e-3).all()
        made = run(keys_of(64), IMAGES, 0.3)
        assert made.shape == IMAGES.shape
        # A row's change is its key's, not its batch's.
        np.testing.assert_allclose(run(keys_of(64)[7:9], IMAGES[7:9], 0.3), made[7:9], atol=1e-6)

    def test_flips_and_turns_only_move_pixels(self):
        made = augmentations.augment(keys_of(64), IMAGES, 1.0, ("flip", "turn"))
        for image, old in zip(np.asarray(made), np.asarray(IMAGES), strict=True):
            ways = [np.rot90(x, k) for x in (old, old[:, ::-1]) for k in range(4)]
            assert min(np.abs(image - way).max() for way in ways) < 1e-5

    def test_gradients_flow_twice(self):
        def penalty(x):
            def critic(x):
                return jnp.sum(jnp.tanh(augmentations.augment(keys_of(2), x, 0.8)), (1, 2, 3))

            return jnp.sum(adversarial.squared_gradient(critic, x))

        assert jnp.isfinite(jax.grad(penalty)(IMAGES[:2])).all()
        assert (jnp.abs(jax.grad(penalty)(IMAGES[:2])) > 0).any()

    def test_below_certainty_turns_do_not_leak(self):
        """The augmented law tells the law: of p < 1 its Fourier modes over turns are not 0."""
        image = IMAGES[0]
        many = augmentations.augment(
            keys_of(4000), jnp.broadcast_to(image, (4000, 8, 8, 3)), 0.7, ("turn",)
        )
        still = jnp.mean(jnp.abs(many - image[None]).max((1, 2, 3)) < 1e-6)
        assert float(still) == pytest.approx(0.3 + 0.7 / 4, abs=0.03)

    def test_strength_follows_how_sure_the_discriminator_is(self):
        p = jnp.float32(0.0)
        for sign in (1.0, 1.0, 1.0):
            p = augmentations.adapted_strength(p, jnp.float32(sign), num_images=50_000)
        assert float(p) == pytest.approx(0.3)
        for _ in range(5):
            p = augmentations.adapted_strength(p, jnp.float32(0.1), num_images=50_000)
        assert float(p) == 0.0
        with pytest.raises(ValueError, match="kinds"):
            augmentations.augment(keys_of(64), IMAGES, 0.5, ("wave",))
