"""The few signatures everything else is built from.

Behaviour is a NamedTuple of pure functions made by a lower-case factory. What a training step
carries (params, stats) is kept apart from what it reports (metrics).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gen_jax.typing import Array, Keys, PyTree, Scalar

__all__ = [
    "LOCAL",
    "Across",
    "Aux",
    "Batch",
    "Codec",
    "Context",
    "LogProb",
    "Loss",
    "Model",
    "Params",
    "Predicted",
    "SampleOption",
    "Stats",
    "batch_mean",
    "global_mean",
    "no_statistics",
]

Batch = Mapping[str, PyTree]
"""``image`` uint8 [B, H, W, C], or ``x`` (model space), or ``codes`` (a first stage's, made
beforehand); optional ``label`` int [B], ``eps`` (given noise), ``context`` [B, L, D] (a sequence,
of a text for example), ``low_res`` [B, h, w, C] (uint8, or in the range of x) and ``weight`` [B] (0
marks the padding of a last, short batch)."""

Params = Mapping[str, PyTree]
"""One subtree for each player, for example ``{"net": ...}`` or ``{"gen": ..., "disc": ...}``."""

Stats = Mapping[str, PyTree]
"""One subtree for each player; carried from step to step, but never given a gradient."""


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

    frozen: PyTree  # weights nobody trains: arguments of the compiled step, never constants
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
    fn: Callable[[Params, Stats, Batch, Keys, Context], tuple[Scalar, Aux]]


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


class SampleOption(NamedTuple):
    """One option of ``Model.sample`` or ``Model.log_prob``; the command line is built from it.

    ``static`` options are compiled in; the others are traced, so that changing them compiles
    nothing.
    """

    kind: type
    default: Any
    accepts: str
    ok: Callable[[Any], bool]
    static: bool
    help: str
    # Another option's name and the values of which it needs one.
    goes_with: tuple[str, Sequence[Any]] | None = None


class Model(NamedTuple):
    """A family of generative models as pure functions.

    ``init(key, batch)`` sees the real first batch and gives ``(params, stats)``.
    ``losses`` holds one :class:`Loss` for each turn a training step may take.
    ``update_stats(stats, {player: observed}, key, step)`` runs once a turn, after the reduction,
    and gives ``(stats, metrics)``.
    ``sample(params, stats, keys, frozen, cond=None, **options)`` draws ``len(keys)`` samples, one
    from each key, so that a sample does not depend on the batch it was drawn in. Of the arrays that
    ``givens`` names it takes any as ``given={name: [B, ...]}``: ``"image"``, in the form of
    ``batch["x"]``, and what belongs to it. ``start_noise(keys)`` gives what ``sample`` begins with
    where no ``"noise"`` is given, and ``noise_of(params, stats, keys, frozen, x, cond=None,
    **options)`` what a deterministic sampler would make x of.
    ``log_prob(params, stats, batch, keys, frozen, **options)`` is exact or a bound, as
    ``log_prob_kind`` says. It is over ``batch["x"]``, or, if ``over_pixels``, over 8-bit pixels.
    ``log_prob_cost`` is how often it runs the network for an example.
    ``encode(params, stats, x, keys=None, label=None)`` and ``decode(params, stats, z, label=None)``
    are what a second stage models; families without them have None. Without keys a random code is
    replaced by its mean. Discrete codes are whole numbers from 0 to below ``num_codes``, which has
    the structure of what ``encode`` gives; None for codes that are real numbers.
    ``predict(params, stats, x, t=None)`` is what a classifier says of x, or of x_t at times t [B].
    Families that do not generate have no ``sample``.
    """

    init: Callable[[jax.Array, Batch], tuple[Params, Stats]]
    losses: Mapping[str, Loss]
    update_stats: Callable[
        [Stats, Mapping[str, PyTree], jax.Array, Array], tuple[Stats, Mapping[str, Scalar]]
    ]
    sample: Callable[..., PyTree] | None = None
    sample_options: Mapping[str, SampleOption] = {}
    log_prob: Callable[[Params, Stats, Batch, Keys, PyTree], LogProb] | None = None
    log_prob_kind: str | None = None
    log_prob_options: Mapping[str, SampleOption] = {}
    log_prob_cost: int = 1
    over_pixels: bool = False
    encode: Callable[..., PyTree] | None = None
    decode: Callable[..., PyTree] | None = None
    num_codes: PyTree = None
    givens: Sequence[str] = ()
    start_noise: Callable[[Keys], Array] | None = None
    noise_of: Callable[..., PyTree] | None = None
    predict: Callable[..., Predicted] | None = None


class Codec(NamedTuple):
    """A frozen, pure map between uint8 images and what a model models.

    ``log_scale`` is log |dx / d pixel| for each dimension, the change from a density over x to one
    over pixels in units of one grey level; None where no density passes.
    """

    encode: Callable[[PyTree, Array, Keys], PyTree]
    decode: Callable[[PyTree, PyTree], Array]
    num_categories: PyTree
    log_scale: float | None


def no_statistics(
    stats: Stats, observed: Mapping[str, PyTree], key: jax.Array, step: Array
) -> tuple[Stats, Mapping[str, Scalar]]:
    """Keep ``stats`` as they are: the ``update_stats`` of families that carry none."""
    del observed, key, step
    return stats, {}


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
