"""New images from the patches of one: nearest neighbors over a pyramid, and nothing is trained.

GPNN (Granot et al. 2022), and the same for videos (Haim et al. 2022). An image is [height, width,
channels], a video [frames, height, width, channels], of floats from 0 to 1; the same code serves
both. Each result is made of averages of patches of the source.

Example:
    >>> image = generate(jax.random.key(0), source, shape=(128, 192))
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.typing import Array, Bool, Float, Int, Key, ScalarLike

__all__ = [
    "Settings",
    "analogy",
    "collage",
    "fold",
    "generate",
    "inpaint",
    "nearest",
    "patches",
    "pyramid",
    "retarget",
]

Sizes = tuple[int, ...]


class Settings(NamedTuple):
    """How patches are looked for; the paper's values (Granot et al. 2022, section 3).

    Attributes:
        patch: side of a patch, in pixels.
        frames: its length in time, of a video.
        ratio: between the levels of the pyramid.
        coarsest: pixels of the shorter side at the coarsest level.
        rounds: of looking and folding at each level but the coarsest, which has one.
        alpha: completeness: the smaller, the more each patch of the source is used.
        sigma: deviation of the noise at the coarsest level, on images from 0 to 1.
        chunk: patches that are compared at once.
    """

    patch: int = 7
    frames: int = 3
    ratio: float = 4 / 3
    coarsest: int = 14
    rounds: int = 10
    alpha: float = 0.005
    sigma: float = 0.75
    chunk: int = 512


def _sizes(num_dims: int, settings: Settings) -> Sizes:
    side = (settings.patch, settings.patch)
    return side if num_dims == 2 else (settings.frames, *side)


def patches(x: Float[Array, "*dims"], size: Sizes) -> Float[Array, "patches numbers"]:
    """Take every patch of an image or a video, one in a row.

    Args:
        x: [*dims, channels].
        size: of a patch along each of these dims.
    """
    counts = [side - own + 1 for side, own in zip(x.shape[:-1], size, strict=True)]
    if min(counts) < 1:
        raise ValueError(f"x: got {list(x.shape[:-1])}; at least {list(size)} is required")
    for axis, (count, own) in reversed(list(enumerate(zip(counts, size, strict=True)))):
        where = np.arange(count)[:, None] + np.arange(own)[None]
        x = jnp.take(x, jnp.asarray(where), axis=axis)  # [..., count, own, ...]
    num = len(size)
    order = [2 * i for i in range(num)] + [2 * i + 1 for i in range(num)] + [2 * num]
    return jnp.transpose(x, order).reshape(math.prod(counts), -1)


def fold(
    values: Float[Array, "patches numbers"], size: Sizes, shape: Sizes
) -> Float[Array, "*dims"]:
    """Put patches back where :func:`patches` took them, averaging where they overlap.

    Args:
        values: patches of an array of ``shape``.
        size: of a patch.
        shape: [*dims, channels].
    """
    num = len(size)
    counts = [side - own + 1 for side, own in zip(shape[:-1], size, strict=True)]
    x = values.reshape(*counts, *size, shape[-1])
    order = [axis for i in range(num) for axis in (i, num + i)] + [2 * num]
    x = jnp.transpose(x, order)  # [count, own, count, own, ..., channels]
    for axis, own in enumerate(size):
        parts = jnp.moveaxis(x, axis + 1, 0)
        shifted = (_shifted(parts[place], axis, place, own - 1 - place) for place in range(own))
        x = functools.reduce(jnp.add, shifted)
    times: np.ndarray = np.ones(())
    for side, own in zip(shape[:-1], size, strict=True):
        times = np.multiply.outer(times, np.convolve(np.ones(side - own + 1), np.ones(own)))
    return x / jnp.asarray(times, x.dtype)[..., None]


def _shifted(x: Array, axis: int, before: int, after: int) -> Array:
    return jnp.pad(x, [(before, after) if i == axis else (0, 0) for i in range(x.ndim)])


def nearest(
    query: Float[Array, "queries numbers"],
    key: Float[Array, "keys numbers"],
    alpha: ScalarLike,
    chunk: int = 512,
    allowed: Bool[Array, "keys"] | None = None,
) -> Int[Array, "queries"]:
    """Find for each query the key of the least D_ij / (alpha + min_i D_ij) (Eq. 2 and 3).

    D is the mean squared difference. The score favors keys that no query is near to: with a small
    alpha all of the source is used, with a large one each query takes its nearest key.

    Args:
        query: patches.
        key: patches to choose from.
        alpha: above 0.
        chunk: queries at a time; it changes nothing but memory, ``chunk`` times the keys.
        allowed: keys that may be chosen; None for all.
    """
    middle = jnp.mean(key, axis=0, keepdims=True)  # small numbers lose less when they cancel
    query, key = query - middle, key - middle
    num, dims = query.shape
    chunk = min(chunk, num)
    short = -num % chunk
    rows = jnp.pad(query, ((0, short), (0, 0))).reshape(-1, chunk, dims)
    real = (jnp.arange(num + short) < num).reshape(-1, chunk)
    squares = jnp.sum(jnp.square(key), axis=1)
    open_to = jnp.zeros(len(key)) if allowed is None else jnp.where(allowed, 0.0, jnp.inf)

    def apart(some: Array) -> Array:
        product = jnp.matmul(some, key.T, precision="highest")
        own = jnp.sum(jnp.square(some), axis=1)
        return jnp.maximum(own[:, None] + squares[None] - 2 * product, 0.0) / dims

    def least(best: Array, given: tuple[Array, Array]) -> tuple[Array, None]:
        some, is_real = given
        distances = jnp.where(is_real[:, None], apart(some), jnp.inf)
        return jnp.minimum(best, jnp.min(distances, axis=0)), None

    best, _ = jax.lax.scan(least, jnp.full(len(key), jnp.inf), (rows, real))

    def chosen(some: Array) -> Array:
        return jnp.argmin(apart(some) / (alpha + best)[None] + open_to[None], axis=1)

    return jax.lax.map(chosen, rows).reshape(-1)[:num]


def resized(x: Float[Array, "*dims"], sides: Sizes) -> Float[Array, "*dims"]:
    """Bring an image or a video to other sides, by cubic interpolation."""
    if x.shape[:-1] == sides:
        return x
    return jax.image.resize(x, (*sides, x.shape[-1]), "cubic", antialias=True)


def levels(sides: Sizes, settings: Settings) -> list[Sizes]:
    """List the sides of each level of the pyramid, the finest first."""
    size = _sizes(len(sides), settings)
    if any(side < own for side, own in zip(sides, size, strict=True)):
        raise ValueError(f"x: got {list(sides)}; at least {list(size)} is required")
    shorter = min(sides[-2:])
    num = math.ceil(math.log(max(shorter / settings.coarsest, 1.0)) / math.log(settings.ratio))
    return [
        tuple(
            max(round(side / settings.ratio**level), own)
            for side, own in zip(sides, size, strict=True)
        )
        for level in range(num + 1)
    ]


def pyramid(x: Float[Array, "*dims"], settings: Settings) -> list[Float[Array, "*dims"]]:
    """Make the levels of a pyramid, the finest first."""
    return [resized(x, sides) for sides in levels(x.shape[:-1], settings)]


class _Source(NamedTuple):
    """What a level's patches come from: keys to compare with, and values to take."""

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    known: tuple[Array, ...] | None = None  # [*dims, 1]; patches that touch zeros are not taken


@functools.partial(jax.jit, static_argnames=("size", "chunk"))
def _refined(y: Array, source: _Source, alpha: ScalarLike, size: Sizes, chunk: int) -> Array:
    """Replace each patch by the value of its nearest key, and fold."""
    key = jnp.concatenate([patches(x, size) for x in source.keys])
    value = jnp.concatenate([patches(x, size) for x in source.values])
    allowed = None
    if source.known is not None:
        whole = jnp.concatenate([patches(x, size) for x in source.known])
        allowed = jnp.min(whole, axis=1) > 0
    index = nearest(patches(y, size), key, alpha, chunk, allowed)
    return fold(value[index], size, y.shape)


def _through(
    start: Array,
    pyramids: Sequence[Sequence[Array]],
    sides: Sequence[Sizes],
    settings: Settings,
    known: Sequence[Array] | None = None,
    keep: Callable[[Array, int], Array] = lambda y, level: y,
    progress: Callable[[int, int], None] | None = None,
) -> Array:
    """Go from the coarsest level to the finest (Algorithm 1).

    Args:
        start: the first guess, at the coarsest level.
        pyramids: of each source.
        sides: of the result's levels, the finest first.
        settings: see there.
        known: masks of the one source, at each level.
        keep: puts what is known already into a guess.
        progress: is told each level that is done, and their number.
    """
    size, y, last = _sizes(len(sides[0]), settings), start, len(sides) - 1
    for level in reversed(range(len(sides))):
        values = tuple(each[level] for each in pyramids)
        masks = None if known is None else (known[level],)
        if level == last:
            query, keys = keep(y, level), values
        else:
            query = keep(resized(y, sides[level]), level)
            # As blurred as the query is.
            keys = tuple(resized(each[level + 1], each[level].shape[:-1]) for each in pyramids)
        for _ in range(1 if level == last else settings.rounds):
            source = _Source(keys, values, masks)
            y = keep(_refined(query, source, settings.alpha, size, settings.chunk), level)
            query, keys = y, values
        if progress is not None:
            progress(len(sides) - level, len(sides))
    return y


def _scaled(sides: Sequence[Sizes], shape: Sizes, finest: Sizes, settings: Settings) -> list[Sizes]:
    """Give the levels of a result whose finest sides differ from the source's."""
    size = _sizes(len(shape), settings)
    return [
        tuple(
            max(round(side * new / old), own)
            for side, new, old, own in zip(level, shape, finest, size, strict=True)
        )
        for level in sides
    ]


def generate(
    key: Key[Array, ""],
    x: Float[Array, "*dims"],
    settings: Settings = Settings(),  # noqa: B008 a tuple of numbers
    *,
    shape: Sizes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float[Array, "*dims"]:
    """Make an image, or a video, of the patches of another (Granot et al. 2022, section 4.1).

    Args:
        key: of the noise that the coarsest level begins with.
        x: the source, [*dims, channels] from 0 to 1.
        settings: with ``sigma`` 0 and no other shape the result is the source.
        shape: sides of the result; those of the source for None.
        progress: is called with each level that is done, and their number.
    """
    source = pyramid(x, settings)
    sides = levels(x.shape[:-1], settings)
    out = sides if shape is None else _scaled(sides, shape, x.shape[:-1], settings)
    noise = jax.random.normal(key, (*out[-1], 1))  # of all channels the same
    start = resized(source[-1], out[-1]) + settings.sigma * noise
    return _through(start, [source], out, settings, progress=progress)


def retarget(
    x: Float[Array, "*dims"],
    shape: Sizes,
    settings: Settings = Settings(),  # noqa: B008
    progress: Callable[[int, int], None] | None = None,
) -> Float[Array, "*dims"]:
    """Bring an image to other sides by more or fewer patches rather than by stretching them.

    Args:
        x: the source.
        shape: sides of the result.
        settings: its ``sigma`` is not used.
        progress: see :func:`generate`.
    """
    quiet = settings._replace(sigma=0.0)
    return generate(jax.random.key(0), x, quiet, shape=shape, progress=progress)


def inpaint(
    x: Float[Array, "*dims"],
    known: Bool[Array, "*dims"],
    settings: Settings = Settings(),  # noqa: B008
    progress: Callable[[int, int], None] | None = None,
) -> Float[Array, "*dims"]:
    """Fill what is not known with patches of what is (section 4.3), which stays as it is.

    Args:
        x: an image; what is under the mask means nothing.
        known: [*dims], False where it is to be filled.
        settings: patches are taken by nearness alone, as with an alpha of 1.
        progress: see :func:`generate`.

    Raises:
        ValueError: if nothing is known, or no whole patch at some level.
    """
    weight = jnp.asarray(known, jnp.float32)[..., None]
    if not bool(jnp.any(weight > 0)):
        raise ValueError("known: nothing is; some of the image is required")
    mean = jnp.sum(x * weight, axis=tuple(range(x.ndim - 1))) / jnp.sum(weight)
    filled = jnp.where(weight > 0, x, jnp.reshape(mean, (1,) * (x.ndim - 1) + (-1,)))
    sides = levels(x.shape[:-1], settings)
    source = [resized(filled, each) for each in sides]
    # A coarse pixel is known where all of it is.
    masks = [(resized(weight, each) > 0.99).astype(jnp.float32) for each in sides]
    size = _sizes(x.ndim - 1, settings)
    for mask in masks:
        if not bool(jnp.any(jnp.min(patches(mask, size), axis=1) > 0)):
            raise ValueError(
                f"known: no patch of {'x'.join(map(str, size))} pixels is whole where the image "
                f"has {'x'.join(map(str, mask.shape[:-1]))}; a smaller hole or patch is required"
            )

    def keep(y: Array, level: int) -> Array:
        return jnp.where(masks[level] > 0, source[level], y)

    near = settings._replace(alpha=1.0)
    return _through(source[-1], [source], sides, near, masks, keep, progress)


def analogy(
    structure: Float[Array, "*dims"],
    style: Float[Array, "*more"],
    settings: Settings = Settings(),  # noqa: B008
    progress: Callable[[int, int], None] | None = None,
) -> Float[Array, "*dims"]:
    """Make an image with the layout of one of the patches of another (section 4.4).

    Args:
        structure: gives the first guess, at the coarsest level.
        style: gives the patches.
        settings: its ``sigma`` is not used.
        progress: see :func:`generate`.
    """
    source = pyramid(style, settings)
    finest = structure.shape[:-1]
    out = _scaled(levels(style.shape[:-1], settings), finest, style.shape[:-1], settings)
    return _through(resized(structure, out[-1]), [source], out, settings, progress=progress)


def collage(
    guess: Float[Array, "*dims"],
    sources: Sequence[Float[Array, "*more"]],
    settings: Settings = Settings(),  # noqa: B008
    progress: Callable[[int, int], None] | None = None,
) -> Float[Array, "*dims"]:
    """Make one image of the patches of several (section 4.4).

    Args:
        guess: what it should look like from afar, for example the sources side by side.
        sources: of one shape.
        settings: its ``sigma`` is not used.
        progress: see :func:`generate`.

    Raises:
        ValueError: if there are no sources, or they differ in shape.
    """
    shapes = {source.shape for source in sources}
    if len(shapes) != 1:
        raise ValueError(f"sources: got {len(shapes)} shapes; at least one, of one shape")
    made = [pyramid(source, settings) for source in sources]
    finest = sources[0].shape[:-1]
    out = _scaled(levels(finest, settings), guess.shape[:-1], finest, settings)
    return _through(resized(guess, out[-1]), made, out, settings, progress=progress)
