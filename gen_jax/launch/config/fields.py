"""A config field, written once: type, range, default, meaning, and whether a run may change it."""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

__all__ = [
    "Change",
    "Family",
    "Fault",
    "Field",
    "Rule",
    "boolean",
    "choice",
    "elsewhere",
    "flatten",
    "integer",
    "integers",
    "number",
    "positives",
    "prefixed",
    "text",
    "texts",
]

Change = Literal["frozen", "free"]


class Field(NamedTuple):
    """One leaf of a config.

    ``frozen`` fields may not change once a run has a checkpoint. An ``optional`` field may be None.
    """

    kind: type
    accepts: str
    ok: Callable[[Any], bool]
    default: Any
    change: Change
    doc: str
    optional: bool = False

    def takes(self, value: Any) -> bool:
        """Return whether a value has the type and the range of this field."""
        if value is None:
            return self.optional
        if self.kind is float and type(value) is int:
            value = float(value)
        if self.kind is tuple and isinstance(value, list):
            value = tuple(value)
        return type(value) is self.kind and bool(self.ok(value))

    def read(self, value: Any) -> Any:
        """Bring a value to its type: JSON knows no tuples, and 1 is a good float."""
        return None if value is None else self.kind(value)


class Fault(NamedTuple):
    """What is wrong with one field; ``str`` gives the line that a user reads."""

    field: str
    problem: str

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}"


Rule = Callable[[Mapping[str, Any]], Mapping[str, str]]
"""``values by dotted name -> {field: what is wrong}``: a relation between fields that are each
right by themselves. A rule that reads a field which is not right is left out."""


class Family(NamedTuple):
    """What a config of one family may say.

    ``fields`` by dotted name, beside the common ones; ``rules`` between them, and
    ``rules_for_new`` that runs which are there already need not follow; ``defaults`` of
    common fields that are the family's own; ``tiny``, how an experiment is shrunk until it runs
    anywhere within seconds: values, or functions of the experiment's own; ``presets``, further
    variants by name, of a paper's network for example; ``players`` with an optimizer of their own,
    if there are several.
    """

    fields: Mapping[str, Field]
    rules: Sequence[Rule] = ()
    rules_for_new: Sequence[Rule] = ()
    defaults: Mapping[str, Any] = {}
    tiny: Mapping[str, Any] = {}
    presets: Mapping[str, Mapping[str, Any]] = {}
    players: tuple[str, ...] = ()


def integer(
    low: int, high: int | None = None, *, default: int, change: Change = "free", doc: str
) -> Field:
    """Make a field for whole numbers in [low, high]."""
    accepts = f"a whole number from {low}" + ("" if high is None else f" to {high}")
    within = lambda x: x >= low and (high is None or x <= high)  # noqa: E731
    return Field(int, accepts, within, default, change, doc)


def number(
    low: float,
    high: float = math.inf,
    *,
    default: float,
    above: bool = False,
    below: bool = False,
    change: Change = "free",
    doc: str,
) -> Field:
    """Make a field for finite numbers from low to high; ``above``, ``below``: without the bound."""
    accepts = f"a number {'above' if above else 'from'} {low:g}"
    if high < math.inf:
        accepts += f" {'to below' if below else 'to'} {high:g}"

    def ok(x: float) -> bool:
        inside = (x > low if above else x >= low) and (x < high if below else x <= high)
        return math.isfinite(x) and inside

    return Field(float, accepts, ok, float(default), change, doc)


def boolean(*, default: bool, change: Change = "free", doc: str) -> Field:
    """Make a field for True and False."""
    return Field(bool, "True or False", lambda x: True, default, change, doc)


def choice(*values: str, default: str = "", change: Change = "free", doc: str) -> Field:
    """Make a field for one of some words, the first by default."""
    accepts = " or ".join(map(repr, values))
    return Field(str, accepts, values.__contains__, default or values[0], change, doc)


def text(
    pattern: str, accepts: str, *, default: str = "", change: Change = "free", doc: str
) -> Field:
    """Make a field for text that matches a whole regular expression."""
    matches = lambda x: re.fullmatch(pattern, x) is not None  # noqa: E731
    return Field(str, accepts, matches, default, change, doc)


def integers(
    low: int,
    *,
    default: tuple[int, ...] = (),
    length: int | None = None,
    change: Change = "free",
    doc: str,
) -> Field:
    """Make a field for a tuple of whole numbers from low."""
    accepts = f"a tuple of {length or 'some'} whole numbers from {low}"

    def ok(x: Sequence[int]) -> bool:
        whole = all(type(item) is int and item >= low for item in x)
        return whole and (length is None or len(x) == length)

    return Field(tuple, accepts, ok, default, change, doc)


def positives(*, default: tuple[float, ...], change: Change = "free", doc: str) -> Field:
    """Make a field for a tuple of numbers above 0; whole ones stay whole."""

    def ok(x: Sequence[float]) -> bool:
        return all(type(item) in (int, float) and 0 < item < math.inf for item in x)

    return Field(tuple, "a tuple of some numbers above 0", ok, default, change, doc)


def texts(
    pattern: str,
    accepts: str,
    *,
    default: tuple[str, ...] = (),
    change: Change = "free",
    doc: str,
) -> Field:
    """Make a field for a tuple of texts that each match a whole regular expression."""

    def ok(x: Sequence[str]) -> bool:
        return all(type(item) is str and re.fullmatch(pattern, item) for item in x)

    return Field(tuple, f"a tuple of {accepts}", ok, default, change, doc)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings by dotted name."""
    return dict(_leaves(config, prefix))


def _leaves(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def elsewhere(place: str) -> str | None:
    """Return the scheme of a place that is not on this machine's file system, ``gs://``."""
    found = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place)
    return found and found.group()


def prefixed(section: str, faults: Mapping[str, str]) -> dict[str, str]:
    """Name the arguments that a rule of the mathematics speaks of as a config's fields."""
    return {f"{section}.{name}": fault for name, fault in faults.items()}
