"""Handwritten digits, shipped with scikit-learn."""

import numpy as np

from gen_jax.data.sources.source import Source, from_arrays

__all__ = ["open_digits"]


def open_digits(split: str) -> Source:
    """Open a split of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    data = load_digits()
    # 17 gray levels, 0 to 16, spread over 0 to 255. The last 297 are held out: scikit-learn keeps
    # the order of the original files, so that these were written by people not seen in training.
    images = np.round(data.images * (255 / 16)).astype(np.uint8)
    part = slice(0, 1500) if split == "train" else slice(1500, None)
    return from_arrays(f"digits/{split}", images[part], data.target[part].astype(np.int32))
