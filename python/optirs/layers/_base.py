"""What layers have in common."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from operator import index
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from .._core import Xoshiro, refuse_masked

Float32 = npt.NDArray[np.float32]


@runtime_checkable
class Layer(Protocol):
    """What `supervised` asks of a model: `pullback(x) -> (y, back)`, `back(dy) -> (gradient of the layer, of x)`."""

    def pullback(self, x: Any, /) -> tuple[Any, Callable[[Any], tuple[Any, Any]]]: ...


def check_arrays(layer: str, W: Any, b: Any) -> None:
    """Raises unless `W` is a matrix and `b` has one entry a row, or what is missing is None."""
    for name, value, ndim, form in (("W", W, 2, "(n_out, n_in)"), ("b", b, 1, "(n_out,)")):
        refuse_masked(f"{layer}: {name}", value)
        shape = getattr(value, "shape", None)
        if value is not None and shape is None:
            raise TypeError(f"{layer}: {name} must be an array {form}, got {type(value).__name__}")
        if shape is not None and len(shape) != ndim:
            raise ValueError(f"{layer}: {name} has shape {tuple(shape)}, it must be {form}")
    if W is not None and b is not None and W.shape[0] != b.shape[0]:
        raise ValueError(f"{layer}: W has shape {tuple(W.shape)}, b has {tuple(b.shape)}: one b per row")


def check_sizes(call: str, **sizes: Any) -> None:
    """Raises unless all are whole numbers, 0 or more."""
    for name, n in sizes.items():
        try:
            index(n)
        except TypeError:
            raise TypeError(f"{call}: {name} must be an integer, got {n!r}") from None
        if n < 0:
            raise ValueError(f"{call}: {name} must not be negative, got {n}")


def generator(call: str, rng: Xoshiro | None) -> Xoshiro:
    """`rng`, or a new generator seeded by the operating system."""
    if rng is None:
        return Xoshiro(secrets.randbits(256))
    if not isinstance(rng, Xoshiro):
        raise TypeError(f"{call}: rng must be an optirs.Xoshiro, got {type(rng).__name__}")
    return rng
