"""Gradients that the compiled module does not read as they are: converted, summed and laid out by NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def total(terms: Sequence[Array], dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """The sum of the gradients `terms`, which `converted` made, as an array of this type, shape and memory order."""
    shape = tuple(shape)
    laid_out: Array = np.ndarray(shape, dtype, np.empty(max(terms[0].size, 1), dtype), strides=tuple(strides))
    if len(terms) == 1:
        np.copyto(laid_out, terms[0], casting="unsafe")
        return laid_out
    wide = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    with np.errstate(all="ignore"):
        sum_: Array = terms[0].astype(wide)
        for term in terms[1:]:
            sum_ = sum_ + term
        np.copyto(laid_out, sum_, casting="unsafe")
    return laid_out


def converted(g: Any, dtype: np.dtype[Any], shape: tuple[int, ...], transposed: bool) -> Array:
    """The gradient `g` of a parameter of this type and shape, or of its transpose.

    Raises:
        TypeError: If it is not an array of numbers, or complex where the parameter is real.
        ValueError: If its shape differs. Both texts go on where "gradient at ... " stops.
    """
    array = _converted(g, dtype, tuple(shape)[::-1] if transposed else tuple(shape))
    return array.T if transposed else array


def _converted(g: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if _nests_deeper(g, len(shape) + 2):
        raise TypeError(f"is no array of numbers, but a {type(g).__name__} that nests too deep")
    array = _as_array(g)
    if array.dtype.kind == "c" and dtype.kind != "c":
        raise TypeError(f"has type {array.dtype}, the parameter is {dtype}")
    if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
        raise TypeError(f"is no array of numbers, but of {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"has shape {array.shape}, the parameter has {shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(dtype, copy=False)


def _nests_deeper(g: Any, levels: int) -> bool:
    """Whether lists in `g` nest deeper; NumPy would follow those that contain themselves for ever."""
    return isinstance(g, (list, tuple)) and (levels == 0 or any(_nests_deeper(x, levels - 1) for x in g))


def _as_array(g: Any) -> Array:
    """`g` as an array: without a copy where it is a tensor on the CPU."""
    if isinstance(g, np.ndarray):
        return g
    if hasattr(g, "detach"):  # torch refuses to share a tensor that records gradients
        g = g.detach()
    for convert in (np.from_dlpack, np.asarray) if hasattr(g, "__dlpack__") else (np.asarray,):
        try:
            array: Array = convert(g)
        except (TypeError, ValueError, BufferError, RuntimeError) as e:
            error = e
        else:
            if array.dtype.kind == "O":
                raise TypeError(f"is no array of numbers, but {type(g).__name__}")
            return array
    raise TypeError(f"is no array of numbers, but {type(g).__name__} ({error})") from error
