"""What of a tree is not an array, as a value that can be hashed: JAX compiles once for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import _core
from ..trees.tree import attributes
from .parts import Parts, Role


class Structure:
    """The structure of some trees: kinds of nodes, keys, and all leaves that are no arrays.

    Two are equal if their leaves are equal and of the same types; those that cannot be hashed, if they are the same.

    Attributes:
        skeletons: The trees without their arrays, taken apart.
    """

    def __init__(self, *trees: Parts) -> None:
        self.skeletons = [_skeleton(parts) for parts in trees]
        self._key = tuple((_signature(parts.tree, iter(parts.roles)), tuple(parts.roles)) for parts in trees)
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self._key == other._key


class _Same:
    """A value that cannot be hashed; equal to itself alone."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


def _skeleton(parts: Parts) -> Parts:
    """Without arrays, so that a compiled function does not keep those of the first model alive."""
    values = [leaf if role is None else None for leaf, role in zip(parts.leaves, parts.roles, strict=True)]
    skeleton = Parts(_core.unflatten(parts.tree, values, True, False))
    skeleton.roles = parts.roles
    return skeleton


def _signature(node: Any, roles: Iterator[Role | None]) -> Any:
    """Nested tuples for the nodes and what they hold; `roles` are those of the leaves, in order."""
    kind = type(node)
    names = _core.registered(kind)
    if names is not None:
        others = tuple((name, _static(value)) for name, value in attributes(node).items() if name not in names)
        return kind, tuple(_signature(getattr(node, name), roles) for name in names), others
    if isinstance(node, dict):
        return kind, tuple((key, _signature(child, roles)) for key, child in node.items())
    if isinstance(node, list) or kind is tuple or (isinstance(node, tuple) and hasattr(kind, "_fields")):
        return kind, tuple(_signature(child, roles) for child in node)
    return _static(node) if next(roles) is None else "array"


def _static(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return type(value), value
