"""An adversary for any autoencoder: VQGAN's second player (Esser et al. 2021)."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from gen_jax.errors import check_arguments
from gen_jax.models.rules import adversary_faults
from gen_jax.nn.perceptual import lpips
from gen_jax.ops import adversarial
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
    batch_mean,
)
from gen_jax.typing import Array, Keys, PyTree, Scalar

__all__ = ["Adversary", "with_adversary"]

# Of LeCam's running means of logits (Tseng et al. 2021).
_DECAY = 0.99


class Adversary(NamedTuple):
    """How a discriminator takes part in an autoencoder's training.

    ``last`` is a pattern of the path, as ``"decoder/head"``, of the one module whose outputs the
    likelihood is given: a linear layer with a ``kernel``. ``mean(outputs)`` is x, from ``low`` to
    1. The discriminator is trained from step ``disc_from`` on; its loss enters the autoencoder's
    from step ``gen_from`` on, rising to its weight in ``ramp`` steps. With ``adaptive`` that weight
    is times the ratio of gradients at the last layer. ``perceptual`` names a network of LPIPS,
    whose weights are ``frozen["perceptual"]``; its weight is relative to the mean squared error.
    """

    last: str
    mean: Callable[[Array], Array]
    low: float = -1.0
    game: str = "hinge"
    weight: float = 0.8
    adaptive: bool = True
    disc_from: int = 0
    gen_from: int = 0
    ramp: int = 1
    lecam: float = 0.0
    perceptual: str | None = None
    perceptual_weight: float = 1.0


class _Seen(NamedTuple):
    """The last layer at work: what it was given, what it gave, and its parameters."""

    hidden: Array
    outputs: Array
    params: PyTree


class _Watched(NamedTuple):
    """What an autoencoder with an adversary is made of, and what it does."""

    model: Model
    name: str  # of the autoencoder's loss
    discriminator: nn.Module | None
    given: Adversary

    def watch(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context, tap: Array | float
    ) -> tuple[Scalar, tuple[Aux, _Seen, list[nn.Module]]]:
        """Take the autoencoder's loss, with ``tap`` added to the last layer's outputs."""
        found: list[tuple[nn.Module, _Seen]] = []

        def look(call: Callable, args: tuple, kwargs: dict, info: Any) -> Any:
            made = call(*args, **kwargs)
            path = "/".join(info.module.path)
            if info.method_name != "__call__" or not re.search(self.given.last, path):
                return made
            made = made + tap
            own = info.module.variables["params"]
            found.append((info.module.clone(parent=None, name=None), _Seen(args[0], made, own)))
            return made

        with nn.intercept_methods(look):
            value, aux = self.model.losses[self.name].fn(weights, batch, keys, context)
        if len(found) != 1:
            raise ValueError(
                f"last: {self.given.last!r} is the path of {len(found)} layers; of one is required"
            )
        return value, (aux, found[0][1], [found[0][0]])

    def logits(self, params: Params, x: Array) -> Array:
        assert self.discriminator is not None
        logits = self.discriminator.apply({"params": params["disc"]}, x)
        assert isinstance(logits, Array)
        return jnp.reshape(logits, (len(x), -1))

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        net_key, disc_key = jax.random.split(key)
        params, stats = self.model.init(net_key, batch, frozen)
        assert self.discriminator is not None
        disc = self.discriminator.init(disc_key, batch["x"][:1])["params"]
        zero = jnp.float32(0)
        means = {"real": zero, "fake": zero} if self.given.lecam else {}
        return {**params, "disc": disc}, {**stats, "disc": means}

    def reconstruct(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        """Add the perceptual and the adversarial loss, whose gradients enter at the last layer.

        Both are differentiated once, with respect to its outputs; the network's own backward pass
        carries the sum on.
        """
        given = self.given
        modules: list[nn.Module] = []

        def base(tap: Array | float) -> tuple[Scalar, tuple[Aux, _Seen]]:
            value, (aux, seen, watched) = self.watch(weights, batch, keys, context, tap)
            modules[:] = watched
            return value, (aux, seen)

        shape = jax.eval_shape(lambda: base(0.0)[1][1].outputs)
        tap = jnp.zeros(shape.shape, shape.dtype)
        (value, (aux, seen)), slope = jax.value_and_grad(base, has_aux=True)(tap)
        fixed = jax.tree.map(jax.lax.stop_gradient, seen)
        slope = jax.lax.stop_gradient(slope)
        metrics = dict(aux.metrics)
        total, pull = jnp.zeros(()), jnp.zeros_like(slope)
        if given.perceptual is not None:
            distance = lambda outputs: self.distance(weights, batch, outputs)  # noqa: E731
            (total, metrics["perceptual"]), pull = jax.value_and_grad(distance, has_aux=True)(
                fixed.outputs
            )
        if self.discriminator is None:
            return self.add(value, seen, pull, total), aux._replace(metrics=metrics)

        def adverse() -> tuple[Scalar, Array, Scalar, Scalar]:
            fool = lambda outputs: self.fool(weights, batch, outputs)  # noqa: E731
            loss, toward = jax.value_and_grad(fool)(fixed.outputs)
            weight = jnp.ones(())
            if given.adaptive:
                weight = self.adaptive_weight(modules[0], fixed, slope + pull, toward, context)
            share = (context.step - given.gen_from + 1) / max(given.ramp, 1)
            factor = given.weight * jnp.clip(share, 0.0, 1.0) * weight
            return factor * loss, factor * toward, loss, weight

        def nothing() -> tuple[Scalar, Array, Scalar, Scalar]:
            zero = jnp.zeros(())
            return zero, jnp.zeros_like(fixed.outputs), zero, zero

        due = context.step >= given.gen_from
        nats, toward, metrics["adversarial"], metrics["weight"] = jax.lax.cond(
            due, adverse, nothing
        )
        value = self.add(value, seen, pull + toward, total + nats)
        return value, aux._replace(metrics=metrics)

    def add(self, value: Scalar, seen: _Seen, slope: Array, extra: Scalar) -> Scalar:
        """Add to a loss a value, and its gradient with respect to the last layer's outputs."""
        along = jnp.sum(seen.outputs * jax.lax.stop_gradient(slope))
        return value + along - jax.lax.stop_gradient(along) + jax.lax.stop_gradient(extra)

    def distance(self, weights: Weights, batch: Batch, outputs: Array) -> tuple[Scalar, Scalar]:
        given, x = self.given, batch["x"]
        assert given.perceptual is not None
        if "perceptual" not in weights.frozen:
            raise ValueError("frozen: 'perceptual', the weights of LPIPS, is required")
        apart = batch_mean(
            batch,
            lpips(
                given.perceptual, weights.frozen["perceptual"], given.mean(outputs), x, given.low
            ),
        )
        # Nats of squared errors are half of their sum; those of their mean, one dimension's.
        return given.perceptual_weight * 0.5 * x[0].size * apart, apart

    def fool(self, weights: Weights, batch: Batch, outputs: Array) -> Scalar:
        fake = self.logits(weights.params, self.given.mean(outputs))
        nats = adversarial.GAMES[self.given.game].gen(jnp.zeros(fake.size), fake.ravel())
        return batch_mean(batch, jnp.mean(nats.reshape(fake.shape), axis=1))

    def adaptive_weight(
        self, module: nn.Module, seen: _Seen, wanted: Array, toward: Array, context: Context
    ) -> Scalar:
        """Weigh by gradients of the last layer's kernel, from those of its outputs alone."""

        def layer(kernel: Array) -> Array:
            made = module.apply({"params": {**seen.params, "kernel": kernel}}, seen.hidden)
            assert isinstance(made, Array)
            return made

        pull = jax.vjp(layer, seen.params["kernel"])[1]
        grads = context.across.mean((pull(wanted)[0], pull(toward)[0]))  # of the global batch
        return adversarial.adaptive_weight(*grads)

    def discriminate(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        given, x = self.given, batch["x"]
        _, (_, seen, _) = self.watch(weights, batch, keys, context, 0.0)
        made = jax.lax.stop_gradient(given.mean(seen.outputs))
        real, fake = self.logits(weights.params, x), self.logits(weights.params, made)
        nats = adversarial.GAMES[given.game].disc(real.ravel(), fake.ravel())
        by_example = jnp.mean(nats.reshape(real.shape), axis=1)
        right = 0.5 * ((real > 0).astype(jnp.float32) + (fake <= 0).astype(jnp.float32))
        metrics = {
            "game": batch_mean(batch, by_example),
            "margin": batch_mean(batch, jnp.mean(real - fake, axis=1)),
            "accuracy": batch_mean(batch, jnp.mean(right, axis=1)),
        }
        observed = {}
        if given.lecam:
            old = weights.stats["disc"]
            penalty = adversarial.lecam_penalty(
                real.ravel(), fake.ravel(), old["real"], old["fake"]
            )
            by_example += given.lecam * jnp.mean(penalty.reshape(real.shape), axis=1)
            observed = jax.lax.stop_gradient(
                {
                    "real": batch_mean(batch, jnp.mean(real, axis=1)),
                    "fake": batch_mean(batch, jnp.mean(fake, axis=1)),
                }
            )
        return batch_mean(batch, by_example), Aux(observed, metrics)

    def update_stats(
        self, weights: Weights, observed: Mapping[str, PyTree], key: Array, step: Array
    ) -> tuple[Stats, Mapping[str, Scalar]]:
        if "disc" in observed:
            old = weights.stats["disc"]
            means = {
                name: old[name] + (1 - _DECAY) * (value - old[name])
                for name, value in observed["disc"].items()
            }
            return {**weights.stats, "disc": means}, {}
        stats, metrics = self.model.update_stats(weights, observed, key, step)
        return {**weights.stats, **stats}, metrics


def with_adversary(model: Model, discriminator: nn.Module | None, given: Adversary) -> Model:
    """Give an autoencoder an adversary, and a perceptual loss if there is to be one.

    VQGAN is this of :func:`gen_jax.models.vqvae.vqvae_model`, the autoencoder of latent diffusion
    of :func:`gen_jax.models.vae.vae_model`. All abilities stay as they are; there is a further
    player ``"disc"``, which is not averaged, and a further loss ``"disc"``. The autoencoder's loss
    has the further metrics ``perceptual``, ``adversarial`` and ``weight``, and until
    ``given.gen_from`` its gradient is the autoencoder's own and LPIPS'.

    The adaptive weight (Esser et al. 2021, Eq. 7) takes no second backward pass: gradients of the
    last layer's kernel follow from those of its outputs. They are of the whole batch, or with
    microbatches of each of them.

    Args:
        model: with one loss, of networks in Linen.
        discriminator: Linen module ``x -> logits [batch, ...]``, for example
            :class:`gen_jax.nn.gan.PatchDiscriminator`. It must not look across the batch. None for
            the perceptual loss alone.
        given: how it takes part.

    Returns:
        A model of ``batch["x"]``.

    Raises:
        ValueError: if the model has several losses, there is nothing to add to it, or arguments
            are out of range.
    """
    if discriminator is None and given.perceptual is None:
        raise ValueError("discriminator: None; without, given.perceptual is required")
    if len(model.losses) != 1:
        raise ValueError(f"model: got {len(model.losses)} losses; one is required")
    check_arguments(
        adversary_faults(
            game=given.game,
            weight=given.weight,
            perceptual=given.perceptual,
            perceptual_weight=given.perceptual_weight,
            lecam=given.lecam,
            disc_from=given.disc_from,
            gen_from=given.gen_from,
        )
    )
    ((name, loss),) = model.losses.items()
    made = _Watched(model, name, discriminator, given)
    players = (loss.player,) if model.averaged is None else tuple(model.averaged)
    if discriminator is None:
        return model._replace(losses={name: Loss(loss.player, made.reconstruct)})
    return model._replace(
        init=made.init,
        losses={name: Loss(loss.player, made.reconstruct), "disc": Loss("disc", made.discriminate)},
        turns=(Turn(name), Turn("disc", start=given.disc_from)),
        update_stats=made.update_stats,
        averaged=players,
    )
