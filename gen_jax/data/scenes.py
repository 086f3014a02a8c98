"""Captioned scenes of colored shapes: drawn exactly, so that what a caption says can be measured.

A scene holds one to four things, each of a shape, a color and a size, on dark gray. Its caption
says all that matters: ``a large red circle``, ``three green crosses``, ``a red circle above a blue
square``. Four pairs of color and shape are held out: no scene shows one of them unless asked to, so
that a model can be asked for what it has never seen together. As in GenEval (Ghosh et al. 2023) a
judge, :mod:`gen_jax.evals.scenes`, tells each fact apart; unlike there it needs no detector.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "BACKGROUND",
    "COLORS",
    "HELD_OUT",
    "KINDS",
    "MOTIONS",
    "NUMBERS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "TRAVEL",
    "Edit",
    "Film",
    "Scene",
    "Thing",
    "caption_of",
    "caption_of_film",
    "coverage",
    "draw_scene",
    "is_so",
    "make_edit",
    "make_film",
    "make_scene",
    "plural",
]

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = {
    "red": (230, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 230),
    "yellow": (240, 220, 40),
    "purple": (170, 60, 200),
    "white": (245, 245, 245),
}
SIZES = {"small": 0.14, "large": 0.24}
"""Radius, in parts of the image's side."""
RELATIONS = ("above", "below", "left of", "right of")
MOTIONS = ("left", "right", "up", "down")
TRAVEL = 0.35
"""How far a thing of a film moves, in parts of the side."""
NUMBERS = ("one", "two", "three", "four")
BACKGROUND = (30, 30, 30)
KINDS = ("single", "count", "relation")
"""One thing with its size; two to four alike; two, and where they are."""
HELD_OUT = frozenset(
    {("red", "triangle"), ("blue", "circle"), ("yellow", "cross"), ("purple", "square")}
)
"""Pairs of color and shape that no training scene shows."""


class Thing(NamedTuple):
    """A colored shape, with its middle in parts of the side, rows from above."""

    shape: str
    color: str
    size: str
    row: float
    column: float


class Scene(NamedTuple):
    """What is shown, and the words for it."""

    kind: str  # of :data:`KINDS`
    caption: str
    things: tuple[Thing, ...]


def coverage(shape: str, row: float, column: float, radius: float, side: int) -> np.ndarray:
    """Compute the share of each pixel that a shape covers, float [side, side], by distance.

    Args:
        shape: of :data:`SHAPES`; all of about the area of a circle.
        row: of its middle, in parts of the side.
        column: likewise.
        radius: likewise.
        side: pixels.
    """
    places = (np.arange(side) + 0.5) / side
    y, x = (places - row)[:, None], (places - column)[None]
    if shape == "circle":
        distance = np.hypot(y, x) - radius
    elif shape == "square":
        distance = np.maximum(abs(y), abs(x)) - radius * math.sqrt(math.pi) / 2
    elif shape == "triangle":  # its point is above
        tall = radius * 1.15
        distance = np.maximum(y - 0.78 * tall, 0.511 * (-y - 0.9 * tall) + 0.8595 * abs(x))
    elif shape == "cross":
        arm, long = radius * 0.36, radius * 1.1
        distance = np.minimum(
            np.maximum(abs(x) - arm, abs(y) - long), np.maximum(abs(x) - long, abs(y) - arm)
        )
    else:
        raise ValueError(f"shape: got {shape!r}; one of {', '.join(SHAPES)} is required")
    return np.clip(0.5 - distance * side, 0, 1)


def draw_scene(things: Sequence[Thing], side: int) -> np.ndarray:
    """Draw things, the later ones above the earlier, uint8 [side, side, 3]."""
    image = np.broadcast_to(np.array(BACKGROUND, float), (side, side, 3)).copy()
    for thing in things:
        shown = coverage(thing.shape, thing.row, thing.column, SIZES[thing.size], side)[..., None]
        image = image * (1 - shown) + shown * np.array(COLORS[thing.color], float)
    return np.round(image).astype(np.uint8)


def make_scene(
    rng: np.random.Generator, kinds: Sequence[str] = KINDS, *, held_out: bool = False
) -> Scene:
    """Make up a scene and its caption.

    Args:
        rng: all its luck.
        kinds: of :data:`KINDS`, one of which it is.
        held_out: whether its first thing is a pair that is held out of training; else none is.

    Returns:
        Things that lie within the image, do not touch, and are as the caption says.
    """
    kind, caption, specs, relation = _specify(rng, kinds, held_out)
    while True:
        places = _place(rng, [SIZES[size] for _, _, size in specs])
        if relation is None or is_so(relation, *places, clearly=True):
            things = (Thing(*spec, *place) for spec, place in zip(specs, places, strict=True))
            return Scene(kind, caption, tuple(things))


def caption_of(
    rng: np.random.Generator, kinds: Sequence[str] = KINDS, *, held_out: bool = False
) -> str:
    """Return the caption of what :func:`make_scene` makes with the same luck, in less time."""
    return _specify(rng, kinds, held_out).caption


class Edit(NamedTuple):
    """A change of one fact, in words and in pictures."""

    instruction: str
    before: tuple[Thing, ...]
    after: tuple[Thing, ...]
    changed: int  # which of them


def make_edit(rng: np.random.Generator, *, held_out: bool = False) -> Edit:
    """Make up a scene of one thing or two, and what is to be changed of its first.

    ``make the red circle blue``, ``turn the red circle into a square``, or, of one alone, ``make
    the red circle small``.

    Args:
        rng: all its luck.
        held_out: whether the pair of color and shape that it becomes is held out of training.

    Returns:
        Things that stay where they are, but for one color, shape or size.
    """
    while True:
        scene = make_scene(rng, ("single", "relation"))
        first, *others = scene.things
        kind = ("color", "shape", "size")[rng.integers(3 if not others and not held_out else 2)]
        other: dict[str, Any] = {kind: _other(rng, kind, getattr(first, kind))}
        changed = first._replace(**other)
        known = {(x.color, x.shape) for x in others} | {(first.color, first.shape)}
        pair = (changed.color, changed.shape)
        # Its name must be its own before and after, and it must stay within the image.
        margin = 1.2 * SIZES[changed.size]
        inside = all(margin <= x <= 1 - margin for x in (changed.row, changed.column))
        alone = kind == "size" or pair not in known
        if inside and alone and (pair in HELD_OUT) == held_out:
            break
    name = f"the {first.color} {first.shape}"
    words = {
        "color": f"make {name} {changed.color}",
        "shape": f"turn {name} into a {changed.shape}",
        "size": f"make {name} {changed.size}",
    }
    return Edit(words[kind], scene.things, (changed, *others), 0)


def _other(rng: np.random.Generator, kind: str, value: str) -> str:
    """Choose another color, shape or size."""
    known = {"color": tuple(COLORS), "shape": SHAPES, "size": tuple(SIZES)}[kind]
    rest = [name for name in known if name != value]
    return rest[rng.integers(len(rest))]


class Film(NamedTuple):
    """A thing that moves, and the words for it."""

    caption: str
    frames: tuple[Thing, ...]


def make_film(rng: np.random.Generator, frames: int, *, held_out: bool = False) -> Film:
    """Make up a thing that moves to one side at one speed: ``a small red circle moves left``.

    Args:
        rng: all its luck.
        frames: of the film.
        held_out: as of :func:`make_scene`.

    Returns:
        A thing within the image all the time, which travels :data:`TRAVEL` of the side.
    """
    caption, (shape, color, size), direction = _specify_film(rng, held_out)
    margin = 1.2 * SIZES[size]
    along = float(rng.uniform(margin, 1 - margin - TRAVEL))
    across = float(rng.uniform(margin, 1 - margin))
    places = along + TRAVEL * np.linspace(0, 1, frames) if frames > 1 else np.array([along])
    if direction in ("left", "up"):
        places = places[::-1]
    things = [
        Thing(shape, color, size, *((across, x) if direction in ("left", "right") else (x, across)))
        for x in map(float, places)
    ]
    return Film(caption, tuple(things))


def caption_of_film(rng: np.random.Generator, *, held_out: bool = False) -> str:
    """Return the caption of what :func:`make_film` makes with the same luck, in less time."""
    return _specify_film(rng, held_out)[0]


def _specify_film(
    rng: np.random.Generator, held_out: bool
) -> tuple[str, tuple[str, str, str], str]:
    spec = _specify(rng, ("single",), held_out)
    direction = MOTIONS[rng.integers(len(MOTIONS))]
    return f"{spec.caption} moves {direction}", spec.things[0], direction


def plural(shape: str) -> str:
    """Return the plural of a shape's name."""
    return f"{shape}es" if shape.endswith("s") else f"{shape}s"


def is_so(
    relation: str, one: tuple[float, float], other: tuple[float, float], *, clearly: bool = False
) -> bool:
    """Return whether one place is above, below, left of or right of another.

    Args:
        relation: of :data:`RELATIONS`.
        one: row and column.
        other: likewise.
        clearly: by a quarter of the side, and by more than they are apart the other way.
    """
    down, right = other[0] - one[0], other[1] - one[1]
    apart = {"above": down, "below": -down, "left of": right, "right of": -right}[relation]
    aside = abs(right if relation in ("above", "below") else down)
    return apart >= 0.25 and apart >= aside if clearly else apart > 0


class _Spec(NamedTuple):
    kind: str
    caption: str
    things: list[tuple[str, str, str]]  # the shape, color and size of each
    relation: str | None


def _specify(rng: np.random.Generator, kinds: Sequence[str], held_out: bool) -> _Spec:
    """Choose what is to be seen, and the words for it; where is chosen later."""
    kind = kinds[int(rng.integers(len(kinds)))]
    color, shape = _pair(rng, held_out=held_out)
    if kind == "single":
        size = tuple(SIZES)[rng.integers(len(SIZES))]
        return _Spec(kind, f"a {size} {color} {shape}", [(shape, color, size)], None)
    if kind == "count":
        num = int(rng.integers(2, len(NUMBERS) + 1))
        caption = f"{NUMBERS[num - 1]} {color} {plural(shape)}"
        return _Spec(kind, caption, [(shape, color, "small")] * num, None)
    if kind != "relation":
        raise ValueError(f"kinds: got {kind!r}; some of {', '.join(KINDS)} are required")
    other_color, other_shape = color, shape
    while (other_color, other_shape) == (color, shape):
        other_color, other_shape = _pair(rng, held_out=False)
    relation = RELATIONS[rng.integers(len(RELATIONS))]
    things = [(shape, color, "small"), (other_shape, other_color, "small")]
    caption = f"a {color} {shape} {relation} a {other_color} {other_shape}"
    return _Spec(kind, caption, things, relation)


def _pair(rng: np.random.Generator, *, held_out: bool) -> tuple[str, str]:
    pairs = _pairs(held_out)
    return pairs[rng.integers(len(pairs))]


@functools.cache
def _pairs(held_out: bool) -> tuple[tuple[str, str], ...]:
    every = ((color, shape) for color in COLORS for shape in SHAPES)
    return tuple(pair for pair in every if (pair in HELD_OUT) == held_out)


def _place(rng: np.random.Generator, radii: Sequence[float]) -> list[tuple[float, float]]:
    """Choose middles so that things lie within the image and do not touch."""
    while True:
        places = [
            (float(rng.uniform(1.2 * r, 1 - 1.2 * r)), float(rng.uniform(1.2 * r, 1 - 1.2 * r)))
            for r in radii
        ]
        if all(
            math.dist(places[i], places[j]) > 1.4 * (radii[i] + radii[j])
            for i in range(len(places))
            for j in range(i)
        ):
            return places
