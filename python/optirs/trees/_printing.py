"""States print, whatever the classes in them make of a Leaf."""

import dataclasses
import functools
import reprlib
from collections.abc import Callable
from typing import Any

from .. import _core
from .._core import Leaf


def print_states(cls: type) -> None:
    """Makes the states of a registered class print even if its own `__repr__` or `__str__` fails for them.

    Those that `dataclass` writes need no help: fields that are no children are None in a state. Nor would `pprint` know
    them again in a wrapper.
    """
    for name in ("__repr__", "__str__"):
        show = getattr(cls, name)
        if show is not getattr(object, name) and not _is_generated(show) and not hasattr(show, "_prints_states"):
            with_fallback = _with_fallback(show)
            try:
                setattr(cls, name, with_fallback)
            except TypeError:  # a class that cannot be changed
                return


def _is_generated(show: Any) -> bool:
    code = getattr(show, "__code__", None)
    return code is not None and code.co_filename in (dataclasses.__file__, reprlib.__file__)


def _with_fallback(show: Callable[[Any], str]) -> Callable[[Any], str]:
    @functools.wraps(show)
    def printed(self: Any) -> str:
        try:
            return show(self)
        except MemoryError:
            raise
        except Exception:
            if not _is_state(self):
                raise
            children = _core.registered(type(self)) or ()
            return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in children)})"

    printed._prints_states = True  # type: ignore[attr-defined]
    return printed


def _is_state(node: Any) -> bool:
    """Whether a registered object is part of a state, rather than of a model."""
    if _core.registered(type(node)) is None:
        return False
    return all(leaf is None or isinstance(leaf, Leaf) for _, leaf, _ in _core.flatten(node, True))
