"""Values, arrays and rules as JSON, and back: bit for bit, and without running anything that the file names.

What JSON lacks is an object whose first key begins with `$`, such as `{"$tuple": [0.9, 0.999]}`. Arrays are entries of
the file. A rule, or a schedule in one, is `{"$rule": "optirs.Descent", "eta": 0.1}`: the class is looked up among the
rules and schedules of the process that are frozen dataclasses, and its constructor is called.
"""

import dataclasses
import math
import struct
import sys
from typing import Any

import numpy as np

from . import _core
from ._archive import CODES, Array, Entry, dtype_named
from .rules import Rule
from .schedules import Schedule

Path = tuple[Any, ...]

NUMBERS = frozenset({*CODES, "complex128"})
"""Types of arrays and scalars whose name says all."""

_EXACT = 2**53
"""Smaller ints are the same to every reader of JSON."""

DEEPEST = 200
"""Levels of one value, so that every reader can follow."""


class Encoder:
    """Writes values. The arrays in them go into `entries`; without it they are refused."""

    def __init__(self, entries: dict[str, Entry] | None = None) -> None:
        self._entries = entries
        self._deepest = 0

    def value(self, value: Any, path: Path) -> Any:
        """What JSON has for `value`, which stands at `path`.

        Raises:
            TypeError: If it has nothing; the text names the place.
            RecursionError: If it nests too deeply.
        """
        self._deepest = len(path) + DEEPEST
        return self._value(value, path)

    def _value(self, value: Any, path: Path) -> Any:
        if len(path) > self._deepest:
            at = _core.path_text(path[: self._deepest - DEEPEST])
            raise RecursionError(f"{at} nests deeper than {DEEPEST} levels, or contains itself")
        kind = type(value)
        if kind in (type(None), bool, str):
            return value
        if kind in (int, float, complex, bytes) or (isinstance(value, np.generic) and value.dtype.name in NUMBERS):
            return _number(value)
        if kind is list or kind is tuple:
            values = [self._value(child, (*path, i)) for i, child in enumerate(value)]
            return values if kind is list else {"$tuple": values}
        if kind is dict:
            return self._dict(value, path)
        if isinstance(value, np.ndarray) and self._entries is not None:
            return encode_array(value, path, self._entries)
        if _known(kind):
            names = [field.name for field in dataclasses.fields(value) if field.init]
            return {"$rule": _name(kind)} | {name: self._value(getattr(value, name), (*path, name)) for name in names}
        reason = "a rule must be a frozen dataclass" if isinstance(value, Rule) else "only plain values can"
        raise TypeError(f"{_core.path_text(path)} is a {kind.__name__}, which cannot be saved: {reason}")

    def _dict(self, value: dict[Any, Any], path: Path) -> Any:
        values = [self._value(child, (*path, key)) for key, child in value.items()]
        if all(type(key) is str and not key.startswith("$") for key in value):
            return dict(zip(value, values, strict=True))
        return {"$dict": [[self._value(key, (*path, key)), v] for key, v in zip(value, values, strict=True)]}


class Decoder:
    """Reads what an `Encoder` wrote. Each entry is used once, and taken out of `entries`."""

    def __init__(self, entries: dict[str, Entry]) -> None:
        self.unused = entries
        self._classes: dict[str, type[Any]] | None = None

    def value(self, encoded: Any) -> Any:
        """The value. What is not an encoded one raises one of Python's errors of values, types and look-up."""
        if type(encoded) is list:
            return [self.value(child) for child in encoded]
        if type(encoded) is not dict:
            return encoded
        tag = next(iter(encoded), "")
        if not tag.startswith("$"):
            return {key: self.value(child) for key, child in encoded.items()}
        if tag == "$tuple":
            return tuple(self.value(child) for child in encoded[tag])
        if tag == "$dict":
            return {self.value(key): self.value(child) for key, child in encoded[tag]}
        if tag == "$array":
            return self.array(encoded)
        if tag == "$rule":
            return self._rule(encoded[tag], {name: self.value(v) for name, v in encoded.items() if name != tag})
        return _read_number(tag, encoded[tag])

    def array(self, encoded: dict[str, Any], like: Array | None = None) -> Array:
        """The array; `like` is the one at its place in a model, with the same dtype."""
        place, name = encoded["$array"], encoded["dtype"]
        entry = self.unused.pop(place, None)
        if entry is None:
            raise ValueError(f"the file has no entry {place}")
        x = entry.array
        if name in CODES and entry.code != CODES[name]:
            raise ValueError(f"the entry {place} is {entry.code}, not {name}")
        if name not in CODES:
            dtype = dtype_named(name) if like is None or name in NUMBERS else like.dtype
            x = x.view(dtype.newbyteorder("<")).reshape(x.shape[:-1])
        final = x.dtype.newbyteorder("=") if name in NUMBERS or like is None else like.dtype
        if encoded.get("swapped", False):
            final = final.newbyteorder("S")
        return _ordered(x.astype(final, copy=False), encoded.get("order"))

    def _rule(self, name: str, values: dict[str, Any]) -> Any:
        if self._classes is None:
            self._classes = _classes()
        if name not in self._classes:
            raise ValueError(f"the file has a {name}, which this process has not: import the module that defines it")
        cls = self._classes[name]
        try:
            return _made(cls, values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"the file has a {name} that its class refuses: {error}") from error


def encode_array(x: Array, path: Path, entries: dict[str, Entry], foreign: bool = False) -> dict[str, Any]:
    """What JSON has for an array, which goes into `entries`.

    `foreign` admits the types that only a model like the saved one can tell.
    """
    place = _core.path_text(path)
    if place in entries or any(_nameless(key) for key in path):
        raise ValueError(f"{place} cannot be saved under this name: a key prints like another, or differs by run")
    _core.refuse_masked(place, x)
    name = x.dtype.name
    number = name in NUMBERS
    if x.dtype.hasobject or x.dtype.itemsize == 0 or not (number or foreign):
        raise TypeError(f"{place} is a {type(x).__name__} of {x.dtype}, which cannot be saved")
    x = np.asarray(x)
    if name in CODES:
        entries[place] = Entry(CODES[name], x.shape, x)
    elif number:  # complex128, which the format lacks
        entries[place] = Entry("F64", (*x.shape, 2), x)
    else:
        entries[place] = Entry("U8", (*x.shape, x.dtype.itemsize), x)
    encoded: dict[str, Any] = {"$array": place, "dtype": name if number else str(x.dtype)}
    if order := _order(x):
        encoded["order"] = order
    if number and not x.dtype.isnative:
        encoded["swapped"] = True
    return encoded


def _number(value: Any) -> Any:
    """A number, or bytes, in JSON; what JSON would not keep is written as its bytes."""
    if type(value) is int:
        return value if abs(value) < _EXACT else {"$int": hex(value)}
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": struct.pack("<d", value).hex()}
    if type(value) is complex:
        return {"$complex": struct.pack("<dd", value.real, value.imag).hex()}
    if type(value) is bytes:
        return {"$bytes": value.hex()}
    little = np.asarray(value, value.dtype.newbyteorder("<"))
    return {"$scalar": [value.dtype.name, little.tobytes().hex()]}


def _read_number(tag: str, content: Any) -> Any:
    if tag == "$int":
        return int(content, 16)
    if tag == "$float":
        return struct.unpack("<d", bytes.fromhex(content))[0]
    if tag == "$complex":
        return complex(*struct.unpack("<dd", bytes.fromhex(content)))
    if tag == "$bytes":
        return bytes.fromhex(content)
    if tag != "$scalar" or content[0] not in NUMBERS:
        raise ValueError(f"the file has a {tag}, which is unknown")
    dtype = dtype_named(content[0])
    (value,) = np.frombuffer(bytes.fromhex(content[1]), dtype.newbyteorder("<")).astype(dtype)
    return value


def _order(x: Array) -> list[int] | None:
    """The axes from the one with the longest stride to the one with the shortest; None for C order."""
    if x.flags.c_contiguous:
        return None
    axes = list(range(x.ndim))
    if x.flags.f_contiguous:
        return axes[::-1]
    order = sorted(axes, key=lambda a: -abs(x.strides[a]) if x.shape[a] != 1 else -math.inf)
    return None if order == axes else order


def _ordered(x: Array, order: list[int] | None) -> Array:
    """`x`, which has C order, with its axes in that order of strides."""
    if order is None:
        return x
    if order == list(range(x.ndim))[::-1]:
        return np.array(x, order="F")
    result = np.empty([x.shape[a] for a in order], x.dtype).transpose(np.argsort(order))
    result[...] = x
    return result


def _known(cls: type[Any]) -> bool:
    """Whether instances can be saved: rules and schedules that are frozen dataclasses."""
    frozen = getattr(getattr(cls, "__dataclass_params__", None), "frozen", False)
    return frozen and issubclass(cls, (Rule, Schedule))


def _ours(module: str) -> bool:
    return module.partition(".")[0] == __package__


def _nameless(key: Any) -> bool:
    """Whether a key prints as its address, which differs from run to run."""
    shown: Any = type(key).__repr__
    return shown is object.__repr__


def _made(cls: type[Any], values: dict[str, Any]) -> Any:
    """An instance with these fields, made by its constructor, so that they are checked."""
    if cls.__dataclass_params__.init:
        return cls(**values)
    draft = object.__new__(cls)  # the constructor does not take the fields, as that of a chain; `replace` knows how
    for name, value in values.items():
        object.__setattr__(draft, name, value)
    name = dataclasses.fields(cls)[0].name
    return draft.replace(**{name: values[name]})


def _name(cls: type[Any]) -> str:
    """How files call a class: `optirs.Adam`, by the outermost module of optirs that shows it."""
    modules = [cls.__module__]
    if _ours(cls.__module__):
        parts = cls.__module__.split(".")
        modules = [".".join(parts[:i]) for i in range(1, len(parts))] + modules
    shown = (m for m in modules if getattr(sys.modules.get(m), cls.__qualname__, None) is cls)
    return f"{next(shown, cls.__module__)}.{cls.__qualname__}"


def _classes() -> dict[str, type[Any]]:
    """The classes that a file may name. Of several with one name the last one defined."""
    open_: list[type[Any]] = [Rule, Schedule]
    found: dict[type[Any], None] = {}
    while open_:
        cls = open_.pop(0)
        if cls not in found:
            found[cls] = None
            open_ += type.__subclasses__(cls)
    return {_name(cls): cls for cls in found if _known(cls)}
