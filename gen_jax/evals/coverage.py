"""What samples miss and what they invent, and how far apart two sets are, in a space of features.

Neighborhoods are balls that reach to the k-th nearest example of the same set. All distances are
computed ``chunk`` rows at a time, so that memory grows as the number of examples and not as its
square.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

__all__ = ["Coverage", "Modes", "count_modes", "coverage", "kernel_distance", "nearest"]


class Coverage(NamedTuple):
    """How two sets lie to each other.

    ``precision``: share of fake examples that lie in a real neighborhood; ``recall``: of real ones
    in a fake neighborhood (Kynkäänniemi et al. 2019, Eq. 1). ``density``: how many real
    neighborhoods a fake example lies in, over k; ``coverage``: share of real neighborhoods that
    hold a fake example (Naeem et al. 2020, Eq. 3 and 4). Of two sets of one law density is 1 and
    coverage 1 - 2^-k; one far outlier among real examples raises precision, and not density.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(real: np.ndarray, fake: np.ndarray, k: int = 5, chunk: int = 1024) -> Coverage:
    """Measure precision, recall, density and coverage of features [N, D] and [M, D].

    Args:
        real: of real examples.
        fake: of samples; as many, or the numbers favor neither set's neighborhoods.
        k: which neighbor a neighborhood reaches to.
        chunk: rows at once.

    Raises:
        ValueError: for k or fewer examples, or other dimensions.
    """
    for name, x in (("real", real), ("fake", fake)):
        if x.ndim != 2 or x.shape[1] != real.shape[-1]:
            raise ValueError(f"{name}: got {list(x.shape)}; [N, {real.shape[-1]}] is required")
        if len(x) <= k:
            raise ValueError(f"{name}: got {len(x)} examples; more than k = {k} are required")
    real_reach, fake_reach = _reach(real, k, chunk), _reach(fake, k, chunk)
    inside_any = np.zeros(len(fake), bool)
    counts, recalled, covered = 0, 0, 0
    for first, squares in _squares(real, fake, chunk):
        inside = squares < real_reach[first : first + len(squares), None]
        inside_any |= inside.any(axis=0)
        counts += int(inside.sum())
        covered += int(inside.any(axis=1).sum())
        recalled += int((squares < fake_reach[None]).any(axis=1).sum())
    return Coverage(
        precision=float(inside_any.mean()),
        recall=recalled / len(real),
        density=counts / (k * len(fake)),
        coverage=covered / len(real),
    )


def _reach(x: np.ndarray, k: int, chunk: int) -> np.ndarray:
    """Return the squared distance to the k-th nearest other row."""
    found = [np.partition(squares, k, axis=1)[:, k] for _, squares in _squares(x, x, chunk)]
    return np.concatenate(found)


def _squares(a: np.ndarray, b: np.ndarray, chunk: int) -> Iterator[tuple[int, np.ndarray]]:
    """Give squared distances of some rows of ``a`` to all of ``b``, and where these rows begin."""
    b = np.asarray(b, np.float64)
    # About a center, so that large means take no digits from small distances.
    center = b.mean(axis=0)
    b = b - center
    lengths = np.square(b).sum(axis=1)
    for first in range(0, len(a), chunk):
        part = np.asarray(a[first : first + chunk], np.float64) - center
        squares = np.square(part).sum(axis=1)[:, None] + lengths[None] - 2 * part @ b.T
        yield first, np.maximum(squares, 0.0)


def kernel_distance(a: np.ndarray, b: np.ndarray, chunk: int = 1024) -> float:
    """Estimate the squared maximum mean discrepancy with the kernel (x . y / D + 1)^3.

    The kernel distance of Bińkowski et al. 2018, section 4, without their Inception network.
    Unbiased for any number of examples, as the Fréchet distance is not: of two sets of one law it
    is 0 on average, and below 0 half of the time.

    Args:
        a: features [N, D].
        b: features [M, D].
        chunk: rows at once.

    Raises:
        ValueError: for fewer than two examples.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"features: got {min(len(a), len(b))}; at least 2 examples are required")

    def mean(x: np.ndarray, y: np.ndarray, *, same: bool) -> float:
        total, y = 0.0, np.asarray(y, np.float64)
        for first in range(0, len(x), chunk):
            part = np.asarray(x[first : first + chunk], np.float64)
            values = (part @ y.T / x.shape[1] + 1) ** 3
            total += float(values.sum())
            if same:
                total -= float(values[np.arange(len(part)), first + np.arange(len(part))].sum())
        return total / (len(x) * (len(y) - same))

    return mean(a, a, same=True) + mean(b, b, same=True) - 2 * mean(a, b, same=False)


def nearest(queries: np.ndarray, examples: np.ndarray, chunk: int = 256) -> tuple[np.ndarray, ...]:
    """Find the example nearest to each query: its index, and how far it is.

    Args:
        queries: [N, D].
        examples: [M, D].
        chunk: queries at once.

    Returns:
        Indices [N] and Euclidean distances [N]. Samples much nearer to training examples than
        held-out images are have been copied.
    """
    indices, distances = [], []
    for _, squares in _squares(queries, examples, chunk):
        best = squares.argmin(axis=1)
        indices.append(best)
        distances.append(np.sqrt(squares[np.arange(len(best)), best]))
    return np.concatenate(indices), np.concatenate(distances)


class Modes(NamedTuple):
    """How many modes samples reach, and KL(shares of samples || equal shares) in nats."""

    reached: int
    kl: float


def count_modes(labels: np.ndarray, num_modes: int) -> Modes:
    """Count the modes that samples are of, as a classifier labels them.

    Args:
        labels: whole numbers in [0, num_modes), one for each sample.
        num_modes: how many there are, of equal probability.

    Raises:
        ValueError: for labels outside.
    """
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_modes):
        raise ValueError(
            f"labels: got {labels.min()} to {labels.max()}; below {num_modes} required"
        )
    counts = np.bincount(labels, minlength=num_modes)
    shares = counts[counts > 0] / max(len(labels), 1)
    return Modes(int((counts > 0).sum()), float(np.sum(shares * np.log(shares * num_modes))))
