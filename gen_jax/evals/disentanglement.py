"""Whether each number of a code stands for one factor that images were made of."""

from typing import NamedTuple

import numpy as np

__all__ = ["Disentanglement", "dci", "mutual_information_gap"]


class Disentanglement(NamedTuple):
    """Eastwood & Williams 2018, section 2: each from 0 to 1, and 1 is best.

    ``disentanglement``: each number of a code says one factor; ``completeness``: each factor is
    said by one number; ``informativeness``: how much of the factors' variance, on examples that
    were not learned from, the code tells.
    """

    disentanglement: float
    completeness: float
    informativeness: float


def dci(codes: np.ndarray, factors: np.ndarray, seed: int = 0, trees: int = 50) -> Disentanglement:
    """Measure disentanglement, completeness and informativeness by forests' importances.

    Args:
        codes: [N, D], one row for each example; the first 3/4 are learned from.
        factors: [N, F], numbers.
        seed: of the forests.
        trees: of each.

    Raises:
        ValueError: for other shapes, or fewer than 8 examples.
    """
    from sklearn.ensemble import RandomForestRegressor

    _check(codes, factors)
    learned = len(codes) * 3 // 4
    importances, told = [], []
    for factor in factors.T:
        forest = RandomForestRegressor(trees, min_samples_leaf=2, random_state=seed, n_jobs=1)
        forest.fit(codes[:learned], factor[:learned])
        importances.append(forest.feature_importances_)
        told.append(max(0.0, forest.score(codes[learned:], factor[learned:])))
    table = np.array(importances).T + 1e-12  # [codes, factors]
    return Disentanglement(
        float(np.sum(_sharpness(table) * table.sum(1) / table.sum())),
        float(np.sum(_sharpness(table.T) * table.sum(0) / table.sum())),
        float(np.mean(told)),
    )


def _sharpness(table: np.ndarray) -> np.ndarray:
    """Return 1 - H of each row's shares, in units of the largest H."""
    if table.shape[1] == 1:
        return np.ones(len(table))
    shares = table / table.sum(axis=1, keepdims=True)
    return 1 + np.sum(shares * np.log(shares), axis=1) / np.log(table.shape[1])


def mutual_information_gap(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> float:
    """Measure how much more the best number of a code says of a factor than the second best.

    I(z_best; v) - I(z_second; v), over H(v), averaged over factors (Chen et al. 2018, Eq. 6); of
    numbers in bins of equal counts.

    Args:
        codes: [N, D].
        factors: [N, F].
        bins: of codes and factors.

    Raises:
        ValueError: for other shapes, or fewer than 8 examples.
    """
    _check(codes, factors)
    placed = [_binned(column, bins) for column in codes.T]
    gaps = []
    for factor in factors.T:
        values = _binned(factor, bins)
        entropy = _entropy(np.bincount(values))
        found = sorted(
            entropy + _entropy(np.bincount(z)) - _entropy(np.bincount(z * bins + values))
            for z in placed
        )
        second = found[-2] if len(found) > 1 else 0.0
        gaps.append((found[-1] - second) / max(entropy, 1e-12))
    return float(np.mean(gaps))


def _binned(column: np.ndarray, bins: int) -> np.ndarray:
    """Assign each value of a column to one of some bins of equal counts; equal values share one."""
    edges = np.unique(np.quantile(column, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, column, side="right")


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-np.sum(shares * np.log(shares)))


def _check(codes: np.ndarray, factors: np.ndarray) -> None:
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or len(codes) < 8:
        got = f"{list(codes.shape)} and {list(factors.shape)}"
        raise ValueError(f"codes, factors: got {got}; [N, D] and [N, F] from N = 8 are required")
