"""SinGAN (Shaham et al. 2019): a chain of GANs, each of one scale of a single image."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.nn import lowering
from gen_jax.ops import adversarial, keys as rng
from gen_jax.protocols import (
    Aux,
    Batch,
    Context,
    Loss,
    Model,
    Params,
    Stats,
    Turn,
    Weights,
)
from gen_jax.typing import Array, Float, Key, Keys, PyTree, Scalar

__all__ = ["Chain", "Patches", "sample_chain", "singan_scale"]

_GRADIENT, _RECONSTRUCTION = 0.1, 10.0  # weights of the authors' code
_TURNS = 3  # of each player in a step

Sides = tuple[int, int]


class Patches(nn.Module):
    """Five convolutions of 3x3, that see patches of 11 pixels: both players' network.

    Attributes:
        outputs: channels of the result.
        channels: between.
        bounded: whether a tanh ends it, as a generator's residual.
    """

    outputs: int
    channels: int = 32
    bounded: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width outputs"]:
        """Change an image, or score its patches."""
        h = x
        for number in range(4):
            h = lowering.Conv(self.channels, (3, 3), use_bias=False, name=f"conv_{number}")(h)
            # Of each example alone; of a single image that is what the authors' batches are.
            h = lowering.GroupNorm(self.channels, name=f"norm_{number}")(h)
            h = nn.leaky_relu(h, 0.2)
        h = lowering.Conv(self.outputs, (3, 3), name="out")(h)
        return jnp.tanh(h) if self.bounded else h


class Chain(NamedTuple):
    """Generators of the scales that are trained, the coarsest first, and how they are fed.

    ``start`` is the noise that the coarsest generator makes the image itself of. A scale's noise
    has the deviation ``sigmas`` of it: how much the scales before leave open.
    """

    generators: tuple[PyTree, ...]
    sigmas: tuple[Float[Array, ""], ...]
    start: Float[Array, "height width channels"]


def _resized(x: Float[Array, "batch height width channels"], sides: Sides) -> Array:
    return jax.image.resize(x, (len(x), *sides, x.shape[-1]), "linear")


def _made(
    network: Patches, chain: Chain, sides: Sequence[Sides], noises: Sequence[Array]
) -> Float[Array, "batch height width channels"]:
    """Go through the scales: x_n = G_n(z_n + up(x_{n-1})) + up(x_{n-1}) (Eq. 1)."""
    x = jnp.zeros_like(noises[0])
    for generator, sigma, side, noise in zip(
        chain.generators, chain.sigmas, sides, noises, strict=True
    ):
        above = _resized(x, side)
        change = network.apply({"params": generator}, sigma * noise + above)
        assert isinstance(change, Array)
        x = above + change
    return x


def sample_chain(
    network: Patches, chain: Chain, key: Key[Array, ""], sides: Sequence[Sides]
) -> Float[Array, "height width channels"]:
    """Draw an image, of any sides: generators are convolutions.

    Args:
        network: of all generators.
        chain: trained.
        key: of the noise.
        sides: of each scale, the coarsest first.

    Returns:
        x from -1 to 1, of the last sides.
    """
    channels = chain.start.shape[-1]
    noises = [
        jax.random.normal(jax.random.fold_in(key, number), (1, *side, channels))
        for number, side in enumerate(sides)
    ]
    return _made(network, chain, sides, noises)[0]


def reconstruct_chain(
    network: Patches, chain: Chain, sides: Sequence[Sides]
) -> Float[Array, "height width channels"]:
    """Make the image itself: the start's noise, and none at the other scales."""
    noises = [jnp.zeros((1, *side, chain.start.shape[-1])) for side in sides]
    noises[0] = chain.start[None]
    return _made(network, chain, sides, noises)[0]


class _Scale(NamedTuple):
    """The game of one scale; ``frozen["chain"]`` holds the scales before."""

    generator: Patches
    critic: Patches
    sides: tuple[Sides, ...]  # up to this scale's own

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        gen_key, disc_key = jax.random.split(key)
        x = batch["x"][:1]
        gen = self.generator.init(gen_key, x)["params"]
        return {"gen": gen, "disc": self.critic.init(disc_key, x)["params"]}, {}

    def above(self, weights: Weights, key: Key[Array, ""]) -> Float[Array, "one height width c"]:
        """Draw what the scales before give this one."""
        chain = weights.frozen["chain"]
        if len(self.sides) == 1:
            return jnp.zeros((1, *self.sides[0], chain.start.shape[-1]))
        drawn = sample_chain(self.generator, chain, key, self.sides[:-1])[None]
        return _resized(jax.lax.stop_gradient(drawn), self.sides[-1])

    def generate(
        self, params: Params, above: Array, noise: Array
    ) -> Float[Array, "one height width c"]:
        change = self.generator.apply({"params": params["gen"]}, above + noise)
        assert isinstance(change, Array)
        return above + change

    def drawn(self, weights: Weights, keys: Keys) -> Float[Array, "one height width c"]:
        above = self.above(weights, keys[0])
        noise = rng.normal(rng.fold_in(keys[:1], len(self.sides)), above.shape[1:])
        return self.generate(weights.params, above, weights.frozen["sigma"] * noise)

    def score(self, params: Params, x: Array) -> Float[Array, "batch"]:
        """Average the critic's scores of all patches."""
        scores = self.critic.apply({"params": params["disc"]}, x)
        assert isinstance(scores, Array)
        return jnp.mean(scores, axis=(1, 2, 3))

    def discriminate(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del context
        real, params = batch["x"][:1], weights.params
        fake = jax.lax.stop_gradient(self.drawn(weights, keys))
        gap = jnp.mean(self.score(params, fake) - self.score(params, real))
        coins = rng.fold_in(keys[:1], len(self.sides) + 1)
        penalty = adversarial.interpolation_penalty(
            lambda x: self.score(params, x), real, fake, coins
        )
        return gap + _GRADIENT * jnp.mean(penalty), Aux({}, {"margin": -gap})

    def fool(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del context
        real, params, frozen = batch["x"][:1], weights.params, weights.frozen
        fooled = -jnp.mean(self.score(params, self.drawn(weights, keys)))
        again = self.generate(params, frozen["above"], frozen["noise"])
        error = jnp.mean(jnp.square(again - real))
        return fooled + _RECONSTRUCTION * error, Aux({}, {"reconstruction": error})


def singan_scale(generator: Patches, critic: Patches, sides: Sequence[Sides]) -> Model:
    """Make the game of one scale (Shaham et al. 2019, section 2.2): WGAN-GP and reconstruction.

    The batch is the image at this scale, ``x`` [1, height, width, channels]. Frozen weights are
    ``chain``, the :class:`Chain` of the scales before; ``sigma``, of this scale's noise; and
    ``above`` and ``noise``, of which this generator has to make the image itself.

    Args:
        generator: of all scales.
        critic: without bound, of one output.
        sides: of the scales up to this one, the coarsest first.

    Returns:
        A model with the players ``"gen"`` and ``"disc"``, three turns each in a step.
    """
    made = _Scale(generator, critic, tuple(sides))
    return Model(
        init=made.init,
        losses={"disc": Loss("disc", made.discriminate), "gen": Loss("gen", made.fool)},
        turns=(*(Turn("disc"),) * _TURNS, *(Turn("gen"),) * _TURNS),
        averaged=(),
    )
