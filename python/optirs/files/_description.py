"""What there is to say of a model and a state, besides the bytes of their arrays."""

import json
from typing import Any

from .. import _core
from .._core import Draft, Inventory, Leaf, Outline
from ..rules import Rule
from ..trees.ties import Parameter, check_overlap
from ..trees.tree import KeyPath, leaves
from ._agreement import Side, Signature
from ._archive import Array, Json
from ._encoding import NUMBERS, Decoder, Encoder, signature
from ._structure import LAYERS, array_dtype


def outlined(draft: Draft, model: Any, state: Any) -> dict[str, Outline]:
    """The outlines of model and state, as far as they are not None, taken apart.

    Raises:
        TypeError: If something cannot be saved; the text names the place.
        ValueError: If two arrays of the model share elements without being tied, or two keys print alike.
    """
    outlines = {}
    if model is not None:
        outlines["model"] = outline = draft.outline(model, "model")
        _check_model(model, outline)
        check_ties(outline)
        draft.inventory.add_tree(outline, array_dtype)
    if state is not None:
        outlines["state"] = outline = draft.outline(state, "state")
        if not outline.is_state():
            raise _no_leaf(state)
        _check_names(outline)
    return outlines


def _check_model(model: Any, outline: Outline) -> None:
    """Raises where a state stands for a model, or a model of which nothing would be saved."""
    if (place := outline.leaf_place()) is not None:
        raise TypeError(f"{place} is a Leaf, not a part of a model: write save(path, model=..., state=...)")
    if not len(outline) and not outline.containers:
        kind = type(model).__name__
        raise TypeError(f"model is a {kind}, of which nothing would be saved: register it with functor")
    _check_names(outline)


def _no_leaf(state: Any) -> TypeError:
    path, leaf = next((p, x) for p, x, _ in leaves(state, whole=True) if x is not None and not isinstance(x, Leaf))
    place = KeyPath(("state", *path))
    return TypeError(f"{place} is a {type(leaf).__name__}, not a Leaf: write save(path, model=..., state=...)")


def described(draft: Draft, outlines: dict[str, Outline], rules: "Rules") -> Json:
    """The text of a file, but for the values that are saved with them."""
    state = None
    if "state" in outlines:
        outline = outlines["state"]
        places = outline.first
        kinds, first, of = draft.kinds(outline)
        leafs = [
            {
                "rule": rules.number(rule, ("state", *outline.path(places[i]), "rule")),
                "shape": shape,
                "strides": strides,
                "dtype": dtype,
                "frozen": frozen,
            }
            for (rule, shape, strides, dtype, frozen), i in zip(kinds, first, strict=True)
        ]
        state = _tree(outline) | {"leafs": {"kinds": leafs, "of": of, "states": draft.states(outline)}}
    _check_names(draft.inventory)
    return {
        "forms": draft.forms,
        "arrays": {"kinds": draft.inventory.kinds, "of": draft.inventory.of},
        "rules": rules.encoded,
        "model": _tree(outlines["model"]) if "model" in outlines else None,
        "state": state,
    }


def _tree(outline: Outline) -> Json:
    return {"nodes": outline.nodes, "same": outline.same}


def _check_names(named: Outline | Inventory) -> None:
    """Raises if two places print alike."""
    if (name := named.repeated()) is not None:
        raise ValueError(f"{name} cannot be saved under this name: a key prints like another, or differs by run")


class Rules:
    """The rules of Leafs, equal ones once; `canonical` as `Encoder` has it."""

    def __init__(self, canonical: bool = False) -> None:
        self.encoded: list[Any] = []
        self._encoder = Encoder(canonical)
        self._index: dict[str, int] = {}
        self._seen: dict[int, tuple[Any, int]] = {}

    def number(self, rule: Any, path: tuple[Any, ...]) -> int:
        """The place of a rule among the rules.

        Raises:
            TypeError: If it cannot be made again.
        """
        if id(rule) in self._seen:
            return self._seen[id(rule)][1]
        if not _made_again(rule, Encoder().value(rule, path)):
            raise TypeError(
                f"{_core.path_text(path)} is {rule!r}, which cannot be saved: its fields do not make it again"
            )
        encoded = self._encoder.value(rule, path)
        index = self._index.setdefault(json.dumps(encoded), len(self.encoded))
        if index == len(self.encoded):
            self.encoded.append(encoded)
        self._seen[id(rule)] = rule, index
        return index


def _made_again(rule: Rule, encoded: Any) -> bool:
    """Whether a rule that was written is read as the same."""
    try:
        return bool(Decoder().value(encoded) == rule)
    except (ValueError, LookupError, TypeError, AttributeError):
        return False


def side(name: str, noun: str, outline: Outline, signatures: list[Signature]) -> Side:
    """The arrays or Leafs of a tree, and where they stand."""
    return Side(name, noun, outline, signatures)


def leaf_signatures(leafs: list[Json], of: list[int]) -> list[Signature]:
    """Type and shape of the parameter of each Leaf, `of` one of these kinds."""
    kinds: list[Signature] = [(kind["dtype"], tuple(kind["shape"])) for kind in leafs]
    return [kinds[k] for k in of]


def arrays_of(name: str, noun: str, outline: Outline) -> Side:
    """The arrays of a tree in memory, and where they stand."""
    inventory = Inventory()
    inventory.add_tree(outline, _any_dtype)
    kinds = [signature(kind) for kind in inventory.kinds]
    return side(name, noun, outline, [kinds[k] for k in inventory.of.tolist()])


def parameters_of(name: str, model: Any) -> tuple[Side, Outline]:
    """The parameters of a model, at the places where its state has Leafs."""
    outline = _core.outline_of_tree(model, "state", False, LAYERS)
    return arrays_of(name, "parameter", outline), outline


def _any_dtype(x: Array, place: str) -> str | None:
    _core.refuse_masked(place, x)
    return None if x.dtype.name in NUMBERS else str(x.dtype)


def check_ties(outline: Outline) -> None:
    """Raises if two arrays share elements without being tied."""
    if outline.overlapping:
        places, arrays = outline.first, outline.found
        found = [Parameter(KeyPath(outline.path(places[i])), arrays[i], []) for i in outline.overlapping]
        check_overlap(found, [])
