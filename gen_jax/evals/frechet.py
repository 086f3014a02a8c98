"""The Fréchet distance between Gaussians fitted to features (Heusel et al. 2017, Eq. 6)."""

from typing import NamedTuple

import numpy as np

from gen_jax.ops.checks import check_pixels

__all__ = [
    "Gaussian",
    "bytes_of_distance",
    "fit_gaussian",
    "frechet_between",
    "frechet_distance",
    "raw_pixels",
]


class Gaussian(NamedTuple):
    """Mean [D] and covariance [D, D] in float64."""

    mean: np.ndarray
    covariance: np.ndarray


def raw_pixels(images: np.ndarray) -> np.ndarray:
    """Flatten uint8 [N, ...] to features in [0, 1], [N, D].

    A stand-in for a pretrained network: the distance then compares means and correlations of
    pixels, and says nothing of what a viewer would call quality.
    """
    check_pixels(images)
    return images.reshape(len(images), -1).astype(np.float64) / 255.0


def fit_gaussian(features: np.ndarray) -> Gaussian:
    """Fit mean and unbiased covariance to features [N, D].

    Raises:
        ValueError: if there are fewer than two examples.
    """
    if len(features) < 2:
        raise ValueError(f"features: got {len(features)}; at least 2 examples are required")
    features = np.asarray(features, np.float64)  # sums of float32 lose digits
    covariance = np.atleast_2d(np.cov(features, rowvar=False))
    return Gaussian(features.mean(axis=0), covariance)


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """Return |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)).

    The trace of the root is the sum of the square roots of the eigenvalues of C_a^(1/2) C_b
    C_a^(1/2), which is symmetric, so that singular covariances need no special care.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
    eigenvalues = np.linalg.eigvalsh(root @ b.covariance @ root)
    trace = np.trace(a.covariance) + np.trace(b.covariance)
    trace -= 2 * np.sqrt(np.clip(eigenvalues, 0.0, None)).sum()
    return float(np.square(a.mean - b.mean).sum() + trace)


def bytes_of_distance(num: int, other: int, dim: int, chunk: int = 4096) -> int:
    """Estimate the memory that :func:`frechet_between` takes beside its features."""
    if min(num, other) > dim:  # one set twice in double precision, and six matrices
        return 8 * (2 * max(num, other) * dim + 6 * dim * dim)
    # The matrix of all pairs, one more to factor it, and three copies of a chunk.
    return 8 * (2 * num * other + 3 * (num + other) * min(dim, chunk))


def frechet_between(a: np.ndarray, b: np.ndarray, chunk: int = 4096) -> float:
    """Return the Fréchet distance between Gaussians fitted to features [N, D] and [M, D].

    Where there are fewer examples than dimensions nothing of size [D, D] is made: with centered
    features A and B the covariances are A^T A / (N - 1) and B^T B / (M - 1), and the trace of the
    root of their product is the sum of the singular values of A B^T / sqrt((N - 1) (M - 1)).

    Args:
        a: numbers of any type; computed with in double precision, ``chunk`` dimensions at a time.
        b: likewise, of as many dimensions.
        chunk: dimensions at once.

    Raises:
        ValueError: if either has fewer than two examples, or other dimensions.
    """
    for features in (a, b):
        if len(features) < 2:
            raise ValueError(f"features: got {len(features)}; at least 2 examples are required")
        if features.ndim != 2 or features.shape[1] != a.shape[-1]:
            what = f"[N, {a.shape[-1]}] is required"
            raise ValueError(f"features: got {list(features.shape)}; {what}")
    if min(len(a), len(b)) > a.shape[1]:
        return frechet_distance(fit_gaussian(a), fit_gaussian(b))
    apart, traces, cross = 0.0, 0.0, np.zeros((len(a), len(b)))
    for first in range(0, a.shape[1], chunk):
        parts = [x[:, first : first + chunk].astype(np.float64) for x in (a, b)]
        means = [x.mean(axis=0) for x in parts]
        one, other = (
            (x - mean) / np.sqrt(len(x) - 1) for x, mean in zip(parts, means, strict=True)
        )
        apart += float(np.square(means[0] - means[1]).sum())
        traces += float(np.square(one).sum() + np.square(other).sum())
        cross += one @ other.T
    return apart + traces - 2 * float(np.linalg.svd(cross, compute_uv=False).sum())
