"""Trees in files: which words they have for classes, keys and plain values, and how a tree is made of them again.

Nothing is imported, and no class of the user's is made: a name of one is only printed.
"""

from collections import OrderedDict
from typing import Any

from .. import _core
from ..layers import Affine, Chain, Dense
from ._archive import Array, Json
from ._encoding import NUMBERS, Decoder, Encoder, class_name

LAYERS: dict[type[Any], str] = {cls: cls.__name__ for cls in (Affine, Chain, Dense)}
"""The layers that are made again, and what files call them."""

_CLASSES = {name: cls for cls, name in LAYERS.items()}
_ORDERED = class_name(OrderedDict)

WAY_OUT = "load needs like, a model of the same structure"


class Words:
    """What files call what stands in a tree. `canonical`: the same in every process, and all NaNs are one."""

    def __init__(self, canonical: bool = False) -> None:
        self._encoder = Encoder(canonical)
        self._names: dict[type[Any], str] = {}
        self.value = self._encoder.value

    def plain(self, value: Any) -> Json:
        """The form of a plain value; of one that cannot be written its class."""
        try:
            return {"value": self._encoder.value(value, ())}
        except (TypeError, RecursionError):
            return {"unknown": self.name(type(value))}

    def key(self, key: Any) -> Any:
        """A key of a dict; of one that cannot be written how it prints."""
        try:
            return self._encoder.value(key, ())
        except (TypeError, RecursionError):
            shown: Any = type(key).__repr__
            return {"unknown": self.name(type(key)) if shown is object.__repr__ else repr(key)}

    def name(self, cls: type[Any]) -> str:
        """The name of a class."""
        if cls not in self._names:
            self._names[cls] = class_name(cls)
        return self._names[cls]

    @staticmethod
    def state_dtype(x: Array, place: str) -> None:
        """As `array_dtype` in the state of a Leaf, where there is nothing to compare another type with."""
        if array_dtype(x, place) is not None:
            raise _unsaved(x, place)


def array_dtype(x: Array, place: str) -> str | None:
    """The type of an array in a model; None if the format has a name for it.

    Raises:
        TypeError: If such arrays cannot be saved.
    """
    _core.refuse_masked(place, x)
    if x.dtype.hasobject or x.dtype.itemsize == 0:
        raise _unsaved(x, place)
    return None if x.dtype.name in NUMBERS else str(x.dtype)


def _unsaved(x: Array, place: str) -> TypeError:
    return TypeError(f"{place} is a {type(x).__name__} of {x.dtype}, which cannot be saved")


class NotWritten(Exception):
    """There is something that only a model like the saved one has."""


class Tree:
    """A tree as a file has it, by its root, `model` or `state`."""

    def __init__(self, encoded: Json, forms: list[Any], root: str, decoder: Decoder) -> None:
        self._same = [(later, first) for later, first in encoded["same"]]
        self._forms, self._root, self._decode = forms, root, decoder.value
        self.outline = _core.outline_of_file(encoded["nodes"], forms, root, decoder.value)

    def rebuilt(self, leaves: list[Any]) -> Any:
        """The tree itself, of these arrays or Leafs.

        Raises:
            NotWritten: If something in it can only be had from a model like it.
        """
        return _core.build(self.outline, self._forms, self._same, leaves, self._decode, self._made)

    def _made(self, form: Any, children: list[Any] | None, node: int) -> Any:
        """What the compiled module leaves to us."""
        if children is None:
            raise NotWritten(f"{self._place(node)} is a {form}, which the file does not hold: {WAY_OUT}")
        if form.get("class") == _ORDERED and "dict" in form:
            keys = [key if type(key) is str else self._key(key, form, node) for key in form["dict"]]
            return OrderedDict(zip(keys, children, strict=True))
        if "layer" in form:
            return self._layer(form, children, node)
        if "class" in form:
            raise NotWritten(f"{self._place(node)} is a {form['class']}: {WAY_OUT}")
        return {self._key(key, form, node): child for key, child in zip(form["dict"], children, strict=True)}

    def _key(self, key: Any, form: Any, node: int) -> Any:
        if type(key) is dict and "unknown" in key:
            raise NotWritten(f"{self._place(node)} has a key {key['unknown']}, which the file does not hold: {WAY_OUT}")
        return self._decode(key)

    def _layer(self, form: Any, children: list[Any], node: int) -> Any:
        """A layer of ours, past its constructor: in a state or a gradient it holds other things than arrays."""
        name = form["layer"]
        cls = _CLASSES.get(name)
        if cls is None:
            raise ValueError(f"{self._place(node)} is a {name}, which this version of optirs has not")
        if form["children"] != _core.registered(cls):
            raise ValueError(f"{self._place(node)} is a {name} with children {form['children']}")
        layer = object.__new__(cls)
        if self._root != "model":  # as `setup` has it: what is not trained is None
            others = [other for other in getattr(cls, "__dataclass_fields__", ()) if other not in form["children"]]
            layer.__dict__.update(dict.fromkeys(others))
        layer.__dict__.update(zip(form["children"], children, strict=True))
        for attribute, encoded in form["plain"].items():
            if hasattr(cls, attribute) and attribute not in getattr(cls, "__dataclass_fields__", ()):
                raise ValueError(f"{self._place(node)} is a {name} whose {attribute} is a value")
            layer.__dict__[attribute] = self._value(encoded, attribute, node)
        if self._root == "model" and hasattr(cls, "__post_init__"):
            try:
                layer.__post_init__()
            except (TypeError, ValueError) as error:
                raise ValueError(f"{self._place(node)} is a {name} that its class refuses: {error}") from error
        return layer

    def _value(self, encoded: Any, attribute: str, node: int) -> Any:
        if encoded is None:
            return None
        if "unknown" in encoded:
            place = f"{self._place(node)}.{attribute}"
            raise NotWritten(f"{place} is a {encoded['unknown']}, which the file does not hold: {WAY_OUT}")
        return self._decode(encoded["value"])

    def _place(self, node: int) -> str:
        return _core.place_in_file(self.outline, self._forms, self._root, self._decode, node)


def draft(canonical: bool = False) -> "_core.Draft":
    """What takes trees apart to be written."""
    return _core.Draft(Words(canonical), LAYERS, canonical)
