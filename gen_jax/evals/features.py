"""Features of images in pretrained networks, to compare sets of images in.

A Fréchet distance in them is named for its network, ``frechet_efficientnet_lite0`` for example:
what is called FID is in Inception's features alone.
"""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gen_jax.errors import DataError
from gen_jax.interop.pretrained import load_pretrained, read_inception
from gen_jax.nn.inception import fold, inception
from gen_jax.nn.perceptual import PERCEPTUAL, as_rgb, efficientnet_lite0, lpips_features
from gen_jax.ops.rows import map_rows
from gen_jax.typing import Array

__all__ = ["INCEPTION", "NETWORKS", "features_of", "inception_features"]

NETWORKS = ("alexnet", "vgg16", "efficientnet_lite0")

# What EfficientNet-Lite0 was trained on, and what is least for the others.
_EFFICIENTNET_SIDE, _LEAST_SIDE = 224, 64


INCEPTION = "inception"
"""Names Inception's weights of 2015 together with the place of a copy: ``inception:PATH``."""


def inception_features(
    path: Path, batch_size: int = 32
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return a function from images, uint8 [N, H, W, C], to the features of FID and of sFID.

    Args:
        path: of ``pt_inception-2015-12-05-6726825d.pth``, the user's own copy.
        batch_size: images at once.

    Raises:
        DataError: if it is not there, or is another file.
    """
    try:
        params = jax.tree.map(jnp.asarray, fold(read_inception(path)))
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    run = jax.jit(inception)

    def features(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        colored = np.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else images
        made: tuple[np.ndarray, np.ndarray] = map_rows(
            lambda part, _: run(params, part), colored, batch_size
        )
        return made

    return features


def features_of(network: str, batch_size: int = 64) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images, uint8 [N, H, W, C], to features [N, D] of a network.

    EfficientNet-Lite0's are the 1,280 of the layer before its classes, of images resized to
    224x224; AlexNet's and VGG16's are LPIPS' of the last level, averaged over positions, of images
    of at least 64x64.

    Args:
        network: of :data:`NETWORKS`.
        batch_size: images at once.

    Raises:
        DataError: if the network's file is not there.
        ValueError: for another network.
    """
    if network not in NETWORKS:
        raise ValueError(f"network: got {network!r}; one of {', '.join(NETWORKS)} is required")
    weights = jax.tree.map(jnp.asarray, load_pretrained(network))

    def resized(images: Array, side: int) -> Array:
        x = as_rgb(images)
        if min(x.shape[1:3]) < side or network == "efficientnet_lite0":
            x = jax.image.resize(x, (len(x), side, side, 3), "bilinear")
        return x

    @jax.jit
    def run(weights: dict, images: Array) -> Array:
        if network in PERCEPTUAL:
            last = lpips_features(network, weights, resized(images, _LEAST_SIDE))[-1]
            return jnp.mean(last, axis=(1, 2))
        x = resized(images, _EFFICIENTNET_SIDE)
        pixels = jnp.clip(jnp.round(127.5 * (x + 1)), 0, 255).astype(jnp.uint8)
        return efficientnet_lite0(weights, pixels)[0]

    def features(images: np.ndarray) -> np.ndarray:
        return map_rows(lambda part, _: run(weights, part), images, batch_size)

    return features
