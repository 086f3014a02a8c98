"""Losses of two players from a discriminator's logits, and what keeps them from running away.

Logits are high for what is real. All losses and penalties are in nats an example.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.ops import keys as rng
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float, Keys, PyTree, Scalar, ScalarLike

__all__ = [
    "GAMES",
    "Critic",
    "Game",
    "adaptive_weight",
    "discriminator_loss",
    "interpolation_penalty",
    "lecam_penalty",
    "non_saturating_loss",
    "path_lengths",
    "squared_gradient",
]

Critic = Callable[[Array], Array]
"""From x [batch, ...] to logits [batch]; each logit depends on its own example alone."""


class Game(NamedTuple):
    """What each of two players minimizes, of logits of real and of fake examples.

    ``disc(real, fake)`` and ``gen(real, fake)`` give [batch]. ``equilibrium`` is the
    discriminator's loss where nothing can be told apart and all logits are 0.
    """

    disc: Callable[[Array, Array], Array]
    gen: Callable[[Array, Array], Array]
    equilibrium: float


@checked
def discriminator_loss(
    real: Float[Array, "batch"], fake: Float[Array, "batch"]
) -> Float[Array, "batch"]:
    """Compute -log D(real) - log(1 - D(fake)), D = sigmoid(logits) (Goodfellow et al. 2014, Eq. 1).

    At D = 1/2 everywhere, where nothing can be told apart, it is 2 log 2.
    """
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


@checked
def non_saturating_loss(fake: Float[Array, "batch"]) -> Float[Array, "batch"]:
    """Compute -log D(fake), whose gradient stays where D is sure (Goodfellow et al. 2014, 3)."""
    return jax.nn.softplus(-fake)


GAMES: Mapping[str, Game] = {
    # Pairs of a real and a fake example: relativistic pairing (Jolicoeur-Martineau 2019; Huang et
    # al. 2024, Eq. 1). Without it a mode that is not drawn costs the generator nothing.
    "paired": Game(
        lambda real, fake: jax.nn.softplus(fake - real),
        lambda real, fake: jax.nn.softplus(real - fake),
        0.6931471805599453,
    ),
    "non_saturating": Game(
        discriminator_loss, lambda real, fake: non_saturating_loss(fake), 1.3862943611198906
    ),
    # Lim & Ye 2017; Brock et al. 2019.
    "hinge": Game(
        lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake),
        lambda real, fake: -fake,
        2.0,
    ),
    # Mao et al. 2017, with labels 1, 0 and 1; half the squares, as a Gaussian's nats.
    "least_squares": Game(
        lambda real, fake: 0.5 * (jnp.square(real - 1) + jnp.square(fake)),
        lambda real, fake: 0.5 * jnp.square(fake - 1),
        0.5,
    ),
    # Arjovsky et al. 2017; needs a penalty that keeps the critic's slope near 1.
    "wasserstein": Game(lambda real, fake: fake - real, lambda real, fake: -fake, 0.0),
}
"""Games by name."""


@checked
def squared_gradient(critic: Critic, x: Float[Array, "batch *dims"]) -> Float[Array, "batch"]:
    """Compute |d critic(x) / dx|^2 of each example.

    Half of it times gamma is R1 on real examples and R2 on fake ones (Mescheder et al. 2018, Eq. 9
    and 10), which make the game's equilibrium attract.

    Args:
        critic: the discriminator, through an augmentation if there is one.
        x: the examples themselves.

    Example:
        >>> w = jnp.array([3.0, 4.0])
        >>> squared_gradient(lambda x: x @ w, jnp.zeros((1, 2)))
        Array([25.], dtype=float32)
    """
    slope = jax.grad(lambda x: jnp.sum(critic(x)))(x)
    return jnp.sum(jnp.square(slope), axis=tuple(range(1, x.ndim)))


@checked
def interpolation_penalty(
    critic: Critic,
    real: Float[Array, "batch *dims"],
    fake: Float[Array, "batch *dims"],
    keys: Keys,
) -> Float[Array, "batch"]:
    """Compute (|d critic(x) / dx| - 1)^2 at random points between real and fake examples.

    WGAN-GP's penalty without its weight, which is 10 (Gulrajani et al. 2017, Eq. 3).
    """
    share = rng.uniform(keys, (1,) * (real.ndim - 1))
    between = share * real + (1 - share) * fake
    # The root of 0 has no derivative.
    return jnp.square(jnp.sqrt(squared_gradient(critic, between) + 1e-12) - 1)


@checked
def lecam_penalty(
    real: Float[Array, "batch"],
    fake: Float[Array, "batch"],
    real_mean: ScalarLike,
    fake_mean: ScalarLike,
) -> Float[Array, "batch"]:
    """Compute how far logits are beyond the other side's running mean (Tseng et al. 2021, Eq. 6).

    Args:
        real: logits of real examples.
        fake: of fake ones.
        real_mean: running mean of the former.
        fake_mean: of the latter.
    """
    return jnp.square(jax.nn.relu(real - fake_mean)) + jnp.square(jax.nn.relu(real_mean - fake))


def adaptive_weight(
    wanted: PyTree, adversarial: PyTree, *, most: float = 1e4, epsilon: float = 1e-4
) -> Scalar:
    """Weigh an adversarial loss so that at one layer its gradient is as long as another loss's.

    lambda = |wanted| / (|adversarial| + epsilon), at most ``most`` (Esser et al. 2021, Eq. 7).

    Args:
        wanted: gradient of the reconstruction's loss at the last layer, of the global batch.
        adversarial: the adversarial loss's there.
        most: largest weight.
        epsilon: added to the denominator.

    Returns:
        A constant: no gradient flows through it.
    """

    def norm(tree: PyTree) -> Array:
        return jnp.sqrt(sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)))

    weight = norm(wanted) / (norm(adversarial) + epsilon)
    return jax.lax.stop_gradient(jnp.clip(weight, 0.0, most))


@checked
def path_lengths(
    generate: Callable[[Array], Array], w: Float[Array, "batch *latent"], keys: Keys
) -> Float[Array, "batch"]:
    """Compute |J^T y|, J = d x / d w, for images y of noise of standard deviation 1 / sqrt(H W).

    Karras et al. 2020a, Eq. 4: where it is the same everywhere, equal steps in w are equal steps in
    the image.

    Args:
        generate: from w to x [batch, height, width, channels]; each x of its own w.
        w: latents, with a further axis if each layer has its own.
        keys: one for each example.
    """
    x, pull = jax.vjp(generate, w)
    noise = rng.normal(keys, x.shape[1:]) / (x.shape[1] * x.shape[2]) ** 0.5
    (slope,) = pull(noise)
    # Over latents; of several layers' the mean of squares.
    squares = jnp.sum(jnp.square(slope), axis=-1)
    return jnp.sqrt(jnp.mean(squares.reshape(len(x), -1), axis=1) + 1e-12)
