"""The few signatures everything else is built from.

Behavior is a NamedTuple of pure functions made by a lower-case factory. What a training step
carries (weights) is kept apart from what it reports (metrics), and whatever a model does takes
:class:`Weights` first.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.typing import Array, Keys, PyTree, Scalar

__all__ = [
    "LOCAL",
    "Across",
    "Aux",
    "Batch",
    "Codec",
    "Cond",
    "Context",
    "Density",
    "Faults",
    "Input",
    "Latents",
    "LogProb",
    "Loss",
    "Matching",
    "Model",
    "Option",
    "Params",
    "Predicted",
    "Sampler",
    "Stats",
    "Turn",
    "Weights",
    "batch_mean",
    "global_mean",
    "label_input",
    "no_faults",
    "no_statistics",
    "nothing_ahead",
    "take",
]

Batch = Mapping[str, PyTree]
"""``image`` uint8 [B, H, W, C], or ``x`` (model space), or ``codes`` (a first stage's, made
beforehand); what ``Model.inputs`` names; optional ``eps`` (given noise) and ``weight`` [B] (0 marks
the padding of a last, short batch)."""

Cond = Mapping[str, Array]
"""What a model is told beside x, by the names of ``Model.inputs``: a batch without x."""

Params = Mapping[str, PyTree]
"""One subtree for each player, for example ``{"net": ...}`` or ``{"gen": ..., "disc": ...}``."""

Stats = Mapping[str, PyTree]
"""One subtree for each player; carried from step to step, but never given a gradient."""


class Weights(NamedTuple):
    """All arrays of a model, by what moves them: the first argument of everything it does."""

    params: Params  # by player; gradients move them
    stats: Stats = {}  # noqa: RUF012 by player; ``Model.update_stats`` moves them
    # A first stage, a text encoder: nobody moves them, and yet they are no constants.
    frozen: PyTree = {}  # noqa: RUF012


class Input(NamedTuple):
    """One array that a model is told beside x, in a batch and in a request alike.

    ``shape`` is that of one example; a length of -1 may vary, and an image or a mask without a
    shape has that of the data's images. ``size`` is the number of classes of a label, or of the
    vocabulary of tokens. What is not ``needed`` may be left out. ``derive`` makes the array of
    ``x``, so that a batch need not bring it; a request must.
    """

    kind: Literal["label", "tokens", "vectors", "image", "mask"]
    shape: tuple[int, ...] = ()
    size: int | None = None
    needed: bool = True
    derive: Callable[[Array], Array] | None = None
    help: str = ""


def label_input(num_classes: int | None) -> dict[str, Input]:
    """Declare a class label, or nothing where there are no classes."""
    return {} if num_classes is None else {"label": Input("label", size=num_classes, help="class")}


def take(told: Mapping[str, Any], name: str) -> Array:
    """Take an input that a model needs from a batch or a request.

    Raises:
        ValueError: if it is not there.
    """
    if name not in told:
        raise ValueError(f"{name}: missing; this model is told it in batches and requests alike")
    return told[name]


class Across(NamedTuple):
    """Reductions over the whole global batch, whichever engine runs the step.

    Under ``jit`` over global arrays a batch is already global and all are the identity. Engines
    that give each device its own shard put collectives here. A loss that is not linear in the
    batch must reduce through these and nothing else.
    """

    mean: Callable[[PyTree], PyTree]
    gather: Callable[[PyTree], PyTree]
    own: Callable[[PyTree], PyTree]  # the part of what ``gather`` gives that is this device's


LOCAL = Across(mean=lambda tree: tree, gather=lambda tree: tree, own=lambda tree: tree)
"""The identity: the batch at hand is the global batch."""


class Context(NamedTuple):
    """What a loss may know beside its arguments."""

    step: Array  # int32 scalar; every annealing schedule reads this
    across: Across
    train: bool


class Aux(NamedTuple):
    """What a loss gives beside its value."""

    observed: PyTree  # batch means of sufficient statistics, reduced over devices and microbatches
    metrics: Mapping[str, Scalar]  # reported; reduced as means


class Loss(NamedTuple):
    """One turn of training: whose subtree gets the gradient, and of what."""

    player: str
    fn: Callable[[Weights, Batch, Keys, Context], tuple[Scalar, Aux]]


class Turn(NamedTuple):
    """When a step takes a loss: every ``every``-th step from ``start`` on, before ``stop``.

    ``part`` (i, n) shows it only the examples i, i + n, ... of the batch, so that losses taken in
    one step need not see the same examples. A turn that waits computes nothing and reports NaN.
    """

    loss: str
    every: int = 1
    start: int = 0
    stop: int | None = None
    part: tuple[int, int] = (0, 1)

    def is_due(self, step: Array | int) -> Any:
        """Return whether a step, of which ``step`` are taken already, takes this turn."""
        due = (step >= self.start) & ((step - self.start) % self.every == 0)
        return due if self.stop is None else due & (step < self.stop)


class LogProb(NamedTuple):
    """Log-density of each example in nats, with the standard error of its estimate.

    The error is 0 for exact densities and not a number for a bound from a single draw. ``terms``
    are what a bound consists of, or stands beside it: arrays [B, ...].
    """

    nats: Array
    stderr: Array
    terms: Mapping[str, Array] = {}


class Predicted(NamedTuple):
    """What a classifier says of each example."""

    log_probs: Array  # [B, classes], of each class, in nats
    features: Array  # [B, D], of the layer before


class Option(NamedTuple):
    """One option of a sampler or of a density; the command line is built from it.

    ``static`` options are compiled in; the others are traced, so that changing them compiles
    nothing. ``needs`` names the input without which it has no meaning.
    """

    kind: type
    default: Any
    accepts: str
    ok: Callable[[Any], bool]
    static: bool
    help: str
    needs: str | None = None


Faults = Callable[[Mapping[str, Any], Collection[str]], Mapping[str, str]]
"""``(options that were chosen, names in cond) -> {option or input: what is wrong with it}``: each
relation between options and inputs, once and in the model's own words. Names of options and inputs
in the words stand in backquotes, which a command line makes flags of."""


def no_faults(options: Mapping[str, Any], told: Collection[str]) -> Mapping[str, str]:
    """Accept everything: the ``faults`` of models whose options are free of each other."""
    del options, told
    return {}


def nothing_ahead(options: Mapping[str, Any], told: Collection[str]) -> Mapping[str, Any]:
    """Leave options as they are: the ``ahead`` of models that have nothing to compute before."""
    del told
    return options


class Sampler(NamedTuple):
    """How a model draws.

    ``draw(weights, keys, cond, **options)`` draws ``len(keys)`` samples, one from each key, so that
    a sample does not depend on the batch it was drawn in.
    ``ahead(options, names in cond)`` puts arrays in the place of options that would be compiled in,
    as a grid of times in that of a number of steps: ``draw`` and ``Latents.decode`` take these as
    well, and one program serves all their values.
    ``gives`` says what samples are: images, or vectors that only another model looks at.
    With ``traces`` draw gives the whole path, [batch, times, ...], if it is told ``trace=True``.
    """

    draw: Callable[..., PyTree]
    options: Mapping[str, Option] = {}
    faults: Faults = no_faults
    ahead: Callable[[Mapping[str, Any], Collection[str]], Mapping[str, Any]] = nothing_ahead
    gives: Literal["images", "vectors"] = "images"
    traces: bool = False


class Latents(NamedTuple):
    """A space that x is decoded from.

    ``decode(weights, z, cond, **options)`` and ``encode(weights, x, cond, keys=None, **options)``
    take ``options``, which are those of the sampler that mean something here. Without keys a random
    code is replaced by its mean. ``encode`` is None where nothing leads back (a GAN).
    ``prior(keys)`` draws z; None where a second stage has to learn it.
    ``num_codes`` is the number of values of discrete codes, in the structure of z; None for real
    numbers.
    ``cost`` is how often ``encode`` runs the network: above 1, z is the start of a path rather than
    a code, and no first stage.
    ``undo`` are options with which ``decode`` leads back to what ``encode`` came from.
    ``scales`` are the sides of grids that z, a row of codes, tells from coarse to fine;
    ``partial(weights, z, num)`` is then what the first ``num`` of them say, as vectors in full
    size, and ``decode`` takes ``num_scales``.
    ``vectors(weights, z)`` are what codes stand for, and ``from_vectors(weights, vectors)`` leads
    from any such vectors to x, not rounded to pixels, through the nearest codes and with a
    straight-through gradient.
    ``faults`` finds options with which z does not decide x, or, with ``"image"`` among what the
    model is told, x does not decide z.
    """

    decode: Callable[..., PyTree]
    encode: Callable[..., PyTree] | None = None
    prior: Callable[[Keys], PyTree] | None = None
    num_codes: PyTree = None
    options: Mapping[str, Option] = {}
    cost: int = 1
    undo: Mapping[str, Any] = {}
    faults: Faults = no_faults
    scales: tuple[int, ...] = ()
    partial: Callable[[Weights, PyTree, int], Array] | None = None
    vectors: Callable[[Weights, PyTree], PyTree] | None = None
    from_vectors: Callable[[Weights, PyTree], Array] | None = None


class Density(NamedTuple):
    """What a model says of log p(x).

    ``log_prob(weights, batch, keys, **options)`` is over ``batch["x"]``, or, if ``over_pixels``,
    over 8-bit pixels. An ``"exact"`` density needs no keys, a ``"bound"`` errs downward, an
    ``"estimate"`` either way. ``cost`` is how often it runs the network for an example.
    """

    log_prob: Callable[..., LogProb]
    kind: Literal["exact", "bound", "estimate"]
    over_pixels: bool = False
    options: Mapping[str, Option] = {}
    cost: int = 1
    faults: Faults = no_faults
    normalizer: Callable[..., tuple[Array, Array]] | None = None


class Matching(NamedTuple):
    """A space that images and texts share: unit vectors, whose products say how well they match.

    ``image(weights, x)`` and ``text(weights, tokens)`` give vectors [B, D]; ``scale(weights)`` is
    what products are multiplied by before a softmax.
    """

    image: Callable[[Weights, PyTree], Array]
    text: Callable[[Weights, Array], Array]
    scale: Callable[[Weights], Scalar]


def no_statistics(
    weights: Weights, observed: Mapping[str, PyTree], key: jax.Array, step: Array
) -> tuple[Stats, Mapping[str, Scalar]]:
    """Keep the statistics as they are: the ``update_stats`` of families that carry none."""
    del observed, key, step
    return weights.stats, {}


class Model(NamedTuple):
    """A family of generative models as pure functions.

    ``init(key, batch, frozen)`` sees the real first batch and the real frozen weights, and gives
    ``(params, stats)``.
    ``losses`` holds one :class:`Loss` for each turn a training step may take; ``turns`` is the
    order of a step, by default each loss once.
    ``inputs`` declares what the model is told beside x.
    ``update_stats(weights, {player: observed}, key, step)`` runs after each turn, with that turn's
    parameters, and gives ``(stats, metrics)``.
    ``averaged`` are the players worth an exponential moving average, by default all; a
    discriminator is not, and nothing but its own losses may need it.
    An ability is whole or absent: ``sampler``, ``latents``, ``density``, and
    ``predict(weights, x, cond)`` of a classifier, and ``matching`` of images and texts.
    """

    init: Callable[[jax.Array, Batch, PyTree], tuple[Params, Stats]]
    losses: Mapping[str, Loss]
    turns: Sequence[str | Turn] | None = None
    inputs: Mapping[str, Input] = {}
    update_stats: Callable[
        [Weights, Mapping[str, PyTree], jax.Array, Array], tuple[Stats, Mapping[str, Scalar]]
    ] = no_statistics
    averaged: Sequence[str] | None = None
    sampler: Sampler | None = None
    latents: Latents | None = None
    density: Density | None = None
    predict: Callable[[Weights, PyTree, Cond], Predicted] | None = None
    matching: Matching | None = None


class Codec(NamedTuple):
    """A frozen, pure map between uint8 images and what a model models.

    ``log_scale`` is log |dx / d pixel| for each dimension, the change from a density over x to one
    over pixels in units of one gray level; None where no density passes. ``scales`` and
    ``partial(frozen, x, num)`` are those of a first stage's :class:`Latents`.
    """

    encode: Callable[[PyTree, Array, Keys], PyTree]
    decode: Callable[[PyTree, PyTree], Array]
    num_categories: PyTree
    log_scale: float | None
    scales: tuple[int, ...] = ()
    partial: Callable[[PyTree, PyTree, int], Array] | None = None


def batch_mean(batch: Batch, values: Array) -> Scalar:
    """Average values [B] over the examples of a batch, those that are padding counting as 0.

    Whoever pads divides by the mean of ``weight``.
    """
    return jnp.mean(values * batch["weight"]) if "weight" in batch else jnp.mean(values)


def global_mean(batch: Batch, values: Array, across: Across) -> Array:
    """Average values [B, ...] over the real examples of the global batch.

    For what a loss is not linear in. With microbatches it is an average over each of them.
    """
    if "weight" not in batch:
        return across.mean(jnp.mean(values, axis=0))
    weight = jnp.reshape(batch["weight"], (-1, *(1 for _ in values.shape[1:])))
    # where, because what stands in padding may be anything.
    kept = jnp.mean(jnp.where(weight > 0, values * weight, 0.0), axis=0)
    return across.mean(kept) / across.mean(jnp.mean(batch["weight"]))
