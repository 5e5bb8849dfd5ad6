"""Values and rules as JSON, and back: bit for bit, and without running anything that the file names.

What JSON lacks is an object whose first key begins with `$`, such as `{"$tuple": [0.9, 0.999]}`. A rule, or a schedule
in one, is `{"$rule": "optirs.Descent", "eta": 0.1}`: the class is looked up among the rules and schedules of the
process that are frozen dataclasses, and its constructor is called.
"""

import dataclasses
import math
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import _core
from ..rules import Rule
from ..schedules import Schedule
from ._archive import CODES, NAMES, Array, Json, dtype_named

Path = tuple[Any, ...]

NUMBERS = frozenset({*CODES, "complex128"})
"""Types of arrays and scalars whose name says all."""

_EXACT = 2**53
"""Smaller ints are the same to every reader of JSON."""

DEEPEST = 200
"""Levels of one value, so that every reader can follow."""


class Encoder:
    """Writes values. `canonical` ones are the same in every process, and all NaNs are one."""

    def __init__(self, canonical: bool = False) -> None:
        self._canonical = canonical
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
            return _number(_one_nan(value) if self._canonical else value)
        if kind is list or kind is tuple:
            values = [self._value(child, (*path, i)) for i, child in enumerate(value)]
            return values if kind is list else {"$tuple": values}
        if kind is dict:
            return self._dict(value, path)
        if _known(kind):
            names = [field.name for field in dataclasses.fields(value) if field.init]
            rule = kind.__qualname__ if self._canonical and not _ours(kind.__module__) else class_name(kind)
            return {"$rule": rule} | {name: self._value(getattr(value, name), (*path, name)) for name in names}
        reason = "a rule must be a frozen dataclass" if isinstance(value, Rule) else "only plain values can"
        raise TypeError(f"{_core.path_text(path)} is a {kind.__name__}, which cannot be saved: {reason}")

    def _dict(self, value: dict[Any, Any], path: Path) -> Any:
        values = [self._value(child, (*path, key)) for key, child in value.items()]
        if all(type(key) is str and not key.startswith("$") for key in value):
            return dict(zip(value, values, strict=True))
        return {"$dict": [[self._value(key, (*path, key)), v] for key, v in zip(value, values, strict=True)]}


class Decoder:
    """Reads what an `Encoder` wrote; `array` reads what format 1 has for an array among the values."""

    def __init__(self, array: Callable[[Json], Any] | None = None) -> None:
        self._array = array
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
        if tag == "$array" and self._array is not None:
            return self._array(encoded)
        if tag == "$rule":
            return self._rule(encoded[tag], {name: self.value(v) for name, v in encoded.items() if name != tag})
        return _read_number(tag, encoded[tag])

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


def signature(kind: Json) -> tuple[str, tuple[int, ...]]:
    """NumPy's name of the type, and the shape, of arrays of a kind."""
    code, shape = NAMES[kind["code"]], tuple(kind["shape"])
    return (str(kind["dtype"]), shape[:-1]) if "dtype" in kind else (code, shape)


def finished(x: Array, kind: Json, like: Array | None = None) -> Array:
    """An array of a file, as it was in memory; `like` is one of the same dtype, if NumPy cannot name it."""
    name, _ = signature(kind)
    if name not in NUMBERS:
        if like is None:
            raise ValueError(f"there is no type {name}")
        x = x.view(like.dtype.newbyteorder("<")).reshape(x.shape[:-1])
    final = x.dtype.newbyteorder("=") if name in NUMBERS or like is None else like.dtype
    if kind.get("swapped", False):
        final = final.newbyteorder("S")
    return _ordered(x.astype(final, copy=False), kind.get("order"))


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


def _one_nan(value: Any) -> Any:
    """The value; not a number as Python's own, in each part of a complex one."""
    if isinstance(value, (complex, np.complexfloating)):
        return type(value)(complex(_one_nan(float(value.real)), _one_nan(float(value.imag))))
    return type(value)(math.nan) if value != value else value


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
    return module.partition(".")[0] == __name__.partition(".")[0]


def _made(cls: type[Any], values: dict[str, Any]) -> Any:
    """An instance with these fields, made by its constructor, so that they are checked."""
    if cls.__dataclass_params__.init:
        return cls(**values)
    draft = object.__new__(cls)  # the constructor does not take the fields, as that of a chain; `replace` knows how
    for name, value in values.items():
        object.__setattr__(draft, name, value)
    name = dataclasses.fields(cls)[0].name
    return draft.replace(**{name: values[name]})


def class_name(cls: type[Any]) -> str:
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
    return {class_name(cls): cls for cls in found if _known(cls)}
