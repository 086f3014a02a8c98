"""From images to images: pairs (pix2pix) and no pairs (CycleGAN)."""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.errors import check_arguments
from gen_jax.models.rules import translation_faults
from gen_jax.ops import adversarial, keys as rng
from gen_jax.ops.adversarial import Game
from gen_jax.protocols import (
    Aux,
    Batch,
    Cond,
    Context,
    Input,
    Loss,
    Model,
    Option,
    Params,
    Sampler,
    Stats,
    Weights,
    batch_mean,
    take,
)
from gen_jax.typing import Array, Bool, Float, Int, Keys, PyTree, Scalar, Shape

__all__ = ["cyclegan_model", "pix2pix_model"]


def _by_example(values: Array) -> Array:
    return jnp.mean(jnp.reshape(values, (len(values), -1)), axis=1)


def _apart(a: Array, b: Array) -> Array:
    """Return the mean absolute difference of each example."""
    return _by_example(jnp.abs(a - b))


def _told_apart(game: Game, real: Array, fake: Array) -> tuple[Array, dict[str, Array]]:
    """Return the discriminator's loss of each example, and what to report of it."""
    nats = jnp.reshape(game.disc(real.ravel(), fake.ravel()), real.shape)
    metrics = {
        "margin": _by_example(real - fake),
        "accuracy": _by_example((real > fake).astype(jnp.float32)),
    }
    return _by_example(nats), metrics


def _fooled(game: Game, fake: Array) -> Array:
    nats = game.gen(jnp.zeros(fake.size), fake.ravel())
    return _by_example(jnp.reshape(nats, fake.shape))


class _Pix2Pix(NamedTuple):
    """What pix2pix is made of, and what it does."""

    generator: nn.Module
    discriminator: nn.Module
    game: Game
    l1_weight: float

    def translate(self, params: Params, source: Array) -> Array:
        x = self.generator.apply({"params": params["gen"]}, source)
        assert isinstance(x, Array)
        return x

    def logits(self, params: Params, source: Array, x: Array) -> Array:
        both = jnp.concatenate([source, x], axis=-1)
        logits = self.discriminator.apply({"params": params["disc"]}, both)
        assert isinstance(logits, Array)
        return logits

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        gen_key, disc_key = jax.random.split(key)
        x, source = batch["x"][:1], take(batch, "source")[:1]
        both = jnp.concatenate([source, x], axis=-1)
        params = {
            "gen": self.generator.init(gen_key, source)["params"],
            "disc": self.discriminator.init(disc_key, both)["params"],
        }
        return params, {"gen": {}, "disc": {}}

    def fool(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del keys, context
        source = take(batch, "source")
        made = self.translate(weights.params, source)
        nats = _fooled(self.game, self.logits(weights.params, source, made))
        apart = _apart(made, batch["x"])
        metrics = {"adversarial": batch_mean(batch, nats), "l1": batch_mean(batch, apart)}
        return batch_mean(batch, nats + self.l1_weight * apart), Aux({}, metrics)

    def discriminate(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del keys, context
        source = take(batch, "source")
        made = self.translate(weights.params, source)
        real = self.logits(weights.params, source, batch["x"])
        fake = self.logits(weights.params, source, made)
        nats, metrics = _told_apart(self.game, real, fake)
        reported = {name: batch_mean(batch, x) for name, x in metrics.items()}
        return batch_mean(batch, nats), Aux({}, reported)

    def draw(self, weights: Weights, keys: Keys, cond: Cond) -> Array:
        del keys
        return self.translate(weights.params, take(cond, "source"))


def pix2pix_model(
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    game: str = "least_squares",
    l1_weight: float = 100.0,
) -> Model:
    """Learn from pairs to make x of ``source`` (Isola et al. 2017).

    Its players are ``"gen"``, which alone is averaged, and ``"disc"``, its losses ``"gen"``, the
    adversarial loss and ``l1_weight`` times the mean absolute error, and ``"disc"``, both means
    over patches. Nothing is drawn at random: as its authors found, z would be ignored.

    Args:
        generator: Linen module ``source -> x``.
        discriminator: Linen module of source and x, one behind the other along channels, to logits
            [batch, ...].
        game: of :data:`gen_jax.ops.adversarial.GAMES`, but none of pairs of logits.
        l1_weight: of the mean absolute error.

    Returns:
        A model of ``batch["x"]``, told ``source``, an image. A request's is translated.

    Raises:
        ValueError: if an argument is out of range.
    """
    check_arguments(translation_faults(game=game, weights={"l1_weight": l1_weight}))
    made = _Pix2Pix(generator, discriminator, adversarial.GAMES[game], l1_weight)
    return Model(
        init=made.init,
        losses={"gen": Loss("gen", made.fool), "disc": Loss("disc", made.discriminate)},
        inputs={"source": Input("image", help="the image to translate")},
        averaged=("gen",),
        sampler=Sampler(made.draw),
    )


class _Pool(NamedTuple):
    """Images that a generator made before."""

    images: Float[Array, "slots height width channels"]
    filled: Bool[Array, "slots"]


class _CycleGAN(NamedTuple):
    """What CycleGAN is made of, and what it does: a stands for x, b for ``other``."""

    generator: nn.Module
    discriminator: nn.Module
    game: Game
    shape: Shape
    batch_size: int
    slots: int
    cycle: float
    identity: float

    def translate(self, params: Params, way: str, x: Array) -> Array:
        made = self.generator.apply({"params": params["gen"][way]}, x)
        assert isinstance(made, Array)
        return made

    def logits(self, params: Params, whose: str, x: Array) -> Array:
        logits = self.discriminator.apply({"params": params["disc"][whose]}, x)
        assert isinstance(logits, Array)
        return logits

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        keys, x = jax.random.split(key, 4), batch["x"][:1]
        gens = {way: self.generator.init(keys[i], x)["params"] for i, way in enumerate(_WAYS)}
        discs = {
            whose: self.discriminator.init(keys[2 + i], x)["params"] for i, whose in enumerate("ab")
        }
        empty = _Pool(jnp.zeros((self.slots, *self.shape)), jnp.zeros(self.slots, bool))
        return {"gen": gens, "disc": discs}, {"gen": {}, "disc": dict.fromkeys("ab", empty)}

    def fool(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del keys, context
        params, a, b = weights.params, batch["x"], take(batch, "other")
        like_b, like_a = self.translate(params, "ab", a), self.translate(params, "ba", b)
        terms = {
            "adversarial": _fooled(self.game, self.logits(params, "b", like_b))
            + _fooled(self.game, self.logits(params, "a", like_a)),
            "cycle": _apart(self.translate(params, "ba", like_b), a)
            + _apart(self.translate(params, "ab", like_a), b),
            "identity": _apart(self.translate(params, "ba", a), a)
            + _apart(self.translate(params, "ab", b), b),
        }
        total = (
            terms["adversarial"] + self.cycle * terms["cycle"] + self.identity * terms["identity"]
        )
        metrics = {name: batch_mean(batch, x) for name, x in terms.items()}
        return batch_mean(batch, total), Aux({}, metrics)

    def discriminate(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        del context
        params, total = weights.params, jnp.zeros(())
        observed: dict[str, PyTree] = {}
        metrics: dict[str, Scalar] = {}
        images = {"a": batch["x"], "b": take(batch, "other")}
        for number, (whose, way, of) in enumerate((("a", "ba", "b"), ("b", "ab", "a"))):
            fresh = jax.lax.stop_gradient(self.translate(params, way, images[of]))
            own = rng.fold_in(keys, number)
            shown, observed[whose] = _show(weights.stats["disc"][whose], fresh, own)
            real = self.logits(params, whose, images[whose])
            nats, reported = _told_apart(self.game, real, self.logits(params, whose, shown))
            total += batch_mean(batch, nats)
            metrics |= {f"{name}_{whose}": batch_mean(batch, x) for name, x in reported.items()}
        return total, Aux(observed, metrics)

    def update_stats(
        self, weights: Weights, observed: Mapping[str, PyTree], key: Array, step: Array
    ) -> tuple[Stats, Mapping[str, Scalar]]:
        del key, step
        if "disc" not in observed:
            return weights.stats, {}
        pools = {
            whose: _kept(weights.stats["disc"][whose], observed["disc"][whose], self.batch_size)
            for whose in "ab"
        }
        full = jnp.mean(pools["a"].filled.astype(jnp.float32))
        return {**weights.stats, "disc": pools}, {"pool_filled": full}

    def draw(self, weights: Weights, keys: Keys, cond: Cond, *, direction: str = "ba") -> Array:
        """Translate images; see the sampler's options."""
        del keys
        return self.translate(weights.params, direction, take(cond, "other"))


_WAYS = ("ab", "ba")


def _show(pool: _Pool, fresh: Array, keys: Keys) -> tuple[Array, dict[str, Array]]:
    """Choose what a discriminator is shown of what was made now and before.

    With an even chance an image is kept and an older one, whose place it takes, is shown for it
    (Shrivastava et al. 2017, section 2.3). Until the pool is full all are kept, and none are old.

    Returns:
        Images [batch, ...], and what this batch writes into which slot, as averages.
    """
    slots = len(pool.filled)
    slot: Int[Array, "batch"] = jax.vmap(lambda key: jax.random.randint(key, (), 0, slots))(
        rng.fold_in(keys, 0)
    )
    coin = jax.vmap(jax.random.bernoulli)(rng.fold_in(keys, 1))
    full = jnp.all(pool.filled)
    kept = jnp.where(full, coin, True)
    old = jnp.reshape(full & coin, (-1, 1, 1, 1))
    shown = jnp.where(old, pool.images[slot], fresh)
    weight = kept.astype(jnp.float32)
    into = jax.nn.one_hot(slot, slots) * weight[:, None]
    images = jnp.einsum("bs,bhwc->shwc", into, fresh, precision=jax.lax.Precision.HIGHEST)
    return shown, {"counts": jnp.mean(into, axis=0), "images": images / len(fresh)}


def _kept(pool: _Pool, seen: Mapping[str, Array], batch_size: int) -> _Pool:
    """Write what a batch made into its slots; one that two images fell into stays as it was."""
    one = jnp.abs(seen["counts"] * batch_size - 1) < 0.5
    images = jnp.where(one[:, None, None, None], seen["images"] * batch_size, pool.images)
    return _Pool(images, pool.filled | one)


def cyclegan_model(
    generator: nn.Module,
    discriminator: nn.Module,
    shape: Shape,
    *,
    batch_size: int,
    game: str = "least_squares",
    slots: int = 50,
    cycle_weight: float = 10.0,
    identity_weight: float = 5.0,
) -> Model:
    """Learn without pairs to make images of one kind of those of another (Zhu et al. 2017).

    x is of kind a, ``other`` of kind b. Its players are ``"gen"``, with a network for each way,
    ``"ab"`` and ``"ba"``, which alone is averaged, and ``"disc"``, with one for each kind. The
    loss ``"gen"`` is adversarial, and, as weighted means over pixels, what a cycle of both ways
    changes and what a way changes of images that are of its kind already. ``"disc"`` is shown what
    was made now and before, from a pool in the statistics, which resume as they were.

    Args:
        generator: Linen module from image to image, both from -1 to 1.
        discriminator: Linen module ``x -> logits [batch, ...]``.
        shape: of one image.
        batch_size: of the global batch.
        game: of :data:`gen_jax.ops.adversarial.GAMES`, but none of pairs of logits.
        slots: of each pool.
        cycle_weight: of the cycle's mean absolute error.
        identity_weight: of the identity's.

    Returns:
        A model of ``batch["x"]``, told ``other``, an image. Its sampler translates ``other``, with
        the option ``direction`` ``"ab"`` images of kind a into b.

    Raises:
        ValueError: if an argument is out of range.
    """
    weights = {"cycle_weight": cycle_weight, "identity_weight": identity_weight}
    check_arguments(translation_faults(game=game, weights=weights, slots=slots))
    made = _CycleGAN(
        generator,
        discriminator,
        adversarial.GAMES[game],
        tuple(shape),
        batch_size,
        slots,
        cycle_weight,
        identity_weight,
    )
    options = {
        "direction": Option(
            str, "ba", "ab or ba", _WAYS.__contains__, True,
            "ba makes images like the data's of others; ab others of images like the data's",
        ),
    }  # fmt: skip
    return Model(
        init=made.init,
        losses={"gen": Loss("gen", made.fool), "disc": Loss("disc", made.discriminate)},
        inputs={"other": Input("image", help="the image to translate")},
        update_stats=made.update_stats,
        averaged=("gen",),
        sampler=Sampler(made.draw, options),
    )
