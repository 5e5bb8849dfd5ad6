"""Other names for the places of a file."""

from collections.abc import Callable
from typing import Any

from ._agreement import Side
from ._contents import Contents

Rename = dict[str, str] | Callable[[str], str]
"""From old to new key paths, as text, from the model down."""


def rename_places(file: Contents, rename: Rename) -> None:
    """Changes where the arrays and Leafs of a file stand.

    Raises:
        TypeError: If `rename` is neither a dict nor a function, or makes something else than text.
        ValueError: If two places become one.
    """
    if isinstance(rename, dict):
        for text in (*rename, *rename.values()):
            _check_text(text)
        new = _by_prefix(rename)
    elif callable(rename):
        new = _once(rename)
    else:
        raise TypeError(f"load: rename must be a dict or a function, got {type(rename).__name__}")
    arrays: dict[str, str] = {}
    for side in (file.model, file.state):
        if side is not None:
            arrays |= _rename_side(side, new)
    nodes = new if isinstance(rename, dict) else _of_nodes(arrays)
    for root in ("model", "state"):
        file.moved[root] = [(_moved(place, nodes), kind) for place, kind in file.containers(root)]
    if file.state is not None:
        known = None if isinstance(rename, dict) or file.model is None else arrays
        none = [place for place in file.state.none if known is None or _below_root(place) in known]
        file.state.rename(file.state.places, [_moved(place, new) for place in none])


def _rename_side(side: Side, new: Callable[[str], str]) -> dict[str, str]:
    """Renames the places of a side; the new text of each old one."""
    moved = [_moved(place, new) for place in side.places]
    if len(set(moved)) < len(moved):
        first: dict[str, str] = {}
        for before, place in zip(side.places, moved, strict=True):
            if place in first:
                raise ValueError(f"rename takes both {first[place]} and {before} to {place}")
            first[place] = before
    old = side.places
    side.rename(moved, side.none)
    return {_below_root(a): _below_root(b) for a, b in zip(old, moved, strict=True)}


def _moved(place: str, new: Callable[[str], str]) -> str:
    """A place with its root, under its new name."""
    text = _below_root(place)
    root = place[: len(place) - len(text)].removesuffix(".")
    return _joined(root, new(text))


def _below_root(place: str) -> str:
    """A place as text from the model or state down."""
    ends = [i for i in (place.find("."), place.find("[")) if i >= 0]
    return place[min(ends) :].removeprefix(".") if ends else ""


def _joined(head: str, tail: str) -> str:
    return head + tail if not head or not tail or tail[0] in ".[" else f"{head}.{tail}"


def _by_prefix(rename: dict[str, str]) -> Callable[[str], str]:
    """Renames by the longest of the paths that is the place itself or above it."""

    def new(text: str) -> str:
        ends = [i for i, letter in enumerate(text) if letter in ".["]
        for end in (len(text), *reversed(ends), 0):
            if text[:end] in rename:
                return _joined(rename[text[:end]], text[end:]).removeprefix(".")
        return text

    return new


def _once(rename: Callable[[str], Any]) -> Callable[[str], str]:
    """The function, called once for each text."""
    known: dict[str, str] = {}

    def new(text: str) -> str:
        if text not in known:
            known[text] = _check_text(rename(text))
        return known[text]

    return new


def _of_nodes(arrays: dict[str, str]) -> Callable[[str], str]:
    """Renames nodes as the first array below each, which a function has renamed; others stay."""
    nodes: dict[str, str] = {}
    for old, place in arrays.items():
        for end in (i for i, letter in enumerate(old) if letter in ".["):
            rest = old[end:]
            if old[:end] not in nodes and _joined("x", place).endswith(rest):
                nodes[old[:end]] = place[: max(len(place) - len(rest), 0)]
    return lambda text: nodes.get(text, text)


def _check_text(text: Any) -> str:
    if not isinstance(text, str):
        raise TypeError(f"load: rename maps text to text, got {text!r}")
    return text
