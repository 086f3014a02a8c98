"""Normalizing flows: exact densities by a change of variables."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.errors import check_arguments
from gen_jax.models.rules import flow_faults
from gen_jax.ops import keys as rng
from gen_jax.ops.bijectors import Bijector
from gen_jax.protocols import (
    Aux,
    Batch,
    Cond,
    Context,
    Density,
    Latents,
    LogProb,
    Loss,
    Model,
    Option,
    Params,
    Predicted,
    Sampler,
    Stats,
    Weights,
    batch_mean,
    label_input,
    take,
)
from gen_jax.typing import Array, Float, Int, Keys, PyTree, Scalar, ScalarLike, Shape

__all__ = ["flow_model"]

# Folded into an example's key, apart from one another and from a codec's.
_PRIOR, _NOISE, _BINS, _CLASS = 0, 1, 2, 3
_GRAY_LEVEL = 1 / 128  # of a gray level's bin, in x from -1 to 1


def _normal_nats(z: PyTree) -> Float[Array, "batch"]:
    """Compute log N(z; 0, 1) of each example."""
    leaves = [jnp.reshape(x, (len(x), -1)).astype(jnp.float32) for x in jax.tree.leaves(z)]
    dims = sum(x.shape[1] for x in leaves)
    squares = jnp.sum(jnp.stack([jnp.sum(jnp.square(x), axis=1) for x in leaves]), axis=0)
    return -0.5 * squares - 0.5 * dims * math.log(2 * math.pi)


def _asked(how: Mapping[str, Any]) -> dict[str, Any]:
    """Take the options that were given: ``guidance`` and ``jacobi``."""
    return {name: value for name, value in how.items() if value is not None}


class _Flow(NamedTuple):
    """What a flow is made of, and what it does."""

    bijector: Bijector
    shape: Shape
    num_classes: int | None
    class_dropout: float
    noise: float
    dequantizer: Bijector | None

    @property
    def num_dims(self) -> int:
        return math.prod(self.shape)

    def told(self, given: Batch | Cond, keys: Keys | None = None) -> dict[str, Any]:
        """Take the label; with keys, of training, it is left out of some examples."""
        if self.num_classes is None:
            return {}
        label = take(given, "label")
        if keys is None or not self.class_dropout:
            return {"label": label}
        drop = rng.uniform(rng.fold_in(keys, _CLASS), ()) < self.class_dropout
        return {"label": jnp.where(drop, self.num_classes, label)}

    def init(self, key: Array, batch: Batch, frozen: PyTree) -> tuple[Params, Stats]:
        del frozen
        flow_key, other_key, bins_key = jax.random.split(key, 3)
        x = batch["x"]
        if self.dequantizer is None:
            return {"net": self.bijector.init(flow_key, x, self.told(batch))}, {}
        keys = rng.per_example(bins_key, 0, len(x))
        noise = rng.normal(keys, self.shape)
        dequantizer = self.dequantizer.init(other_key, noise, {"image": x})
        x, _ = self.filled({"dequantizer": dequantizer}, x, keys)
        flow = self.bijector.init(flow_key, x, self.told(batch))
        return {"net": {"flow": flow, "dequantizer": dequantizer}}, {}

    def flow_of(self, params: Params) -> PyTree:
        return params["net"] if self.dequantizer is None else params["net"]["flow"]

    def filled(
        self, net: PyTree, x: Float[Array, "batch *dims"], keys: Keys
    ) -> tuple[Float[Array, "batch *dims"], Float[Array, "batch"]]:
        """Draw where in its bin each pixel lies; return x and log q(u | x), u in gray levels."""
        assert self.dequantizer is not None
        noise = rng.normal(rng.fold_in(keys, _BINS), self.shape)
        v, log_det = self.dequantizer.forward(net["dequantizer"], noise, {"image": x})
        slopes = jax.nn.log_sigmoid(v) + jax.nn.log_sigmoid(-v)
        slopes = jnp.sum(jnp.reshape(slopes, (len(x), -1)), axis=1)
        return x + jax.nn.sigmoid(v) * _GRAY_LEVEL, _normal_nats(noise) - log_det - slopes

    def nats(
        self, params: Params, x: Float[Array, "batch *dims"], told: Mapping[str, Any]
    ) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
        """Compute log p(x) = log N(f(x)) + log |det df/dx|, and its second term."""
        z, log_det = self.bijector.forward(self.flow_of(params), x, told)
        return _normal_nats(z) + log_det, log_det

    def bound(
        self, params: Params, x: Array, told: Mapping[str, Any], keys: Keys
    ) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
        """As :meth:`nats`; of pixels' lower edges, draw the rest (Ho et al. 2019, Eq. 5)."""
        if self.dequantizer is None:
            return self.nats(params, x, told)
        x, spent = self.filled(params["net"], x, keys)
        nats, log_det = self.nats(params, x, told)
        # u is in gray levels and p in x, as the codec expects that brings it to gray levels.
        return nats - spent, log_det

    def loss(
        self, weights: Weights, batch: Batch, keys: Keys, context: Context
    ) -> tuple[Scalar, Aux]:
        x = batch["x"]
        if self.noise and context.train:
            x = x + self.noise * rng.normal(rng.fold_in(keys, _NOISE), self.shape)
        told = self.told(batch, keys if context.train else None)
        nats, log_det = self.bound(weights.params, x, told, keys)
        mean = batch_mean(batch, -nats)
        metrics = {
            "nats_per_dim": mean / self.num_dims,
            "log_det_per_dim": batch_mean(batch, log_det) / self.num_dims,
        }
        return mean, Aux({}, metrics)

    def log_prob(self, weights: Weights, batch: Batch, keys: Keys) -> LogProb:
        nats, _ = self.bound(weights.params, batch["x"], self.told(batch), keys)
        exact = self.dequantizer is None
        return LogProb(nats, jnp.zeros_like(nats) if exact else jnp.full_like(nats, jnp.nan))

    def prior(self, keys: Keys) -> Float[Array, "batch dims"]:
        return rng.normal(rng.fold_in(keys, _PRIOR), (self.num_dims,))

    def encode(
        self, weights: Weights, x: Array, cond: Cond, keys: Keys | None = None, **how: Any
    ) -> Float[Array, "batch dims"]:
        del keys
        x = x if self.dequantizer is None else x + 0.5 * _GRAY_LEVEL
        told = self.told(cond) | _asked(how)
        z, _ = self.bijector.forward(self.flow_of(weights.params), x, told)
        return jnp.concatenate([jnp.reshape(part, (len(x), -1)) for part in jax.tree.leaves(z)], 1)

    def decode(
        self, weights: Weights, z: Float[Array, "batch dims"], cond: Cond, **how: Any
    ) -> Float[Array, "batch *dims"]:
        params, told = self.flow_of(weights.params), self.told(cond) | _asked(how)
        like = jax.ShapeDtypeStruct((len(z), *self.shape), jnp.float32)
        parts = jax.eval_shape(lambda x: self.bijector.forward(params, x, told)[0], like)
        leaves, structure = jax.tree.flatten(parts)
        ends = np.cumsum([math.prod(leaf.shape[1:]) for leaf in leaves])[:-1].tolist()
        split = jnp.split(z, ends, axis=1)
        shaped = [jnp.reshape(part, leaf.shape) for part, leaf in zip(split, leaves, strict=True)]
        x, _ = self.bijector.inverse(params, jax.tree.unflatten(structure, shaped), told)
        return x

    def denoised(
        self, weights: Weights, x: Float[Array, "batch *dims"], cond: Cond
    ) -> Float[Array, "batch *dims"]:
        """Take the noise of training off: x + noise^2 grad log p(x) (Zhai et al. 2024, Eq. 9)."""
        told = self.told(cond)
        score = jax.grad(lambda x: jnp.sum(self.nats(weights.params, x, told)[0]))(x)
        return x + self.noise**2 * score

    def draw(
        self,
        weights: Weights,
        keys: Keys,
        cond: Cond,
        *,
        temperature: ScalarLike = 1.0,
        denoise: bool = True,
        **how: Any,
    ) -> Float[Array, "batch *dims"]:
        """Draw samples; see the sampler's options for what they mean."""
        x = self.decode(weights, temperature * self.prior(keys), cond, **how)
        return self.denoised(weights, x, cond) if self.noise and denoise else x

    def predict(self, weights: Weights, x: Array, cond: Cond) -> Predicted:
        """Classify by Bayes' rule, all classes being as likely: p(y | x) = p(x | y) / sum."""
        del cond
        assert self.num_classes is not None
        x = x if self.dequantizer is None else x + 0.5 * _GRAY_LEVEL

        def of_class(label: Int[Array, ""]) -> Array:
            told = {"label": jnp.full(len(x), label)}
            return self.nats(weights.params, x, told)[0]

        nats = jax.lax.map(of_class, jnp.arange(self.num_classes)).T
        log_probs = jax.nn.log_softmax(nats, axis=1)
        return Predicted(log_probs, self.encode(weights, x, {"label": jnp.argmax(nats, axis=1)}))


def flow_model(
    bijector: Bijector,
    shape: Sequence[int],
    *,
    num_classes: int | None = None,
    class_dropout: float = 0.0,
    noise: float = 0.0,
    dequantizer: Bijector | None = None,
    autoregressive: bool = False,
) -> Model:
    """Make p(x) = N(f(x); 0, 1) |det df/dx| of an invertible f (Dinh et al. 2017, Eq. 2).

    Its only player is ``"net"`` and its only loss ``"flow"``, -log p(x) in nats an example. Images
    want a codec that makes a density of them: :func:`gen_jax.codecs.dequantize`, or that without
    noise and a ``dequantizer`` (variational dequantization, Ho et al. 2019); or, for pictures and
    not for numbers, :func:`gen_jax.codecs.rgb` and ``noise``.

    Args:
        bijector: f, for example :func:`gen_jax.nn.flow.glow`; its networks take ``num_classes``.
        shape: of one x.
        num_classes: labels that f is told, the number itself standing for none; None for none.
        class_dropout: share of labels that training leaves out, for guidance.
        noise: deviation of Gaussian noise that is added to x in training, and taken off samples
            (TarFlow, Zhai et al. 2024, section 3.2). There is no density then.
        dequantizer: from noise to where in its gray level a pixel lies, told ``image``.
        autoregressive: whether f has :func:`gen_jax.ops.bijectors.autoregressive` in it, whose
            inverse may be guided and take rounds.

    Returns:
        A model of ``batch["x"]`` whose latents z, all numbers of f(x) in a row, are exact both
        ways, and with labels a classifier, by Bayes' rule.

    Raises:
        ValueError: if arguments do not go together.

    Example:
        >>> model = with_codec(flow_model(glow((28, 28, 1)), (28, 28, 1)), dequantize())
    """
    check_arguments(
        flow_faults(
            class_dropout=class_dropout,
            conditional=num_classes is not None,
            noise=noise,
            variational=dequantizer is not None,
            autoregressive=autoregressive,
        )
    )
    made = _Flow(bijector, tuple(shape), num_classes, class_dropout, noise, dequantizer)
    options: dict[str, Option] = {}
    if autoregressive:
        options["jacobi"] = Option(
            int, 0, "a whole number from 0", lambda n: n >= 0, True,
            "rounds of all tokens at once, in place of one token after another; 0 for that",
        )  # fmt: skip
    if class_dropout:
        options["guidance"] = Option(
            float, None, "a number from 0", lambda w: 0 <= w < math.inf, False,
            "classifier-free: 1 for the class as it is, above for more of it, at twice the work",
        )  # fmt: skip
    own = {}
    if noise:
        own["denoise"] = Option(
            bool, True, "True or False", lambda x: True, True,
            "whether the noise of training is taken off, by one step along the gradient",
        )  # fmt: skip
    own["temperature"] = Option(
        float, 1.0, "a number from 0", lambda x: 0 <= x < math.inf, False,
        "standard deviation of z; below 1 for likelier samples that differ less",
    )  # fmt: skip
    kind: Literal["exact", "bound"] = "exact" if dequantizer is None else "bound"
    return Model(
        init=made.init,
        losses={"flow": Loss("net", made.loss)},
        inputs=label_input(num_classes),
        sampler=Sampler(made.draw, {**own, **options}),
        latents=Latents(made.decode, made.encode, made.prior, options=options),
        density=None if noise else Density(made.log_prob, kind),
        predict=None if num_classes is None else made.predict,
    )
