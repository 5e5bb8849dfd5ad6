"""Rows of arrays, and of whatever else has rows: counted, and chosen by position."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import index
from typing import Any

import numpy as np

from .._core import Pinned, as_plain, refuse_masked, refuse_moved, settled

Take = Callable[[Any], Any]
"""Rows at a slice, or at an array of row numbers."""


def with_rows(name: str, data: Any) -> Any:
    """What rows are taken of: `data` itself where it has a shape, else NumPy's array of it. Errors call it `name`.

    Raises:
        TypeError: If it is none, and NumPy makes none of it, or it is a masked array that hides elements.
        ValueError: If it has no first dimension.
    """
    refuse_masked(name, data)
    has_shape = hasattr(data, "shape") and not isinstance(data, (type, memoryview))
    if isinstance(data, Mapping) and not has_shape:
        raise TypeError(f"{name} must be an array, got {_kind(data)}: name its arrays one by one, (d['a'], d['b'], y)")
    if data is None or isinstance(data, (tuple, str, bytes, type)):
        hint = " (batches go into a list, not a tuple)" if isinstance(data, tuple) else ""
        raise TypeError(f"{name} must be an array, got {_kind(data)}{hint}")
    array = data if has_shape else _converted(name, data)
    try:
        dimensions = len(array.shape)
    except TypeError:
        raise TypeError(f"{name} must be an array, got {_kind(data)}, whose shape is {array.shape!r}") from None
    if dimensions == 0:
        raise ValueError(f"{name} has shape (), it needs a first dimension to count rows by")
    return array


def count_rows(name: str, array: Any) -> int:
    """The rows of what `with_rows` returned.

    Raises:
        TypeError: If it does not know their number.
    """
    try:
        return index(array.shape[0])
    except TypeError:
        raise TypeError(f"{name} is {_kind(array)} of shape {array.shape!r}, which is no number of rows") from None


def taker(name: str, array: Any, rows: int, shuffled: bool) -> Take:
    """What takes rows of `array` in its own type: at slices and, where they are `shuffled`, at row numbers.

    Raises:
        TypeError: If its rows cannot be chosen so.
    """
    if isinstance(array, np.ndarray):

        def rows_of(at: Any) -> Any:  # since the last rows, code of others has run
            refuse_moved(name, array)
            found = array.shape[0]
            if found != rows:
                raise RuntimeError(f"{name} was changed while it was in use: it had {rows} rows and has {found} now")
            return array[at]

        def copied_rows_of(at: Any) -> Any:
            with Pinned(name, array):
                return rows_of(at)

        return copied_rows_of if shuffled else rows_of
    try:
        # The brackets of pandas go by label: by what the index says, wherever the row stands.
        take: Take = array.iloc.__getitem__ if hasattr(array, "iloc") else array.__getitem__
        _try(take, slice(0, 1), 1)
    except MemoryError:
        raise
    except Exception as error:
        raise _no_rows(name, array, "by position", error) from error
    if not shuffled:
        return take
    backwards = np.arange(min(rows, 2))[::-1]
    failures = []
    for way in (take, _ascending(take)):
        try:
            _try(way, backwards, len(backwards))
        except MemoryError:
            raise
        except Exception as error:
            failures.append(error)
        else:
            return way
    raise _no_rows(name, array, "by an array of row numbers, as shuffle=True does", failures[0]) from failures[0]


def all_rows(array: Any) -> Any:
    """All rows as one batch, of the type that smaller batches have: what stands for a file is read."""
    if isinstance(array, np.ndarray) or hasattr(array, "iloc"):
        return array
    try:
        return array if type(array[0:1]) is type(array) else array[0 : array.shape[0]]
    except MemoryError:
        raise
    except Exception:  # nobody asks for fewer rows than all
        return array


def _converted(name: str, data: Any) -> Any:
    with Pinned(name, data):
        try:
            array = settled(np.asanyarray(data))
        except MemoryError:
            raise
        except Exception as error:
            raise TypeError(
                f"{name} must be an array, got {_kind(data)}, of which NumPy makes none: {error}"
            ) from error
    array = as_plain(name, array)
    if array.ndim == 0 and array.dtype.kind not in "biufc":
        raise TypeError(f"{name} must be an array, got {_kind(data)}")
    return array


def _try(take: Take, at: Any, wanted: int) -> None:
    """Raises unless so many rows come of it."""
    found = take(at).shape[0]
    if found != wanted:
        raise TypeError(f"asked for {wanted}, it gave {found}")


def _ascending(take: Take) -> Take:
    """For what gives rows in ascending order only, as a file of HDF5 does."""

    def sorted_take(at: Any) -> Any:
        if isinstance(at, slice):
            return take(at)
        order = np.argsort(at)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return take(at[order])[back]

    return sorted_take


def _no_rows(name: str, array: Any, how: str, error: Exception) -> TypeError:
    detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    hint = ", such as .tocsr()" if hasattr(array, "tocsr") else ", such as numpy.asarray(...)"
    return TypeError(f"{name} is {_kind(array)}, whose rows cannot be chosen {how} ({detail}): convert it{hint}")


def _kind(data: Any) -> str:
    """How an error calls it."""
    return data.__name__ if isinstance(data, type) else type(data).__name__
