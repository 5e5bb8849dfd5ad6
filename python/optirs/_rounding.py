"""Numbers stored in arrays of another type, rounded once."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._core import Pinned

Array = NDArray[Any]


def cast(what: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """`array` in type `dtype`, itself where it is: too large numbers become infinite, without a warning.

    Raises:
        RuntimeError: If it is a view of memory that was given back; `what` names it.
    """
    if array.dtype == dtype:
        return array
    with Pinned(what, array), np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype)


def store(values: Array, out: Array) -> None:
    """Writes `values` to `out`: too large ones become infinite, without a warning.

    `ml_dtypes` turns float64 to bfloat16 by way of float32, and would round twice.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        if values.dtype == np.float64 and out.dtype.name == "bfloat16":
            values = _odd(values)
        out[...] = values


def difference(x: Array, y: Array) -> Array:
    """`x - y` in the type in which such arrays are computed, infinite where that is too large, without a warning."""
    wide = np.result_type(x, np.float32) if x.dtype.itemsize == 2 else x.dtype
    with Pinned("the parameter", x), np.errstate(over="ignore", invalid="ignore"):
        # Also of 0-d arrays an array, which their arithmetic would not make.
        return np.asarray(x.astype(wide, copy=False) - y.astype(wide, copy=False))


def _odd(values: Array) -> Array:
    """`values` as float32, those between two numbers to the one with an odd last bit: no tie of a narrower type is."""
    near = np.array(values, np.float32)
    back = near.astype(np.float64)
    bits = near.view(np.uint32)
    bits -= np.abs(back) > np.abs(values)  # to the one nearer to zero
    bits |= back != values
    return near
