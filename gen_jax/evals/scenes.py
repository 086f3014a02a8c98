"""A judge of captioned scenes: reads things back from pixels, and tells which facts hold.

For :mod:`gen_jax.data.scenes`. Each pixel is background and a share of one color; things are the
connected parts of a color, and what a part is shaped like is decided by its overlap with every
shape at every size. Facts are judged apart, since a model learns them one after another: color
within minutes, shape, number and place much later.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from gen_jax.data.scenes import (
    BACKGROUND,
    COLORS,
    NUMBERS,
    RELATIONS,
    SHAPES,
    SIZES,
    Edit,
    Thing,
    coverage,
    is_so,
    plural,
)

__all__ = [
    "FACTS",
    "Found",
    "find_things",
    "judge_scene",
    "rate_edits",
    "rate_films",
    "rate_scenes",
]

FACTS = ("color", "shape", "size", "count", "binding", "position", "all")
"""What is asked of a picture: of one thing its color, shape and size; of several their number; of
two whether each color is with its shape, and where they are; and all that its caption says."""

_NAMES = tuple(COLORS)
_LEAST = 0.012  # of the image's area: smaller parts are specks
_SOLID = 0.4  # share of a color from which a pixel belongs to it


class Found(NamedTuple):
    """A thing that was found, and how well it fits its shape (intersection over union)."""

    thing: Thing
    fit: float


def find_things(image: np.ndarray) -> list[Found]:
    """Find the things in a picture, the largest first.

    Args:
        image: uint8 [side, side, 3], of 16 pixels or more; from 24 on drawn scenes are read without
            an error.
    """
    side = len(image)
    background, colors = np.array(BACKGROUND, float), np.array(list(COLORS.values()), float)
    away, toward = image.astype(float) - background, colors - background
    # The share of each color by projection, and the color whose remainder is least.
    share = np.clip(away @ toward.T / np.sum(toward**2, axis=1), 0, 1)
    left = np.linalg.norm(away[..., None, :] - share[..., None] * toward, axis=-1)
    which = np.argmin(left, axis=-1)
    amount = np.take_along_axis(share, which[..., None], -1)[..., 0]
    found: list[tuple[float, Found]] = []
    for number, color in enumerate(_NAMES):
        labels, num = ndimage.label((amount > _SOLID) & (which == number))
        for index in range(1, num + 1):
            part = labels == index
            if part.sum() < _LEAST * side * side:
                continue
            own = np.where(ndimage.binary_dilation(part) & (which == number) | part, amount, 0)
            found.append((float(own.sum()), _recognize(own, color)))
    return [thing for _, thing in sorted(found, key=lambda entry: -entry[0])]


def _recognize(own: np.ndarray, color: str) -> Found:
    """Find the shape and size that overlap best with a part."""
    side = len(own)
    row, column = ndimage.center_of_mass(own)
    best = (-1.0, "", "")
    for shape, size, template, middle in _templates(side):
        moved = _moved(template, round(row - middle[0]), round(column - middle[1]))
        fit = np.minimum(moved, own).sum() / np.maximum(moved, own).sum()
        best = max(best, (float(fit), shape, size))
    fit, shape, size = best
    thing = Thing(shape, color, size, (row + 0.5) / side, (column + 0.5) / side)
    return Found(thing, fit)


def _moved(x: np.ndarray, down: int, right: int) -> np.ndarray:
    """Move a picture, leaving nothing behind it."""
    side, moved = len(x), np.zeros_like(x)
    rows, columns = (
        slice(max(down, 0), side + min(down, 0)),
        slice(max(right, 0), side + min(right, 0)),
    )
    moved[rows, columns] = x[
        max(-down, 0) : side - max(down, 0), max(-right, 0) : side - max(right, 0)
    ]  # fmt: skip
    return moved


@functools.cache
def _templates(side: int) -> list[tuple[str, str, np.ndarray, tuple[float, float]]]:
    """Draw all shapes and sizes at four offsets of half a pixel."""
    made = []
    for shape in SHAPES:
        for size, radius in SIZES.items():
            for offset in ((0.0, 0.0), (0.0, 0.5), (0.5, 0.0), (0.5, 0.5)):
                place = (0.5 + offset[0] / side, 0.5 + offset[1] / side)
                drawn = coverage(shape, *place, radius, side)
                made.append((shape, size, drawn, ndimage.center_of_mass(drawn)))
    return made


def judge_scene(caption: str, found: Sequence[Found]) -> dict[str, bool]:
    """Tell which of the facts that a caption states hold of what was found.

    Args:
        caption: as :func:`gen_jax.data.scenes.make_scene` words it.
        found: of :func:`find_things`.

    Returns:
        Those of :data:`FACTS` that the caption speaks of, ``"all"`` among them.

    Raises:
        ValueError: for a caption in other words.
    """
    things, words = [one.thing for one in found], caption.split()
    relation = next((name for name in RELATIONS if f" {name} a " in caption), None)
    if relation is not None:
        facts = _judge_two(words, relation, things)
    elif words[0] in NUMBERS and len(words) == 3:
        facts = _judge_number(words, things)
    elif len(words) == 4 and words[0] == "a" and words[1] in SIZES:
        _, size, color, shape = words
        # Of the largest thing, whatever else is there.
        one = things[0] if things else Thing("", "", "", 0.0, 0.0)
        facts = {
            "color": one.color == color,
            "shape": one.shape == shape,
            "size": one.size == size,
            "count": len(things) == 1,
        }
    else:
        raise ValueError(f"caption: got {caption!r}; the words of gen_jax.data.scenes are required")
    return {**facts, "all": all(facts.values())}


def _judge_number(words: Sequence[str], things: Sequence[Thing]) -> dict[str, bool]:
    number, color, shapes = words
    return {
        "color": bool(things) and all(thing.color == color for thing in things),
        "shape": bool(things) and all(plural(thing.shape) == shapes for thing in things),
        "count": len(things) == NUMBERS.index(number) + 1,
    }


def _judge_two(words: Sequence[str], relation: str, things: Sequence[Thing]) -> dict[str, bool]:
    pairs = [(words[1], words[2]), (words[-2], words[-1])]
    ones, others = (
        [(thing.row, thing.column) for thing in things if (thing.color, thing.shape) == pair]
        for pair in pairs
    )
    bound = bool(ones and others)
    return {
        "color": sorted(thing.color for thing in things) == sorted(color for color, _ in pairs),
        "shape": sorted(thing.shape for thing in things) == sorted(shape for _, shape in pairs),
        "count": len(things) == 2,
        "binding": bound,
        "position": bound and is_so(relation, ones[0], others[0]),
    }


def rate_scenes(images: np.ndarray, captions: Sequence[str]) -> Mapping[str, float]:
    """Measure in how many pictures each fact holds that its caption states.

    Args:
        images: uint8 [N, side, side, 3].
        captions: N of them.

    Returns:
        The share for each of :data:`FACTS` that any caption speaks of; ``all_single``,
        ``all_count`` and ``all_relation`` by kind; and ``fit``, how well things fit their shapes on
        average: 1 is drawn exactly.
    """
    facts: dict[str, list[float]] = {}
    fits: list[float] = []
    for image, caption in zip(images, captions, strict=True):
        found = find_things(image)
        fits += [one.fit for one in found]
        judged = judge_scene(caption, found)
        kind = "relation" if "position" in judged else "single" if "size" in judged else "count"
        for name, holds in {**judged, f"all_{kind}": judged["all"]}.items():
            facts.setdefault(name, []).append(float(holds))
    rated = {name: float(np.mean(values)) for name, values in sorted(facts.items())}
    return {**rated, "fit": float(np.mean(fits)) if fits else 0.0}


def rate_films(films: np.ndarray, captions: Sequence[str]) -> Mapping[str, float]:
    """Measure in how many films each fact holds that its caption states.

    Args:
        films: uint8 [N, frames, side, side, 3].
        captions: as :func:`gen_jax.data.scenes.make_film` words them.

    Returns:
        Of all frames the share whose ``color``, ``shape`` and ``size`` are the caption's, and in
        which one thing is (``count``); of all films the share in which the largest thing moves
        where the caption says (``direction``), and is of one color and shape from beginning to end
        (``identity``); ``all`` of these together.
    """
    facts: dict[str, list[float]] = {}
    for film, caption in zip(films, captions, strict=True):
        scene, _, direction = caption.rpartition(" moves ")
        found = [find_things(frame) for frame in film]
        frames = [judge_scene(scene, things) for things in found]
        whole = {name: [frame[name] for frame in frames] for name in frames[0] if name != "all"}
        first = [things[0].thing for things in found if things]
        moved = _direction(first) if len(first) == len(found) else ""
        one = len(first) == len(found) and len({(x.color, x.shape) for x in first}) == 1
        judged = {name: float(np.mean(values)) for name, values in whole.items()}
        judged |= {"direction": float(moved == direction), "identity": float(one)}
        judged["all"] = float(all(value == 1 for value in judged.values()))
        for name, value in judged.items():
            facts.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in sorted(facts.items())}


def _direction(things: Sequence[Thing]) -> str:
    """Name where a thing goes; nothing if it hardly moves."""
    down, right = things[-1].row - things[0].row, things[-1].column - things[0].column
    if max(abs(down), abs(right)) < 0.1:
        return ""
    if abs(down) > abs(right):
        return "down" if down > 0 else "up"
    return "right" if right > 0 else "left"


def rate_edits(images: np.ndarray, edits: Sequence[Edit]) -> Mapping[str, float]:
    """Measure in how many pictures a change was made, and nothing else.

    Args:
        images: uint8 [N, side, side, 3], of what ``after`` should be.
        edits: N of :func:`gen_jax.data.scenes.make_edit`.

    Returns:
        The shares in which the thing is as asked (``changed``); in which all other facts are as
        before, with every thing within two pixels of its place (``kept``); and ``all``.
    """
    changed, kept = [], []
    for image, edit in zip(images, edits, strict=True):
        found = [one.thing for one in find_things(image)]
        near = [_nearest(found, thing, 2.5 / len(image)) for thing in edit.after]
        before, after = edit.before[edit.changed], edit.after[edit.changed]
        one = near[edit.changed]
        facts = ("color", "shape", "size")
        asked = [name for name in facts if getattr(before, name) != getattr(after, name)]
        changed.append(one is not None and all(getattr(one, x) == getattr(after, x) for x in asked))
        same = len(found) == len(edit.after) and all(
            thing is not None
            and all(
                getattr(thing, name) == getattr(wanted, name)
                for name in facts
                if number != edit.changed or name not in asked
            )
            for number, (thing, wanted) in enumerate(zip(near, edit.after, strict=True))
        )
        kept.append(same)
    both = [a and b for a, b in zip(changed, kept, strict=True)]
    named = {"changed": changed, "kept": kept, "all": both}
    return {name: float(np.mean(values)) for name, values in named.items()}


def _nearest(found: Sequence[Thing], wanted: Thing, most: float) -> Thing | None:
    """Return the thing at a place; None if there is none near it."""
    distances = [max(abs(x.row - wanted.row), abs(x.column - wanted.column)) for x in found]
    if not distances or min(distances) > most:
        return None
    return found[int(np.argmin(distances))]
