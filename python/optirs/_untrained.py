"""What one could take for a parameter though it is not trained: the warnings that say so."""

import sys
import types
import warnings
from collections.abc import Iterable, Iterator
from itertools import islice
from numbers import Number
from typing import Any

import numpy as np

from ._core import Pinned
from ._gradient import Array, as_array, nests_deeper
from .trees.tree import KeyPath, isnumeric, leaves

PLAIN = (
    str,
    bytes,
    type,
    types.ModuleType,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    Number,
    np.generic,
    np.ndarray,
)
"""What holds no tensors."""

_DEPTH, _OBJECTS = 8, 1000
"""So deep, and among so many objects, are tensors looked for in an object of an unknown class."""


def warn(text: str) -> None:
    """A `UserWarning` at the line outside of this package that led here, where Python's filter says it once."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, UserWarning, stacklevel=level)


def warn_of_model(all_leaves: Iterable[tuple[KeyPath, Any, bool]], found: bool) -> None:
    """Warns of tensors among these leaves of a model, and if no parameter was `found`."""
    tensors: dict[tuple[str, str], list[str]] = {}
    for path, leaf, trained in all_leaves:
        if trained and (what := _tensors(leaf)):
            tensors.setdefault(what, []).append(str(path) or "the top")
    parts = [] if found else ["setup found no trainable parameters in this model"]
    for (kind, hint), places in tensors.items():
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        parts.append(f"setup does not train {', '.join(places[:3])}{more} ({kind}): {hint}")
    if parts:
        warn("; ".join(parts))


def warn_of_gradients(unused: list[tuple[str, Any, Any]]) -> None:
    """Warns of the gradients that no step uses; each with its place, and with what the model has there."""
    for place, value, gradient in unused:
        what = _parameter_like(value)
        if what is not None and not _is_zero(gradient):
            warn(f"the gradient at {place} is not used: {what}")


def _tensors(leaf: Any) -> tuple[str, str] | None:
    """What a leaf is if it is a tensor or holds some, and what to do; None if not."""
    if leaf is None or isinstance(leaf, PLAIN):
        return None
    if _is_tensor(leaf):
        return _class(leaf), f"only NumPy arrays are trained; {_way_out(leaf)}"
    if (held := next(_held(leaf), None)) is None:
        return None
    kind = f"{_class(leaf)}, which holds {_class(held)}"
    return kind, f"put NumPy arrays into a dict, or a class registered with optirs.functor; {_way_out(held)}"


def _held(holder: Any) -> Iterator[Any]:
    """The tensors that an object holds in its attributes."""
    level, seen = [holder], {id(holder)}
    for _ in range(_DEPTH):
        below: list[Any] = []
        for node in level:
            for child in _inside(node):
                if child is None or isinstance(child, PLAIN) or id(child) in seen:
                    continue
                if _is_tensor(child):
                    yield child
                if len(seen) < _OBJECTS:
                    seen.add(id(child))
                    below.append(child)
        level = below


def _inside(node: Any) -> Iterable[Any]:
    if isinstance(node, dict):
        return list(islice(node.values(), _OBJECTS))
    if isinstance(node, (list, tuple, set, frozenset)):
        return list(islice(node, _OBJECTS))
    try:
        return list(vars(node).values())
    except TypeError:
        return ()


def _is_tensor(value: Any) -> bool:
    """Whether `value` is an array of floats of another library."""
    kind = type(value)
    if isinstance(value, PLAIN) or not (hasattr(kind, "__dlpack__") or hasattr(kind, "__array__")):
        return False
    try:
        name = str(value.dtype)
    except Exception:  # it may be anybody's
        return False
    return "float" in name or "complex" in name


def _way_out(tensor: Any) -> str:
    if hasattr(tensor, "detach") and hasattr(tensor, "numpy"):
        return (
            "x.detach().cpu().numpy() makes one of a tensor x, and a function for optirs.with_torch gets tensors again"
        )
    return "np.array(x) makes one of a tensor x"


def _parameter_like(value: Any) -> str | None:
    """What the model has at a place that is not trained, and what would be; None for what nobody trains."""
    if isinstance(value, (bool, np.bool)):
        return None
    if isinstance(value, np.generic):
        if not _of_numbers(np.asarray(value)):
            return None
        return (
            f"the model has no array there, but a NumPy scalar ({_class(value)}), which is not trained; arithmetic "
            f"with 0-d arrays returns scalars, and {_as_asarray(value)} keeps them arrays"
        )
    if isinstance(value, Number):
        return (
            f"the model has no array there, but a number ({_class(value)}), which is not trained; {_as_asarray(value)} "
            "makes it one that is"
        )
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "biu" or isnumeric(value) or not _of_numbers(value):
            return None  # carried along, or left without a Leaf on purpose
        name = {"g": "longdouble", "G": "clongdouble"}.get(value.dtype.char, value.dtype.name)
        wide = "complex128" if value.dtype.kind == "c" else "float64"
        return f"the model has an array of {name} there, which is not trained; x.astype('{wide}') is"
    if _is_tensor(value):
        kind = _class(value)
        return f"the model has no NumPy array there, but a tensor ({kind}), which is not trained; {_way_out(value)}"
    below = (_parameter_like(leaf) for path, leaf, trained in leaves(value) if trained and path)
    return next(filter(None, below), None)


def _as_asarray(number: Any) -> str:
    if isnumeric(np.asarray(number)):
        return "np.asarray(x)"
    return "np.asarray(x, complex)" if isinstance(number, (complex, np.complexfloating)) else "np.asarray(x, float)"


def _of_numbers(array: Array) -> bool:
    if array.dtype.kind == "O":
        return all(isinstance(x, Number) for x in array.flat)
    return array.dtype.kind in "iufc" or "float" in array.dtype.name


def _is_zero(gradient: Any) -> bool:
    """Whether a gradient is zero, or nothing that could be one."""
    try:
        if nests_deeper(gradient, 32):
            return True
        array = as_array(gradient, np.dtype(np.float64))
    except MemoryError:
        raise
    except Exception:  # it may be anybody's, and so may what it raises
        return _is_zero_elsewhere(gradient)
    with Pinned("the gradient", array):
        return not (_of_numbers(array) or array.dtype.kind == "b") or not np.any(array != 0)


def _is_zero_elsewhere(gradient: Any) -> bool:
    """The same of what NumPy cannot read, such as a tensor on another device."""
    try:
        return not bool((gradient != 0).any())
    except MemoryError:
        raise
    except Exception:
        return not hasattr(type(gradient), "__dlpack__")


def _class(value: Any) -> str:
    """The class of a value, with its library."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
