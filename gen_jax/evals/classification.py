"""What a classifier says of images: a judge of samples, and features to compare them in."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from gen_jax.ops.rows import map_rows
from gen_jax.protocols import Model, Weights

__all__ = ["Judgment", "judge"]


class Judgment(NamedTuple):
    """Of each image the likeliest class, and the features of the layer before."""

    labels: np.ndarray
    features: np.ndarray

    def accuracy(self, labels: np.ndarray) -> float:
        """Return the share of images that are taken for what they should be."""
        return float(np.mean(self.labels == labels))


def judge(model: Model, weights: Weights, images: np.ndarray, batch_size: int = 256) -> Judgment:
    """Classify images, uint8 [N, H, W, C].

    Raises:
        ValueError: if the model is no classifier.
    """
    predict: Callable | None = model.predict
    if predict is None:
        raise ValueError("model: a classifier is required")
    run = jax.jit(predict)  # the same program for all calls, which are given the weights
    made = map_rows(lambda images, _: run(weights, images, {}), images, batch_size)
    return Judgment(np.argmax(made.log_probs, axis=1), made.features)
