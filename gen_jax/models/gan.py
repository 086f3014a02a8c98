"""Generative adversarial networks (Goodfellow et al. 2014; in the form of Huang et al. 2024)."""

import math
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.errors import check_arguments
from gen_jax.models.rules import gan_faults
from gen_jax.ops import adversarial, keys as rng
from gen_jax.ops.adversarial import Critic, Game
from gen_jax.ops.augmentations import adapted_strength, augment
from gen_jax.ops.ramps import Ramp
from gen_jax.protocols import (
    Aux,
    Batch,
    Cond,
    Context,
    Latents,
    Loss,
    Model,
    Option,
    Params,
    Sampler,
    Stats,
    Turn,
    Weights,
    batch_mean,
    label_input,
    take,
)
from gen_jax.typing import Array, Float, Keys, PyTree, Scalar, ScalarLike, Shape

__all__ = ["Augmenting", "Penalties", "Styles", "gan_model", "stylegan_model"]

# Of the running mean of the signs by which the strength is adapted.
_SIGN_DECAY = 0.9


class Penalties(NamedTuple):
    """What keeps the discriminator's slope small.

    ``r1`` and ``r2`` are half of gamma times the squared gradient at real and at fake examples,
    with gamma by step and for a whole image; ``interpolation`` weighs WGAN-GP's penalty. They are
    taken every ``every``-th step and then count so many times (Karras et al. 2020a, section 3.2).
    """

    gamma: Ramp
    r1: bool = True
    r2: bool = True
    interpolation: float = 0.0
    every: int = 1

    @property
    def any(self) -> bool:
        """Return whether there is one."""
        return self.r1 or self.r2 or self.interpolation > 0


class Augmenting(NamedTuple):
    """How strongly what the discriminator sees is changed; see :mod:`gen_jax.ops.augmentations`.

    With ``ramp_steps`` the strength is adapted, from ``strength.start``, so that the mean sign of
    real logits stays near ``target``; it can go from 0 to 1 in so many steps. Without, it is
    ``strength`` by step.
    """

    strength: Ramp = Ramp(0.0, 0.0, 0)
    ramp_steps: int = 0
    target: float = 0.6
    kinds: tuple[str, ...] = ("flip", "turn", "shift", "scale", "color", "cutout")

    @property
    def any(self) -> bool:
        """Return whether there is any."""
        return bool(self.ramp_steps) or max(self.strength.start, self.strength.end) > 0


class Styles(NamedTuple):
    """How a generator with styles is trained and drawn from (Karras et al. 2020a).

    ``mixing`` is the share of images whose finer layers have the style of another z. Every
    ``path_every``-th step half of the batch is penalized by ``path_weight`` times the squared
    difference of path lengths from their running mean, which counts so many times; 0 for never.
    ``decay`` is that of the running mean of w, toward which truncation goes.
    """

    mixing: float = 0.9
    path_every: int = 4
    path_weight: float = 2.0
    decay: float = 0.998


# Of the running mean of path lengths.
_PATH_DECAY = 0.99


class _GAN(NamedTuple):
    """What a GAN is made of, and what it does."""

    generator: nn.Module
    discriminator: nn.Module
    latent_dim: int
    game: Game
    penalties: Penalties
    augmenting: Augmenting
    num_classes: int | None
    styles: Styles | None = None

    def label_of(self, told: Batch | Cond) -> Array | None:
        return take(told, "label") if self.num_classes is not None else None

    def generate(
        self, params: Params, z: Array, label: Array | None
    ) -> Float[Array, "batch height width channels"]:
        x = self.generator.apply({"params": params["gen"]}, z, label)
        assert isinstance(x, Array)
        return x

    def style_of(
        self, params: Params, z: Array, label: Array | None
    ) -> Float[Array, "batch style"]:
        w = self.generator.apply({"params": params["gen"]}, z, label, method="style_of")
        assert isinstance(w, Array)
        return w

    def synthesize(
        self, params: Params, w: Array, keys: Keys | None
    ) -> Float[Array, "batch height width channels"]:
        if w.ndim == 2:
            w = jnp.repeat(w[:, None], self.generator.num_layers, axis=1)
        x = self.generator.apply({"params": params["gen"]}, w, keys, method="synthesize")
        assert isinstance(x, Array)
        return x

    def made(
        self, params: Params, keys: Keys, label: Array | None
    ) -> tuple[Float[Array, "batch height width channels"], Array | None]:
        """Make a batch to train on; of a generator with styles also its w."""
        if self.styles is None:
            return self.generate(params, self.prior(keys), label), None
        w = self.style_of(params, self.prior(keys), label)
        other = self.style_of(params, self.prior(rng.fold_in(keys, 4)), label)
        layers = self.generator.num_layers
        u = rng.uniform(rng.fold_in(keys, 5), (2,))
        # From a layer on, at least the second, the other's style.
        start = jnp.where(
            u[:, 0] < self.styles.mixing, 1 + jnp.floor(u[:, 1] * (layers - 1)), layers
        )
        first = (jnp.arange(layers)[None] < start[:, None])[..., None]
        mixed = jnp.where(first, w[:, None], other[:, None])
        return self.synthesize(params, mixed, rng.fold_in(keys, 6)), w

    def logits_of(self, params: Params, x: Array, label: Array | None) -> Float[Array, "batch"]:
        logits = self.discriminator.apply({"params": params["disc"]}, x, label)
        assert isinstance(logits, Array)
        return logits

    def prior(self, keys: Keys) -> Float[Array, "batch latent"]:
        return rng.normal(rng.fold_in(keys, 0), (self.latent_dim,))

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        gen_key, disc_key = jax.random.split(key)
        label = self.label_of(batch)
        label = None if label is None else label[:1]
        gen = self.generator.init(gen_key, jnp.zeros((1, self.latent_dim)), label)["params"]
        disc = self.discriminator.init(disc_key, batch["x"][:1], label)["params"]
        start = jnp.float32(self.augmenting.strength.start)
        stats = {"strength": start, "sign": jnp.float32(0)} if self.augmenting.ramp_steps else {}
        gen_stats = {}
        if self.styles is not None:
            size = jnp.zeros(self.generator.style_dim)
            gen_stats = {"w": size, "path_length": jnp.float32(0)}
        return {"gen": gen, "disc": disc}, {"gen": gen_stats, "disc": stats}

    def strength_at(self, weights: Weights, step: Array) -> ScalarLike:
        if self.augmenting.ramp_steps:
            return weights.stats["disc"]["strength"]
        return self.augmenting.strength.at(step)

    def critic(
        self, weights: Weights, label: Array | None, keys: Keys, strength: ScalarLike
    ) -> Critic:
        """Make the discriminator as it sees: through augmentations."""

        def logits(x: Array) -> Array:
            if self.augmenting.any:
                x = augment(keys, x, strength, self.augmenting.kinds)
            return self.logits_of(weights.params, x, label)

        return logits

    def discriminate(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        x, label = batch["x"], self.label_of(batch)
        fake, _ = self.made(weights.params, keys, label)
        strength = self.strength_at(weights, context.step)
        # Each pair's real and fake example are changed by coins of their own.
        see_real = self.critic(weights, label, rng.fold_in(keys, 1), strength)
        see_fake = self.critic(weights, label, rng.fold_in(keys, 2), strength)
        real_logits, fake_logits = see_real(x), see_fake(fake)
        nats = self.game.disc(real_logits, fake_logits)
        penalty = self.penalty(see_real, see_fake, x, fake, rng.fold_in(keys, 3), context)
        signs = batch_mean(batch, jnp.sign(real_logits))
        observed = {"sign": jax.lax.stop_gradient(signs)} if self.augmenting.ramp_steps else {}
        metrics = {
            "game": batch_mean(batch, nats),
            "margin": batch_mean(batch, real_logits - fake_logits),
            "accuracy": batch_mean(batch, (real_logits > fake_logits).astype(jnp.float32)),
        }
        if self.penalties.any:
            metrics["penalty"] = batch_mean(batch, penalty)
            metrics["gamma"] = self.penalties.gamma.at(context.step)
        return batch_mean(batch, nats + penalty), Aux(observed, metrics)

    def penalty(
        self,
        see_real: Critic,
        see_fake: Critic,
        x: Array,
        fake: Array,
        keys: Keys,
        context: Context,
    ) -> Array:
        given = self.penalties
        nothing = jnp.zeros(len(x))
        if not given.any:
            return nothing

        def taken() -> Array:
            total = nothing
            half = 0.5 * given.gamma.at(context.step)
            if given.r1:
                total = total + half * adversarial.squared_gradient(see_real, x)
            if given.r2:
                total = total + half * adversarial.squared_gradient(see_fake, fake)
            if given.interpolation:
                far = adversarial.interpolation_penalty(see_real, x, fake, keys)
                total = total + given.interpolation * far
            return given.every * total

        if given.every == 1:
            return taken()
        return jax.lax.cond(context.step % given.every == 0, taken, lambda: nothing)

    def fool(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        x, label = batch["x"], self.label_of(batch)
        fake, w = self.made(weights.params, keys, label)
        strength = self.strength_at(weights, context.step)
        see_real = self.critic(weights, label, rng.fold_in(keys, 1), strength)
        see_fake = self.critic(weights, label, rng.fold_in(keys, 2), strength)
        nats = self.game.gen(see_real(x), see_fake(fake))
        observed: dict[str, PyTree] = {"real": _moments(batch, x), "fake": _moments(batch, fake)}
        if w is not None:
            observed["w"] = jax.lax.stop_gradient(jnp.mean(w, axis=0))
        return batch_mean(batch, nats), Aux(observed, {})

    def straighten(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        """Penalize path lengths that differ from their running mean (Karras 2020a, Eq. 4)."""
        assert self.styles is not None
        params, label = weights.params, self.label_of(batch)
        w = self.style_of(params, self.prior(keys), label)
        layers = jnp.repeat(w[:, None], self.generator.num_layers, axis=1)
        noise = rng.fold_in(keys, 6)
        lengths = adversarial.path_lengths(
            lambda w: self.synthesize(params, w, noise), layers, rng.fold_in(keys, 7)
        )
        now = context.across.mean(batch_mean(batch, jax.lax.stop_gradient(lengths)))
        old = weights.stats["gen"]["path_length"]
        mean = old + (1 - _PATH_DECAY) * (now - old)
        nats = self.styles.path_every * self.styles.path_weight * jnp.square(lengths - mean)
        observed = {"path_length": batch_mean(batch, jax.lax.stop_gradient(lengths))}
        return batch_mean(batch, nats), Aux(observed, {})

    def update_stats(
        self, weights: Weights, observed: Mapping[str, PyTree], key: Array, step: Array
    ) -> tuple[Stats, Mapping[str, Scalar]]:
        del key
        if "gen" in observed:
            return self.update_generator(weights, observed["gen"])
        given = self.augmenting
        if not given.any:
            return weights.stats, {}
        if not given.ramp_steps:
            return weights.stats, {"augmentation": given.strength.at(step)}
        old = weights.stats["disc"]
        sign = old["sign"] + (1 - _SIGN_DECAY) * (observed["disc"]["sign"] - old["sign"])
        strength = adapted_strength(
            old["strength"], sign, num_images=1.0, target=given.target, ramp=given.ramp_steps
        )
        stats = {**weights.stats, "disc": {"strength": strength, "sign": sign}}
        return stats, {"augmentation": strength, "sign": sign}

    def update_generator(
        self, weights: Weights, seen: Mapping[str, PyTree]
    ) -> tuple[Stats, Mapping[str, Scalar]]:
        own, metrics = dict(weights.stats["gen"]), {}
        if "path_length" in seen:  # of the turn that straightens paths
            far = seen["path_length"] - own["path_length"]
            own["path_length"] = metrics["mean"] = own["path_length"] + (1 - _PATH_DECAY) * far
        else:
            real, fake = (_variance(seen[name]) for name in ("real", "fake"))
            metrics["diversity"] = jnp.sqrt(fake / jnp.maximum(real, 1e-12))
            if self.styles is not None:
                own["w"] = own["w"] + (1 - self.styles.decay) * (seen["w"] - own["w"])
        return {**weights.stats, "gen": own}, metrics

    def draw(
        self, weights: Weights, keys: Keys, cond: Cond, *, spread: ScalarLike = 1.0
    ) -> Float[Array, "batch height width channels"]:
        """Draw samples; see the sampler's options for what they mean."""
        return self.decode(weights, spread * self.prior(keys), cond)

    def draw_styled(
        self, weights: Weights, keys: Keys, cond: Cond, *, truncation: ScalarLike = 1.0
    ) -> Float[Array, "batch height width channels"]:
        """Draw samples, each with noise of its own; see the sampler's options."""
        w = self.style_of(weights.params, self.prior(keys), self.label_of(cond))
        mean = weights.stats["gen"]["w"][None]
        return self.synthesize(weights.params, mean + truncation * (w - mean), rng.fold_in(keys, 6))

    def decode(
        self, weights: Weights, z: Float[Array, "batch latent"], cond: Cond
    ) -> Float[Array, "batch height width channels"]:
        return self.generate(weights.params, z, self.label_of(cond))


def _moments(batch: Batch, x: Array) -> dict[str, Array]:
    """Average x and its square over the real examples of a batch, pixel by pixel."""
    weight = batch["weight"][:, None, None, None] if "weight" in batch else 1.0
    x = jax.lax.stop_gradient(x)
    return {"mean": jnp.mean(weight * x, axis=0), "square": jnp.mean(weight * x**2, axis=0)}


def _variance(moments: Mapping[str, Array]) -> Scalar:
    return jnp.maximum(jnp.mean(moments["square"] - jnp.square(moments["mean"])), 0.0)


def gan_model(
    generator: nn.Module,
    discriminator: nn.Module,
    latent_dim: int,
    shape: Shape,
    *,
    game: str = "paired",
    penalties: Penalties | None = None,
    augmenting: Augmenting | None = None,
    critic_turns: int = 1,
    num_classes: int | None = None,
) -> Model:
    """Make a game of a generator and a discriminator, by default R3GAN's.

    Its players are ``"gen"``, which alone is averaged, and ``"disc"``; its losses, in nats an
    example, ``"disc"`` and ``"gen"``, are its turns. A healthy run's metrics: ``disc/game`` near
    the game's equilibrium (log 2 of pairs, 2 log 2 of the classic game), ``disc/accuracy``, the
    share of pairs of which the real example has the larger logit, between 1/2 and 0.9,
    ``disc/margin`` small and steady; ``gen/diversity``, the standard deviation of fake examples
    over that of real ones, near 1: where it falls to 0 the generator draws one image.

    Args:
        generator: Linen module ``(z [batch, latent_dim], label) -> x``; the label may be None.
        discriminator: Linen module ``(x, label) -> logits [batch]``, high for real examples. It
            must not look across the batch.
        latent_dim: length of z, standard normal.
        shape: of one x: height, width, channels.
        game: of :data:`gen_jax.ops.adversarial.GAMES`.
        penalties: by default R1 and R2, with gamma a thousandth of the number of pixels: with the
            same image at twice the resolution, gradients are half as long.
        augmenting: what the discriminator sees through; by default nothing.
        critic_turns: discriminator's turns in a step. Of several each sees its own part of the
            batch, and the generator the first, as WGAN-GP trains five to one.
        num_classes: real and fake examples of a pair are of one class; None for no labels.

    Returns:
        A model of ``batch["x"]``. Its sampler takes ``spread``; its latents are z, which nothing
        leads back to. It has no density.

    Raises:
        ValueError: if arguments do not go together.
    """
    if penalties is None:
        gamma = 1e-3 * math.prod(shape[:2])
        penalties = Penalties(Ramp(gamma, gamma, 0))
    augmenting = Augmenting() if augmenting is None else augmenting
    check_arguments(
        gan_faults(
            game=game,
            gammas=(penalties.gamma.start, penalties.gamma.end),
            interpolation=penalties.interpolation,
            penalized=penalties.any,
            every=penalties.every,
            critic_turns=critic_turns,
            strengths=(augmenting.strength.start, augmenting.strength.end),
        )
    )
    made = _GAN(
        generator,
        discriminator,
        latent_dim,
        adversarial.GAMES[game],
        penalties,
        augmenting,
        num_classes,
    )
    options = {
        "spread": Option(
            float, 1.0, "a number from 0", lambda x: 0 <= x < math.inf, False,
            "standard deviation of z; below 1 for likelier samples that differ less",
        ),
    }  # fmt: skip
    return Model(
        init=made.init,
        losses={"disc": Loss("disc", made.discriminate), "gen": Loss("gen", made.fool)},
        turns=_turns(critic_turns),
        inputs=label_input(num_classes),
        update_stats=made.update_stats,
        averaged=("gen",),
        sampler=Sampler(made.draw, options),
        latents=Latents(made.decode, prior=made.prior),
    )


def stylegan_model(
    generator: nn.Module,
    discriminator: nn.Module,
    latent_dim: int,
    shape: Shape,
    *,
    styles: Styles | None = None,
    penalties: Penalties | None = None,
    augmenting: Augmenting | None = None,
    num_classes: int | None = None,
) -> Model:
    """Make StyleGAN2 (Karras et al. 2020a), with ADA where ``augmenting`` adapts (2020b).

    As :func:`gan_model` with the classic game and R1 every 16th step; and with style mixing, path
    length regularization as the turn ``"path"``, and running means of w and of path lengths in the
    generator's statistics. There is no standard deviation of minibatches, which would let an
    example's logit depend on its batch.

    Args:
        generator: :class:`gen_jax.nn.stylegan.StyleGenerator`, or another with its methods.
        discriminator: Linen module ``(x, label) -> logits [batch]``.
        latent_dim: length of z.
        shape: of one x.
        styles: mixing, path lengths and the mean of w.
        penalties: by default R1 every 16th step, with gamma a thousandth of the number of pixels.
        augmenting: what the discriminator sees through; by default nothing.
        num_classes: labels of both players; None for none.

    Returns:
        A model of ``batch["x"]``. Its sampler takes ``truncation``; its latents are z, decoded
        without noise.

    Raises:
        ValueError: if arguments do not go together.
    """
    styles = Styles() if styles is None else styles
    if penalties is None:
        gamma = 1e-3 * math.prod(shape[:2])
        penalties = Penalties(Ramp(gamma, gamma, 0), r2=False, every=16)
    augmenting = Augmenting() if augmenting is None else augmenting
    base = gan_model(
        generator,
        discriminator,
        latent_dim,
        shape,
        game="non_saturating",
        penalties=penalties,
        augmenting=augmenting,
        num_classes=num_classes,
    )
    if not 0 <= styles.mixing <= 1 or not 0 <= styles.decay < 1:
        raise ValueError(f"styles: got {styles}; mixing in [0, 1] and decay in [0, 1) are required")
    if styles.path_every < 0 or styles.path_weight < 0:
        raise ValueError(f"styles: got {styles}; path_every and path_weight from 0 are required")
    game = adversarial.GAMES["non_saturating"]
    made = _GAN(
        generator, discriminator, latent_dim, game, penalties, augmenting, num_classes, styles
    )
    losses = {"disc": Loss("disc", made.discriminate), "gen": Loss("gen", made.fool)}
    turns = [Turn("disc"), Turn("gen")]
    if styles.path_every:
        losses["path"] = Loss("gen", made.straighten)
        turns.append(Turn("path", every=styles.path_every, part=(0, 2)))
    options = {
        "truncation": Option(
            float, 1.0, "a number from 0", lambda x: 0 <= x < math.inf, False,
            "how far w is from its mean; below 1 for likelier samples that differ less",
        ),
    }  # fmt: skip
    return base._replace(
        init=made.init,
        losses=losses,
        turns=tuple(turns),
        update_stats=made.update_stats,
        sampler=Sampler(made.draw_styled, options),
    )


def _turns(critic_turns: int) -> tuple[Turn, ...]:
    if critic_turns == 1:
        return Turn("disc"), Turn("gen")
    critics = (Turn("disc", part=(i, critic_turns)) for i in range(critic_turns))
    return (*critics, Turn("gen", part=(0, critic_turns)))
