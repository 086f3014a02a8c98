"""Random squares cut out of images, all brought to one size: differentiable, by keys."""

import jax
import jax.numpy as jnp

from gen_jax.ops.checks import checked
from gen_jax.typing import Array, Float, Keys

__all__ = ["cutouts"]


@checked
def cutouts(
    keys: Keys,
    x: Float[Array, "batch height width channels"],
    num: int,
    side: int,
    smallest: float = 0.5,
    noise: float = 0.1,
) -> Float[Array, "batch cuts rows columns channels"]:
    """Cut squares of random sizes and places out of images (Crowson et al. 2022, section 3.2).

    Who judges an image by its cutouts cannot be fooled by what one view alone shows.

    Args:
        keys: one for each image.
        x: images.
        num: squares of each.
        side: of the results, to which squares are scaled bilinearly.
        smallest: of the squares, in parts of the image's shorter side; 1 takes them whole.
        noise: at most so much normal noise is added, of a level drawn for each square.
    """
    height, width, channels = x.shape[1:]
    short = min(height, width)

    def cut(key: Array, image: Array) -> Array:
        size_key, place_key, level_key, noise_key = jax.random.split(key, 4)
        size = short * jax.random.uniform(size_key, minval=smallest, maxval=1.0)
        room = jnp.array([height, width]) - size
        corner = jax.random.uniform(place_key, (2,)) * room
        scale = jnp.full(2, side / size)
        made = jax.image.scale_and_translate(
            image, (side, side, channels), (0, 1), scale, -corner * scale, "linear"
        )
        level = jax.random.uniform(level_key, maxval=noise)
        return made + level * jax.random.normal(noise_key, made.shape)

    def of_one(key: Array, image: Array) -> Array:
        return jax.vmap(cut, in_axes=(0, None))(jax.random.split(key, num), image)

    return jax.vmap(of_one)(keys, x)
