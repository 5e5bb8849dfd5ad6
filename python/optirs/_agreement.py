"""What two trees must agree on, place by place: types, shapes, and which places are one array."""

from typing import Any


def seen_from(at: str, places: list[list[Any]]) -> list[list[Any]]:
    """The places of an array with `at` first, transposed or not as against it."""
    here = dict(places)[at]
    return [[at, False], *([place, transposed != here] for place, transposed in places if place != at)]


def same_ties(at: str, a: list[list[Any]], b: list[list[Any]], one: str = "file", other: str = "like") -> None:
    """Raises unless both have the same places, in whatever order."""
    if sorted(a) != sorted(b):
        same(at, "ties", _ties(a), _ties(b), one, other)


def _ties(places: list[list[Any]]) -> str:
    """The other places of an array, in words."""
    return ", ".join(f"{place}{' (transposed)' if transposed else ''}" for place, transposed in places[1:]) or "none"


def same(at: str, what: str, a: Any, b: Any, one: str = "file", other: str = "like") -> None:
    """Raises unless both sides agree."""
    if a != b:
        raise ValueError(f"{at} has {what} {a} in the {one}, {b} in {other}")
