"""Gradients that the compiled module does not read as they are: converted, summed and laid out by NumPy."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._core import Pinned, as_plain, refuse_masked
from ._rounding import cast

Array = NDArray[Any]


def total(terms: Sequence[Array], dtype: np.dtype[Any], shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """The sum of the gradients `terms`, which `converted` made, as an array of this shape and memory order.

    It is of type `dtype`, in which it is summed; of 16 bits where the only term is. `strides` count elements.

    Raises:
        RuntimeError: If one has changed since it was converted, as code of others may have run.
    """
    shape = tuple(shape)
    with Pinned("the gradient", *terms):
        for term in terms:
            if term.shape != shape:
                raise RuntimeError(
                    f"the gradient was changed while it was in use: its shape was {shape} and is {term.shape} now"
                )
        if len(terms) == 1:
            (array,) = terms
        else:
            with np.errstate(all="ignore"):
                array = terms[0].astype(dtype)
                for term in terms[1:]:
                    array = array + term
            array = np.asarray(array)
        in_bytes = tuple(stride * array.itemsize for stride in strides)
        if _lies_so(array, in_bytes):
            return np.asarray(array)
        laid_out: Array = np.ndarray(shape, array.dtype, np.empty(max(array.size, 1), array.dtype), strides=in_bytes)
        laid_out[...] = array
        return laid_out


def _lies_so(array: Array, strides: tuple[int, ...]) -> bool:
    """Whether `array` can be read where it is."""
    same = all(n <= 1 or a == b for n, a, b in zip(array.shape, array.strides, strides, strict=True))
    return array.flags.aligned and (same or array.size == 0)


def converted(
    g: Any, dtype: np.dtype[Any], parameter: np.dtype[Any], shape: tuple[int, ...], transposed: bool
) -> Array:
    """The gradient `g` of a parameter of this type and shape, or of its transpose, in the type `dtype` of its step.

    Raises:
        TypeError: If it is not an array of numbers, or complex where the parameter is real.
        ValueError: If its shape differs. Both texts go on where "gradient at ... " stops.
    """
    array = _converted(g, dtype, parameter, tuple(shape)[::-1] if transposed else tuple(shape))
    return array.T if transposed else array


def _converted(g: Any, dtype: np.dtype[Any], parameter: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    if nests_deeper(g, len(shape) + 2):
        raise TypeError(f"is no array of numbers, but a {type(g).__name__} that nests too deep")
    refuse_masked("", g)
    array = as_array(g, parameter)
    if array.dtype.kind == "c" and dtype.kind != "c":
        raise TypeError(f"has type {array.dtype}, the parameter is {parameter}")
    if array.dtype.kind not in "biufc" and array.dtype.name != "bfloat16":
        raise TypeError(f"is no array of numbers, but of {array.dtype}")
    if array.shape != shape:
        raise ValueError(f"has shape {array.shape}, the parameter has {shape}")
    if dtype == np.float32 and array.itemsize == 2 and array.dtype.kind not in "iu" and array.dtype.isnative:
        return array  # of 16 bits: whoever reads it widens it
    return cast("the gradient", array, dtype)


def nests_deeper(g: Any, levels: int) -> bool:
    """Whether lists in `g` nest deeper; NumPy would follow those that contain themselves for ever."""
    return isinstance(g, (list, tuple)) and (levels == 0 or any(nests_deeper(x, levels - 1) for x in g))


def as_array(g: Any, dtype: np.dtype[Any]) -> Array:
    """`g` as an array: without a copy where it is a tensor on the CPU."""
    if isinstance(g, np.ndarray):
        return np.asarray(g)  # whose methods are NumPy's, whatever its class
    torch = sys.modules.get("torch")
    of_torch = torch is not None and isinstance(g, getattr(torch, "Tensor", ()))
    if hasattr(g, "detach"):  # such tensors are not shared while they record gradients
        g = g.detach()
    error: Exception | None = None
    ways = [_of_torch] if of_torch else [_of_dlpack, _of_anything] if hasattr(g, "__dlpack__") else [_of_anything]
    for way in ways:
        try:
            array = way(g, dtype)
        except (TypeError, ValueError, BufferError, RuntimeError) as e:
            error = e
        else:
            array = with_large_ints(array)
            if array.dtype.kind != "O":
                return array
    why = "" if error is None else f" ({error})"
    raise TypeError(f"is no array of numbers, but {type(g).__name__}{why}") from error


def with_large_ints(array: Array) -> Array:
    """The floats that an array of objects stands for, if all of them are numbers: NumPy has no integers beyond 64 bits.

    Raises:
        ValueError: If one is beyond the floats, too. The text goes on where "gradient at ... " stops.
    """
    if array.dtype.kind != "O":
        return array
    with Pinned("the gradient", array):
        if not all(isinstance(x, (int, float, complex, np.number, np.bool)) for x in array.flat):
            return array
        wide = complex if any(isinstance(x, (complex, np.complexfloating)) for x in array.flat) else float
        try:
            return array.astype(wide)
        except OverflowError:
            raise ValueError("has an int that is beyond the range of float64") from None


def _of_torch(tensor: Any, dtype: np.dtype[Any]) -> Array:
    # NumPy alone would not read bfloat16, nor what has yet to be conjugated or negated.
    from .bridges.torch import array

    return array(tensor, dtype)


def _of_dlpack(g: Any, _: np.dtype[Any]) -> Array:
    return np.from_dlpack(g)


def _of_anything(g: Any, _: np.dtype[Any]) -> Array:
    return as_plain("", g)
