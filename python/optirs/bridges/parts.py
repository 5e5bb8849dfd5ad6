"""Models and batches taken apart into arrays, and put together again with the tensors of another library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..ties import Parameter, parameters
from ..tree import is_bfloat16

Array = NDArray[Any]
Role = tuple[int, bool]

CONSTANT: Role = (-1, False)


def is_numbers(leaf: Any) -> bool:
    """Whether `leaf` is an array of numbers, as opposed to one of strings or objects."""
    return isinstance(leaf, np.ndarray) and (leaf.dtype.kind in "biufc" or is_bfloat16(leaf.dtype))


class Parts:
    """A tree taken apart, by default one in which nothing is trained.

    Attributes:
        tree: the tree.
        leaves: its leaves, also those of untrained children.
        roles: what each leaf is: the index of a parameter and whether transposed, `CONSTANT`, or None for what is no
            array, in the sense of `is_array`.
        constants: the arrays that are no parameters, in order.
    """

    def __init__(
        self, tree: Any, is_array: Callable[[Any], bool] = is_numbers, found: Sequence[Parameter] = ()
    ) -> None:
        at: dict[tuple[Any, ...], Role] = {
            path: (i, transposed) for i, p in enumerate(found) for path, transposed in p.places
        }
        walked = _core.flatten(tree, True)
        self.tree = tree
        self.leaves = [leaf for _, leaf, _ in walked]
        self.roles = [at.get(path) or (CONSTANT if is_array(leaf) else None) for path, leaf, _ in walked]
        self.constants = [leaf for leaf, role in zip(self.leaves, self.roles, strict=True) if role is CONSTANT]

    def rebuilt(self, tensors: Sequence[Any], constants: Sequence[Any], transpose: Callable[[Any], Any]) -> Any:
        """The tree with `tensors` in place of its parameters and `constants` in place of its other arrays."""
        rest = iter(constants)
        values = []
        for leaf, role in zip(self.leaves, self.roles, strict=True):
            if role is None:
                values.append(leaf)
            elif role is CONSTANT:
                values.append(next(rest))
            else:
                i, transposed = role
                values.append(transpose(tensors[i]) if transposed else tensors[i])
        return _core.unflatten(self.tree, values, True, False)


class Model(Parts):
    """A model taken apart.

    Attributes:
        arrays: its parameters, tied ones once.
    """

    def __init__(self, model: Any, is_array: Callable[[Any], bool] = is_numbers) -> None:
        _, found, self._index = parameters(model)
        self.arrays = [np.asarray(p.array) for p in found]
        super().__init__(model, is_array, found)

    def gradient(self, gradients: Sequence[Array | None]) -> Any:
        """A tree like the model: the gradient of each parameter at the first of its places, None elsewhere."""
        rest = dict(enumerate(gradients))
        values = [None if i is None else rest.pop(i, None) for i in self._index]
        return _core.unflatten(self.tree, values, False, True)


def affine_gradient(W: Any, x: Any, dy: Any) -> tuple[Any, Any, Any]:
    """What `optirs.affine_gradient` computes, in the library's own operations: it differentiates those further."""
    rows, slopes = (a if a.ndim == 2 else a[None] for a in (x, dy))  # rows[batch, n_in], slopes[batch, n_out]
    return slopes.T @ rows, slopes.sum(0), dy @ W


def gelu(z: Any, near: Any, tanh: Callable[[Any], Any]) -> Any:
    """GELU in the form with tanh. `near` is `z` within +-10: beyond, it is 0 or `z`, and the cube would overflow."""
    return z / 2 * (1 + tanh(math.sqrt(2 / math.pi) * (near + 0.044715 * near**3)))


def check_loss(maker: str, shape: tuple[int, ...], dtype: str) -> None:
    """Raises unless what the function returned is one real floating-point number.

    Raises:
        ValueError: it is an array of another shape.
        TypeError: it is of another type.
    """
    if tuple(shape) != ():
        raise ValueError(f"{maker}: the function must return a scalar, it returned an array of shape {tuple(shape)}")
    if not dtype.startswith(("float", "bfloat")):
        raise TypeError(f"{maker}: the function must return a real floating-point number, it returned {dtype}")
