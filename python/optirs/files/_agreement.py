"""What two trees must agree on, place by place: nodes, types, shapes, and which places are one array."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

from .._core import Outline
from ..trees.tree import KeyPath

Kind = tuple[Any, ...]
"""What a node is: see `Outline.containers`."""

Signature = tuple[str, tuple[int, ...]]
"""NumPy's name of an array's type, and its shape."""


class Table(Protocol):
    """Where arrays or Leafs stand: an `Outline`, or what a file of format 1 has, or what was renamed."""

    @property
    def places(self) -> list[str]:
        """The places."""

    @property
    def index(self) -> list[int]:
        """Which array stands at each."""

    @property
    def transposed(self) -> list[bool]:
        """Whether transposed."""

    @property
    def first(self) -> list[int]:
        """Which of the places is the first one of each array."""

    @property
    def none(self) -> list[str]:
        """The places where a state has None: there may be a parameter without a Leaf."""

    def paths(self, cls: type[KeyPath], places: list[int], /) -> list[KeyPath]:
        """The key paths of some places."""


@dataclass
class Listed:
    """A table that is no outline."""

    places: list[str]
    index: list[int]
    transposed: list[bool]
    first: list[int]
    none: list[str]
    keys: Callable[[list[int]], list[KeyPath]]

    def paths(self, _: type[KeyPath], places: list[int], /) -> list[KeyPath]:
        """The key paths of some places."""
        return self.keys(places)


@dataclass
class Side:
    """Arrays, parameters or Leafs, and where they stand. Its lists are made when they are asked for."""

    name: str
    """What errors call it: file, like, state or model."""
    noun: str
    """What it has: array, parameter or Leaf."""
    table: Table
    signatures: list[Signature]
    """Of each array, as at its first place."""

    @cached_property
    def places(self) -> list[str]:
        """The places."""
        return self.table.places

    @cached_property
    def index(self) -> list[int]:
        """Which array stands at each place."""
        return self.table.index

    @cached_property
    def transposed(self) -> list[bool]:
        """Whether it is transposed there."""
        return self.table.transposed

    @cached_property
    def first(self) -> list[int]:
        """Which of the places is the first one of each array."""
        return self.table.first

    @cached_property
    def none(self) -> list[str]:
        """The places where a state has None."""
        return self.table.none

    def paths(self, places: list[int]) -> list[KeyPath]:
        """The key paths of some places."""
        return self.table.paths(KeyPath, places)

    def rename(self, places: list[str], none: list[str]) -> None:
        """Gives the places other names; their key paths stay, as they lead to what the file has."""
        self.table = Listed(places, self.index, self.transposed, self.first, none, partial(self.table.paths, KeyPath))
        self.places, self.none = places, none

    def agrees(self, other: "Side") -> bool:
        """Whether it has the same places for the same arrays; which place of a Leaf is a transpose does not matter."""
        leafs = self.noun == "Leaf"
        if self.signatures != other.signatures:
            return False
        if isinstance(self.table, Outline) and isinstance(other.table, Outline):
            return self.table.agrees(other.table, leafs)
        same = (self.places, self.index) == (other.places, other.index)
        return same and (leafs or self.transposed == other.transposed)

    def groups(self) -> list[list[int]]:
        """The places of each array."""
        groups: list[list[int]] = [[] for _ in self.signatures]
        for place, i in enumerate(self.index):
            groups[i].append(place)
        return groups


@dataclass
class Match:
    """Which array of one side is which of the other."""

    chosen: list[int | None]
    """For each array of the other side one of this side."""
    flipped: set[int] = field(default_factory=set)
    """Arrays of the other side that are the transpose of the one chosen, as both stand first."""
    missing: list[int] = field(default_factory=list)
    """Arrays of the other side that this side has not."""
    mismatched: dict[int, str] = field(default_factory=dict)
    """Arrays of the other side that differ, and how."""
    unexpected: list[int] = field(default_factory=list)
    """Places of this side that the other has not, the first of each array."""


def matched(one: Side, other: Side, *, strict: bool, differing: dict[str, str]) -> Match:
    """Which arrays of `one` are those of `other`, by their places.

    Args:
        one: Arrays, or the Leafs of a state.
        other: Arrays, or parameters.
        strict: Whether anything that differs is an error.
        differing: Nodes of the other side that differ, and how: nothing below them agrees.

    Raises:
        ValueError: If `strict`, and something differs; the text names the place and both sides.
    """
    leafs = one.noun == "Leaf"
    if not differing and one.agrees(other):
        return Match(list(range(len(other.signatures))))
    match = Match([None] * len(other.signatures))
    where = {place: i for i, place in enumerate(one.places)}
    known = set(other.places)
    mine = one.groups()
    for i, group in enumerate(other.groups()):
        common = [j for j in group if other.places[j] in where]
        if not common or (strict and common[0] != group[0]):
            match.missing.append(i)
            continue
        a = one.index[where[other.places[common[0]]]]
        same_places = (mine[a], group) if strict else ([j for j in mine[a] if one.places[j] in known], common)
        problem = _below(other.places[common[0]], differing) or _problem(one, other, a, i, *same_places, mine[a][0])
        if problem is None:
            match.chosen[i] = a
            if one.transposed[where[other.places[common[0]]]] != other.transposed[common[0]]:
                match.flipped.add(i)
        else:
            match.mismatched[i] = problem
            if strict:
                raise ValueError(problem)
    if leafs and match.missing:
        none = set(one.none)
        theirs = other.groups()
        match.missing = [i for i in match.missing if not all(other.places[j] in none for j in theirs[i])]
    match.unexpected = [group[0] for group in mine if group and not any(one.places[j] in known for j in group)]
    if strict:
        _check_complete(one, other, match, known)
    return match


def _problem(one: Side, other: Side, a: int, b: int, mine: list[int], theirs: list[int], first: int) -> str | None:
    """In what the array `a` of `one` differs from `b` of `other`, which stand at these places, that one `first`."""
    at = other.places[theirs[0]]
    here = next(j for j in mine if one.places[j] == at)
    ties = _seen_from(one, mine, here), _seen_from(other, theirs, theirs[0])
    leafs = one.noun == "Leaf"
    if leafs:
        ties = dict.fromkeys(ties[0], False), dict.fromkeys(ties[1], False)
    if ties[0] != ties[1]:
        return differ(at, "ties", _others(ties[0], at), _others(ties[1], at), one.name, other.name)
    (dtype, shape), (other_dtype, other_shape) = one.signatures[a], other.signatures[b]
    if leafs:  # what a rule remembers lies as the array does at the first place
        place = one.places[first]
        as_first = next((j for j in theirs if other.places[j] == place), None)
        if as_first is None:
            return f"{at} is tied to {place}, which comes first in the {one.name}, but is not in {other.name}"
        if other.transposed[as_first]:
            return f"{at} is the transpose of {place}, which comes first in the {one.name}, but not in {other.name}"
    else:
        shape = shape[::-1] if one.transposed[here] else shape
        other_shape = other_shape[::-1] if other.transposed[theirs[0]] else other_shape
    if dtype != other_dtype:
        return differ(at, "dtype", dtype, other_dtype, one.name, other.name)
    if shape != other_shape:
        return differ(at, "shape", shape, other_shape, one.name, other.name)
    return None


def _seen_from(side: Side, group: list[int], here: int) -> dict[str, bool]:
    """The places of an array, transposed or not as against one of them."""
    return {side.places[j]: side.transposed[j] != side.transposed[here] for j in group}


def _others(ties: dict[str, bool], at: str) -> str:
    """The other places of an array, in words."""
    places = (f"{place}{' (transposed)' if transposed else ''}" for place, transposed in ties.items() if place != at)
    return ", ".join(places) or "none"


def _check_complete(one: Side, other: Side, match: Match, known: set[str]) -> None:
    """Raises if a side has what the other has not."""
    missing = next((other.places[other.first[i]] for i in match.missing), None)
    unexpected = next((place for place in one.places if place not in known), None)
    if one.noun == "Leaf":
        if unexpected is not None:
            raise ValueError(f"the {one.name} has a Leaf at {unexpected}, where {other.name} has no parameter")
        if missing is not None:
            raise ValueError(
                f"{other.name} has a parameter at {missing}, where the {one.name} has neither a Leaf nor None"
            )
    if missing is not None:
        raise ValueError(f"{other.name} has an array at {missing}, the {one.name} has none")
    if unexpected is not None:
        raise ValueError(f"the {one.name} has an array at {unexpected}, {other.name} has none")


def differing(
    one: list[tuple[str, Kind]], other: list[tuple[str, Kind]], arrays: tuple[list[str], list[str]], strict: bool
) -> dict[str, str]:
    """The nodes that differ in the file and in `like`, and how; `arrays` are the places of the arrays of both.

    Lists and tuples are interchangeable, dicts of all classes are, and classes of the user's with the same children.

    Raises:
        ValueError: If `strict` and there is one; the text names the place and both sides.
    """
    if one == other:
        return {}
    kinds = dict.fromkeys(arrays[0], ("array",)) | dict(one)
    found: dict[str, str] = {}
    for place, kind in [*other, *((place, ("array",)) for place in arrays[1])]:
        mine = kinds.get(place, kind)
        if mine == kind or {mine[0], kind[0]} == {"list", "tuple"}:
            continue
        found[place] = _difference(place, mine, kind)
        if strict:
            raise ValueError(found[place])
    return found


def _difference(place: str, a: Kind, b: Kind) -> str:
    if a[0] == b[0] == "layer" and a[1] == b[1]:
        return differ(place, "activation", a[2], b[2])
    if a[0] == b[0] in ("class", "namedtuple"):
        return differ(place, "children", ", ".join(a[1]) or "none", ", ".join(b[1]) or "none")
    return f"{place} is {_words(a)} in the file, {_words(b)} in like"


def _words(kind: Kind) -> str:
    """A node in words."""
    if kind[0] == "layer":
        return f"{'an' if kind[1].startswith(tuple('AEIOU')) else 'a'} {kind[1]}"
    if kind[0] == "class":
        return f"an object with children {', '.join(kind[1]) or 'none'}"
    return {"array": "an array", "namedtuple": "a named tuple"}.get(kind[0], f"a {kind[0]}")


def _below(place: str, nodes: dict[str, str]) -> str | None:
    """How a node differs at or above the place."""
    ends = (i for i, letter in enumerate(place) if letter in ".[") if nodes else ()
    return next((nodes[place[:end]] for end in (*ends, len(place)) if place[:end] in nodes), None)


def differ(at: str, what: str, a: Any, b: Any, one: str = "file", other: str = "like") -> str:
    """The text that says how two sides differ."""
    return f"{at} has {what} {a} in the {one}, {b} in {other}"
