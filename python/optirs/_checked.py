"""Frozen dataclasses whose types say what their fields may be: the built-in rules and the schedules."""

import dataclasses
import inspect
import math
from typing import Any, ClassVar, TypeVar, get_args, get_type_hints

from ._parameters import Parameter

T = TypeVar("T", bound="type[Checked]")


class Checked:
    """A value whose fields are read as their types say, and whose `repr` is the constructor call."""

    _parameters: ClassVar[dict[str, Parameter]] = {}
    _prefix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, parameter in self._parameters.items():
            value = parameter.read(f"{self._prefix}{type(self).__name__}: {name}", getattr(self, name))
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        fields = (f"{name}={literal(getattr(self, name))}" for name in own_fields(self))
        return f"{self._prefix}{type(self).__qualname__}({', '.join(fields)})"


def checked(cls: T, before: str) -> T:
    """Makes `cls` a frozen dataclass with checked fields; arguments and errors go into its docstring, `before` that."""
    dataclasses.dataclass(frozen=True, repr=False)(cls)
    hints = get_type_hints(cls, include_extras=True)
    types = {field.name: get_args(hints[field.name]) for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    cls._parameters = {name: args[1] for name, args in types.items()}
    # In signatures the types alone.
    cls.__init__.__annotations__ = {name: args[0] for name, args in types.items()} | {"return": None}
    cls.__doc__ = _documented(cls, before)
    return cls


def _documented(cls: type[Checked], before: str) -> str | None:
    """The docstring with its arguments and errors."""
    if cls.__doc__ is None:  # python -OO
        return None
    head, mark, tail = inspect.cleandoc(cls.__doc__).partition(before)
    fields = {field.name: field.default for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    lines = ["Args:"]
    for name, parameter in cls._parameters.items():
        default = "" if fields[name] is dataclasses.MISSING else f" (default {fields[name]!r})"
        lines.append(f"    {name}: {parameter.words[0].upper()}{parameter.words[1:]}{default}.")
    lines += ["", "Raises:", "    TypeError: If an argument is not of its type."]
    lines += ["    ValueError: If it is out of range.", "", ""]
    return head + "\n".join(lines) + mark + tail


def literal(value: Any) -> str:
    """Python source of a field's value."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"float('{value}')"
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    return repr(value)


def own_fields(value: Any) -> list[str]:
    """The names of the dataclass fields that the constructor of `value` takes."""
    if not dataclasses.is_dataclass(value):
        return []
    return [field.name for field in dataclasses.fields(value) if field.init]
