"""Latent codes: their running moments, and ways between them."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri

from gen_jax.ops.checks import checked
from gen_jax.protocols import Stats, Weights
from gen_jax.typing import Array, Float, Int, PyTree, Scalar, Shape

__all__ = [
    "active_units",
    "apply_scale",
    "class_means",
    "init_moments",
    "lerp",
    "normal_grid",
    "observe_moments",
    "scale_of",
    "slerp",
    "undo_scale",
    "update_code_moments",
    "update_moments",
]

Moments = Mapping[str, Array]
"""Running means over the data, each of one code's shape: ``mean`` of the codes' means, ``square``
of their squares, and ``variance`` of the codes' own variances (0 for deterministic codes)."""

# Of the running means: some hundreds of batches.
DECAY = 0.99
MIN_ACTIVITY = 0.01


def init_moments(shape: Shape) -> Moments:
    """Start from mean 0 and deviation 1."""
    return {"mean": jnp.zeros(shape), "square": jnp.ones(shape), "variance": jnp.zeros(shape)}


@checked
def observe_moments(
    mean: Float[Array, "batch *dims"], variance: Float[Array, "batch *dims"] | None = None
) -> Moments:
    """Average a batch's sufficient statistics; they are additive, for ``Aux.observed``."""
    mean = jax.lax.stop_gradient(mean)
    square, own = jnp.mean(mean**2, axis=0), jnp.zeros(mean.shape[1:])
    if variance is not None:
        own = jnp.mean(jax.lax.stop_gradient(variance), axis=0)
    return {"mean": jnp.mean(mean, axis=0), "square": square, "variance": own}


@checked
def update_moments(moments: PyTree, observed: PyTree, step: Int[Array, ""]) -> PyTree:
    """Move running means, :data:`Moments` or any tree, toward a batch's after ``step`` steps.

    Fast at first: what they began with is forgotten at once.
    """
    decay = jnp.minimum(DECAY, step / (step + 1.0))
    return jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, moments, observed)


@checked
def update_code_moments(
    weights: Weights, observed: Mapping[str, PyTree], key: Array, step: Int[Array, ""]
) -> tuple[Stats, Mapping[str, Scalar]]:
    """Update the statistics of a model whose player ``net`` observes the moments of its codes.

    Returns:
        Its statistics, and as a metric the active units; a turn that observes none changes none.
    """
    del key
    if not observed.get("net"):
        return weights.stats, {}
    net = update_moments(weights.stats["net"], observed["net"], step)
    return {**weights.stats, "net": net}, {"active_units": active_units(net["moments"])}


def scale_of(moments: Moments) -> tuple[Float[Array, "channels"], Float[Array, "channels"]]:
    """Return mean and standard deviation of each channel of a code, over data and positions."""
    axes = tuple(range(moments["mean"].ndim - 1))
    mean = jnp.mean(moments["mean"], axis=axes)
    square = jnp.mean(moments["square"] + moments["variance"], axis=axes)
    return mean, jnp.sqrt(jnp.maximum(square - mean**2, 1e-12))


def active_units(moments: Moments) -> Float[Array, ""]:
    """Count the units whose mean depends on x: Var_x(E[z | x]) > 0.01 (Burda et al. 2016, 5.2)."""
    activity = moments["square"] - moments["mean"] ** 2
    return jnp.sum(activity > MIN_ACTIVITY).astype(jnp.float32)


@checked
def lerp(
    a: Float[Array, "*dims"], b: Float[Array, "*dims"], weights: Float[Array, "steps"]
) -> Float[Array, "steps *dims"]:
    """Go from a (weight 0) to b (weight 1) along a straight line."""
    weights = jnp.reshape(weights, (-1, *(1 for _ in a.shape)))
    return (1 - weights) * a[None] + weights * b[None]


@checked
def slerp(
    a: Float[Array, "*dims"], b: Float[Array, "*dims"], weights: Float[Array, "steps"]
) -> Float[Array, "steps *dims"]:
    """Go from a to b along a great circle (Shoemake 1985; White 2016).

    The direction turns at constant speed while the norm goes linearly from one to the other, so
    that codes stay where a Gaussian prior has its mass. Falls back to :func:`lerp` where a and b
    are parallel, opposite, or zero, and the circle is not defined.
    """
    zero = ~(jnp.any(a != 0) & jnp.any(b != 0))
    # What is not taken must be finite all the same, and so must its derivative.
    first, second = (jnp.where(zero, jnp.ones_like(x), x) for x in (a, b))
    norm_a, norm_b = jnp.linalg.norm(first.ravel()), jnp.linalg.norm(second.ravel())
    unit_a, unit_b = first / norm_a, second / norm_b
    cosine = jnp.vdot(unit_a, unit_b)
    # Of single precision: nearer to parallel, or opposite, the circle is lost in rounding.
    defined = ~zero & (1 - jnp.square(cosine) > 1e-6)
    angle = jnp.arccos(jnp.where(defined, cosine, 0.0))
    t = jnp.reshape(weights, (-1, *(1 for _ in a.shape)))
    turned = jnp.sin((1 - t) * angle) * unit_a[None] + jnp.sin(t * angle) * unit_b[None]
    norm = ((1 - t) * norm_a + t * norm_b) / jnp.sin(angle)
    return jnp.where(defined, norm * turned, lerp(a, b, weights))


@checked
def class_means(
    z: Float[Array, "batch *dims"], labels: Int[Array, "batch"], num_classes: int
) -> Float[Array, "classes *dims"]:
    """Average the codes of each class; the difference of two is an attribute vector.

    Adding ``means[b] - means[a]`` to a code of class a moves it toward class b (White 2016). The
    mean of a class without examples is not a number.
    """
    members = jax.nn.one_hot(labels, num_classes)
    sums = jnp.tensordot(members, z, axes=(0, 0))
    counts = jnp.reshape(jnp.sum(members, axis=0), (-1, *(1 for _ in z.shape[1:])))
    return jnp.where(counts > 0, sums / jnp.maximum(counts, 1.0), jnp.nan)


def normal_grid(side: int) -> Float[Array, "points 2"]:
    """Make a square grid over the plane so that each point stands for as much prior probability.

    The coordinates are the inverse normal CDF of (i + 1/2) / side (Kingma & Welling 2014, appendix
    A). Points go row by row: the first coordinate grows to the right, the second upward.
    """
    line = ndtri((jnp.arange(side) + 0.5) / side)
    right, up = jnp.meshgrid(line, line[::-1])
    return jnp.stack([right.ravel(), up.ravel()], axis=-1)


@checked
def apply_scale(
    z: Float[Array, "*dims channels"],
    mean: Float[Array, "channels"],
    deviation: Float[Array, "channels"],
) -> Float[Array, "*dims channels"]:
    """Bring each channel to mean 0 and deviation 1; :func:`undo_scale` is the inverse."""
    ones = (1,) * (z.ndim - 1)
    return (z - mean.reshape(*ones, -1)) / deviation.reshape(*ones, -1)


@checked
def undo_scale(
    z: Float[Array, "*dims channels"],
    mean: Float[Array, "channels"],
    deviation: Float[Array, "channels"],
) -> Float[Array, "*dims channels"]:
    """Return standardized codes their own mean and deviation back."""
    ones = (1,) * (z.ndim - 1)
    return z * deviation.reshape(*ones, -1) + mean.reshape(*ones, -1)
