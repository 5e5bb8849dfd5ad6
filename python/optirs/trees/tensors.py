"""Tensors that stand for NumPy's arrays, while a bridge calls a function with a model of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextvars import ContextVar, Token
from typing import Any, Self


class Inside(ABC):
    """A call of a bridge: in its `with` block, tensors of the bridge's library are what NumPy's arrays are outside.

    Ties are known by identity: a parameter is one tensor everywhere, and `transposed` remembers the transpose of which.
    """

    def __init__(self) -> None:
        # By `id`, with the objects themselves, so that nothing else gets the same one.
        self._views: dict[int, tuple[Any, Any]] = {}
        self._others: dict[int, Any] = {}
        self._outer: Token[Inside | None] | None = None

    def __enter__(self) -> Self:
        self._outer = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self._outer is not None:
            _current.reset(self._outer)

    def transposed(self, tensor: Any) -> Any:
        """The full transpose, which is tied to the tensor."""
        view = self.transpose(tensor)
        self._views[id(view)] = view, tensor
        return view

    def other(self, leaf: Any) -> Any:
        """Notes that `leaf` stands for something that outside, too, is not trainable, whatever its type; returns it."""
        self._others[id(leaf)] = leaf
        return leaf

    def is_numeric(self, x: Any) -> bool:
        """Whether `x` is a tensor that counts as trainable."""
        return self.is_tensor(x) and id(x) not in self._others

    def origin(self, tensor: Any) -> tuple[Any, bool]:
        """The parameter that `tensor` is, and whether transposed."""
        view = self._views.get(id(tensor))
        return (tensor, False) if view is None else (view[1], True)

    @abstractmethod
    def is_tensor(self, x: Any) -> bool:
        """Whether `x` is a tensor of the library, of one of the types that are trained."""

    @abstractmethod
    def transpose(self, tensor: Any) -> Any:
        """The full transpose."""

    @abstractmethod
    def concatenated(self, arrays: Sequence[Any]) -> Any:
        """The elements of all, which may be NumPy's arrays too, in C order: one vector of the type they promote to."""

    @abstractmethod
    def shaped(self, values: Any, like: Any) -> Any:
        """A vector in the shape and type of a tensor, or an array of NumPy."""


_current: ContextVar[Inside | None] = ContextVar("optirs_inside", default=None)


def inside() -> Inside | None:
    """The call of a bridge that is under way in this thread, the innermost one; None outside of all."""
    return _current.get()
