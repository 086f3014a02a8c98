"""Explicit maps between the names and layouts of two libraries' weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gen_jax.errors import CheckpointError

__all__ = ["Entry", "export_weights", "import_weights"]


class Entry(NamedTuple):
    """One array: where it is here, what it is called there, and how it lies there.

    Layouts are PyTorch's: ``"conv"`` [O, I, h, w], ``"dense"`` [O, I], ``"pointwise"`` [O, I, 1, 1]
    of what is a dense layer here, ``"heads_in"`` [heads x dim, I] and ``"heads_out"`` [O, heads x
    dim] of attention, ``"heads_bias"`` [heads x dim]; ``"first"`` is the first of several here;
    ``"same"`` lies alike on both sides; ``"patches:p"`` [O, I, p, p] is a dense layer over patches
    of p x p. With ``stacked`` it is one array here and as many there, ``theirs`` being a pattern of
    their number; with ``copies`` it is as many there that must all be the same.
    """

    ours: str  # parts joined by "/"
    theirs: str
    layout: str
    old: str | None = None  # the name that old files have
    stacked: int = 0
    copies: int = 0

    @property
    def names(self) -> list[str]:
        """Their names."""
        num = self.stacked or self.copies
        return [self.theirs.format(i) for i in range(num)] if num else [self.theirs]


def _to_ours(x: np.ndarray, layout: str, shape: tuple[int, ...]) -> np.ndarray:
    if layout == "conv":
        x = x.transpose(2, 3, 1, 0)
    elif layout == "pointwise":
        x = x.reshape(x.shape[:2]).T
    elif layout in ("dense", "heads_in", "heads_out"):
        # Old attention layers were 1x1 convolutions.
        x = (x.reshape(x.shape[:2]) if x.shape[2:] == (1, 1) else x).T
    elif layout.startswith("patches"):
        x = x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0])
    elif layout == "first":
        x = x[None]
    return x.reshape(shape) if layout.startswith("heads") else x


_TO_THEIRS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "conv": lambda x: x.transpose(3, 2, 0, 1),
    "pointwise": lambda x: x.T[..., None, None],
    "dense": lambda x: x.T,
    "heads_in": lambda x: x.reshape(x.shape[0], -1).T,  # [I, heads, dim]
    "heads_out": lambda x: x.reshape(-1, x.shape[-1]).T,  # [heads, dim, O]
    "heads_bias": lambda x: x.reshape(-1),
    "first": lambda x: x[0],
    "same": lambda x: x,
}


def import_weights(
    tensors: Mapping[str, np.ndarray],
    entries: Sequence[Entry],
    shapes: Mapping[str, tuple[int, ...]],
) -> dict[str, Any]:
    """Bring another library's arrays into our tree.

    Args:
        tensors: theirs, by name.
        entries: of all arrays of our tree.
        shapes: of our arrays, by path.

    Returns:
        Nested dictionaries of float32 arrays.

    Raises:
        CheckpointError: naming every array that is missing, that nobody asked for, or that has
            another shape.
    """
    left, faults = dict(tensors), []
    unmapped = set(shapes) - {entry.ours for entry in entries}
    assert not unmapped, f"no map for {sorted(unmapped)}"
    tree: dict[str, Any] = {}
    for entry in entries:
        wanted, made = shapes[entry.ours], []
        wanted = wanted[1:] if entry.stacked else wanted
        for theirs in entry.names:
            name = theirs if theirs in left else entry.old or theirs
            if name not in left:
                faults.append(f"{theirs}: missing")
                continue
            array = np.asarray(left.pop(name))
            try:
                x = _to_ours(array, entry.layout, wanted)
            except ValueError:
                x = array
            if x.shape == wanted:
                made.append(x)
            else:
                what = f"which does not make {list(wanted)}"
                faults.append(f"{name}: shape {list(array.shape)}, {what}")
        if len(made) < len(entry.names):
            continue
        if entry.copies and any((x != made[0]).any() for x in made):
            faults.append(f"{entry.theirs}: the same of all layers is required")
        x = np.stack(made) if entry.stacked else made[0]
        _set(tree, entry.ours, np.ascontiguousarray(x, np.float32).reshape(np.shape(x)))
    faults += [f"{name}: not used" for name in sorted(left)]
    if faults:
        more = f"; and {len(faults) - 12} more" if len(faults) > 12 else ""
        raise CheckpointError("; ".join(faults[:12]) + more)
    return tree


def export_weights(tree: Mapping[str, Any], entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    """Return our arrays the names and layouts of another library: the inverse of the import."""
    found = {}
    for entry in entries:
        x = np.asarray(_get(tree, entry.ours), np.float32)
        for number, name in enumerate(entry.names):
            found[name] = _to_theirs(x[number] if entry.stacked else x, entry.layout)
    return found


def _to_theirs(x: np.ndarray, layout: str) -> np.ndarray:
    kind, _, side = layout.partition(":")
    if kind == "patches":
        x = x.reshape(int(side), int(side), -1, x.shape[-1]).transpose(3, 2, 0, 1)
    else:
        x = _TO_THEIRS[kind](x)
    return np.ascontiguousarray(x)


def _set(tree: dict[str, Any], path: str, value: np.ndarray) -> None:
    *parents, name = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = value


def _get(tree: Mapping[str, Any], path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree
