"""Images from texts by descent: a first stage's vectors, moved until CLIP sees the text."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gen_jax.ops import keys as rng
from gen_jax.ops.cutouts import cutouts
from gen_jax.protocols import Latents, Matching, Weights
from gen_jax.typing import Array, Float, Keys, PyTree

__all__ = ["Dreamed", "dream"]


class Dreamed(NamedTuple):
    """What descent made, and the way there."""

    x: Array  # [batch, ...], at the end
    way: Array  # [batch, moments, ...], the beginning first
    cosines: Array  # [batch, moments], of the cutouts with the text, on average


def dream(
    latents: Latents,
    weights: Weights,
    matching: Matching,
    clip: Weights,
    tokens: Array,
    vectors: PyTree,
    keys: Keys,
    *,
    side: int,
    steps: int = 300,
    moments: int = 30,
    learning_rate: float = 0.1,
    num_cutouts: int = 32,
    smallest: float = 0.5,
) -> Dreamed:
    """Move a first stage's vectors until cutouts of what they decode to match a text.

    VQGAN+CLIP (Crowson et al. 2022): Adam on the squared great-circle distance between cutouts and
    text, 2 arcsin(|u - v| / 2)^2, through the nearest codes with a straight-through gradient.
    Examples do not depend on each other.

    Args:
        latents: of the first stage, with ``from_vectors``.
        weights: of the first stage.
        matching: of images in the range of its x, and texts.
        clip: of the matching.
        tokens: of the text, for each example.
        vectors: to begin with [batch, ...]; they stay within their own range, stretched by a half.
        keys: one for each example.
        side: of the images that the matching knows.
        steps: of descent; a multiple of ``moments`` is taken.
        moments: how many points of the way are given.
        learning_rate: of Adam.
        num_cutouts: of each image in each step.
        smallest: see :func:`gen_jax.ops.cutouts.cutouts`.

    Raises:
        ValueError: if the first stage has no vectors.
    """
    if latents.from_vectors is None:
        raise ValueError("latents: a first stage with from_vectors, a VQ-VAE, is required")
    decode = latents.from_vectors
    text = matching.text(clip, tokens)
    low, high = (
        jax.tree.map(lambda x, end=end: end(x) + 0.5 * (end(x) - jnp.mean(x)), vectors)
        for end in (jnp.min, jnp.max)
    )
    optimizer = optax.adam(learning_rate)

    def distance(z: PyTree, number: Array) -> tuple[Array, Float[Array, "batch"]]:
        x = decode(weights, z)
        cuts = cutouts(rng.fold_in(keys, number), x, num_cutouts, side, smallest)
        seen = matching.image(clip, jnp.reshape(cuts, (-1, *cuts.shape[2:])))
        seen = jnp.reshape(seen, (len(x), num_cutouts, -1))
        apart = jnp.linalg.norm(seen - text[:, None], axis=-1)
        squared = 2 * jnp.square(jnp.arcsin(jnp.clip(apart / 2, 0.0, 1.0 - 1e-6)))
        cosine = jnp.mean(jnp.sum(seen * text[:, None], axis=-1), axis=1)
        return jnp.sum(jnp.mean(squared, axis=1)), cosine

    def step(number: Array, carried: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
        z, state = carried
        grads, _ = jax.grad(distance, has_aux=True)(z, number)
        updates, state = optimizer.update(grads, state, z)
        z = optax.apply_updates(z, updates)
        return jax.tree.map(jnp.clip, z, low, high), state

    many = max(1, round(steps / moments))

    def stretch(
        carried: tuple[PyTree, PyTree], moment: Array
    ) -> tuple[tuple[PyTree, PyTree], tuple[Array, Array]]:
        shown = decode(weights, carried[0]), distance(carried[0], moment * many)[1]
        carried = jax.lax.fori_loop(moment * many, (moment + 1) * many, step, carried)
        return carried, shown

    begin = vectors, optimizer.init(vectors)
    (z, _), (way, cosines) = jax.lax.scan(stretch, begin, jnp.arange(moments))
    x, cosine = decode(weights, z), distance(z, jnp.asarray(moments * many))[1]
    way = jnp.concatenate([jnp.swapaxes(way, 0, 1), x[:, None]], axis=1)
    return Dreamed(x, way, jnp.concatenate([cosines.T, cosine[:, None]], axis=1))
