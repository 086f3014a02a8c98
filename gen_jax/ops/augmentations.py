"""Augmentations that a discriminator sees through, differentiable and one draw an example.

Each change happens to an example with the probability that is asked for, so that while this stays
below about 0.8 what is real can be told from what is not, and the generator does not learn them
(Karras et al. 2020b, section 2.2). All are products with matrices of each example's own: an
accelerator has no fast gather, and a gradient of the gradient, as R1 takes it, is a product again.
"""

import math
from collections.abc import Collection

import jax
import jax.numpy as jnp

from gen_jax.ops import keys as rng
from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float, Keys, Scalar, ScalarLike

__all__ = ["KINDS", "adapted_strength", "augment"]

KINDS = ("flip", "turn", "shift", "scale", "color", "cutout")
"""What :func:`augment` can do."""


@checked
def augment(
    keys: Keys,
    x: Float[Array, "batch height width channels"],
    strength: ScalarLike,
    kinds: Collection[str] = KINDS,
) -> Float[Array, "batch height width channels"]:
    """Change each example at random, each kind with probability ``strength``.

    The changes and their sizes are those of Karras et al. 2020b, appendix B: mirroring; quarter
    turns of square images; shifts by whole pixels up to an eighth, and by parts of them; scales of
    standard deviation 0.2 octaves, alike and of each axis; brightness 0.2, contrast 0.5 octaves and
    of three channels inversion of luma, hue and saturation; and a gray square of half the side.
    Beyond an edge the image is mirrored.

    Args:
        keys: one for each example.
        x: from -1 to 1, though nothing is clipped.
        strength: p, in [0, 1]; at 0 x comes back bit for bit.
        kinds: some of :data:`KINDS`.

    Raises:
        ValueError: for another kind.
    """
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"kinds: got {unknown[0]!r}; some of {', '.join(KINDS)} are required")
    coins = rng.uniform(rng.fold_in(keys, 0), (12,)) < strength  # one for each change
    sizes = rng.uniform(rng.fold_in(keys, 1), (16,))
    bells = rng.normal(rng.fold_in(keys, 2), (8,))
    if "turn" in kinds and x.shape[1] == x.shape[2]:
        x = _turned(x, jnp.where(coins[:, 0], jnp.floor(4 * sizes[:, 0]), 0))
    rows, columns = _resampled(x, coins, sizes, bells, kinds)
    moved = {"flip", "shift", "scale"} & set(kinds)
    if moved:
        x = jnp.einsum("bij,bjwc->biwc", rows, x, precision=jax.lax.Precision.HIGHEST)
        x = jnp.einsum("bij,bhjc->bhic", columns, x, precision=jax.lax.Precision.HIGHEST)
    if "color" in kinds:
        x = _colored(x, coins[:, 6:11], sizes[:, 6:8], bells[:, 4:7])
    if "cutout" in kinds:
        x = x * _kept(x.shape[1:3], sizes[:, 8:10], coins[:, 11])[..., None].astype(x.dtype)
    return x


@checked
def adapted_strength(
    strength: Scalar,
    sign: Scalar,
    *,
    num_images: ScalarLike,
    target: float = 0.6,
    ramp: float = 500_000.0,
) -> Scalar:
    """Move the strength so that the discriminator is as sure of real images as it should be.

    p rises or falls by num_images / ramp as E[sign D(real)] is above or below its target
    (Karras et al. 2020b, section 3).

    Args:
        strength: p now.
        sign: mean sign of the logits of real images, in [-1, 1].
        num_images: seen since the last change.
        target: of ``sign``.
        ramp: images in which p can go from 0 to 1.
    """
    return jnp.clip(strength + jnp.sign(sign - target) * num_images / ramp, 0.0, 1.0)


def _turned(x: Array, quarters: Array) -> Array:
    """Turn square images by quarters."""
    across = jnp.swapaxes(x, 1, 2)
    turned = (x, across[:, ::-1], x[:, ::-1, ::-1], across[:, :, ::-1])
    made = x
    for number in (1, 2, 3):
        made = jnp.where((quarters == number)[:, None, None, None], turned[number], made)
    return made


def _resampled(
    x: Array, coins: Array, sizes: Array, bells: Array, kinds: Collection[str]
) -> tuple[Array, Array]:
    """Make the matrices that move rows and columns, [batch, side, side] each."""
    octave = math.log(2)
    matrices = []
    both = jnp.where(coins[:, 3], 0.2 * octave * bells[:, 0], 0.0)
    one = jnp.where(coins[:, 4], 0.2 * octave * bells[:, 1], 0.0)
    for axis, side in enumerate(x.shape[1:3]):
        scale, shift = jnp.ones(len(x)), jnp.zeros(len(x))
        if "scale" in kinds:
            # What makes one axis longer makes the other shorter.
            scale = jnp.exp(both + (one if axis == 0 else -one))
            shift = jnp.where(coins[:, 5], 0.125 * side * bells[:, 2 + axis], shift)
        if "shift" in kinds:
            whole = jnp.round(0.125 * side * (2 * sizes[:, 2 + axis] - 1))
            shift = shift + jnp.where(coins[:, 2], whole, 0.0)
        if "flip" in kinds and axis == 1:
            scale = jnp.where(coins[:, 1] & (sizes[:, 1] < 0.5), -scale, scale)
        middle = 0.5 * (side - 1)
        places = jnp.arange(side) - middle
        sources = places[None] / scale[:, None] + middle + shift[:, None]
        # Mirrored at the edges: a triangle of period 2 (side - 1).
        turn = max(side - 1, 1)
        sources = turn - jnp.abs(jnp.mod(sources, 2 * turn) - turn)
        hats = 1 - jnp.abs(sources[:, :, None] - jnp.arange(side)[None, None])
        matrices.append(jnp.maximum(hats, 0.0).astype(x.dtype))
    return matrices[0], matrices[1]


def _colored(x: Array, coins: Array, sizes: Array, bells: Array) -> Array:
    """Change brightness and contrast, and of three channels inversion, hue and saturation."""

    def each(values: Array) -> Array:
        return values[:, None, None, None].astype(x.dtype)

    octave = math.log(2)
    x = x + each(jnp.where(coins[:, 0], 0.2 * bells[:, 0], 0.0))
    x = x * each(jnp.where(coins[:, 1], jnp.exp(0.5 * octave * bells[:, 1]), 1.0))
    if x.shape[-1] != 3:
        return x
    gray = jnp.full((3,), 1 / math.sqrt(3), x.dtype)
    onto = jnp.outer(gray, gray)
    eye = jnp.eye(3, dtype=x.dtype)
    cross = jnp.array([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], x.dtype) / math.sqrt(3)

    def matrices(values: Array) -> Array:
        return values[:, None, None].astype(x.dtype)

    inverted = matrices(jnp.where(coins[:, 2] & (sizes[:, 0] < 0.5), 2.0, 0.0))
    angle = jnp.where(coins[:, 3], math.pi * (2 * sizes[:, 1] - 1), 0.0)
    level = matrices(jnp.where(coins[:, 4], jnp.exp(octave * bells[:, 2]), 1.0))
    # About the gray axis: Rodrigues' formula.
    hue = (
        onto[None]
        + matrices(jnp.cos(angle)) * (eye - onto)[None]
        + matrices(jnp.sin(angle)) * cross[None]
    )
    saturation = onto[None] + level * (eye - onto)[None]
    whole = saturation @ hue @ (eye[None] - inverted * onto[None])
    # Where no coin fell, the image itself: products of rounded roots are not quite the identity.
    changed = jnp.any(coins[:, 2:5], axis=1)
    return jnp.where(each(changed) > 0, jnp.einsum("bhwc,bdc->bhwd", x, whole), x)


def _kept(shape: tuple[int, ...], centers: Array, coins: Array) -> Array:
    """Mark what is outside of a square of half the side, [batch, height, width]."""
    inside = coins[:, None, None]
    for axis, side in enumerate(shape):
        near = jnp.abs((jnp.arange(side)[None] + 0.5) / side - centers[:, axis : axis + 1]) < 0.25
        inside = inside & (near[:, :, None] if axis == 0 else near[:, None])
    return ~inside
