"""Models and batches taken apart into arrays, and put together again with the tensors of another library."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..trees.tensors import Inside
from ..trees.ties import Parameter, parameters
from ..trees.tree import is_bfloat16, is_trained_type

Array = NDArray[Any]
Role = tuple[int, bool]

CONSTANT: Role = (-1, False)
OTHER: Role = (-2, False)


def is_numbers(leaf: Any) -> bool:
    """Whether `leaf` is an array of numbers, as opposed to one of strings or objects."""
    return isinstance(leaf, np.ndarray) and (leaf.dtype.kind in "biufc" or is_bfloat16(leaf.dtype))


class Parts:
    """A tree taken apart, by default a batch, in which nothing is trained. `name` is what errors call it.

    Attributes:
        tree: The tree.
        leaves: Its leaves, also those of untrained children.
        roles: What each leaf is: the index of a parameter and whether transposed; `CONSTANT` for an array that could be
            one, but is not trained; `OTHER` for one that could not; or None for what is no array, in the sense of
            `is_array`.
        constants: The arrays that are no parameters, in order.
    """

    def __init__(
        self,
        tree: Any,
        is_array: Callable[[Any], bool] = is_numbers,
        found: Sequence[Parameter] = (),
        name: str = "batch",
    ) -> None:
        at: dict[tuple[Any, ...], Role] = {
            path: (i, transposed) for i, p in enumerate(found) for path, transposed in p.places
        }
        walked = _core.flatten(tree, True)
        for path, leaf, _ in walked:
            if type(leaf) is not np.ndarray:
                _core.refuse_masked(_core.path_text((name, *path)), leaf)
        self.tree = tree
        self.leaves = [leaf for _, leaf, _ in walked]
        self.roles = [at.get(path) or (_role(leaf) if is_array(leaf) else None) for path, leaf, _ in walked]
        self.constants = [leaf for leaf, role in zip(self.leaves, self.roles, strict=True) if role in (CONSTANT, OTHER)]

    def rebuilt(self, call: Inside, tensors: Sequence[Any], constants: Sequence[Any]) -> Any:
        """The tree in `call`, with `tensors` in place of its parameters, `constants` in place of its other arrays."""
        rest = iter(constants)
        transposes: dict[int, Any] = {}
        values = []
        for leaf, role in zip(self.leaves, self.roles, strict=True):
            if role is None:
                values.append(leaf)
            elif role is CONSTANT:
                values.append(next(rest))
            elif role is OTHER:
                values.append(call.other(next(rest)))
            else:
                i, transposed = role
                if transposed and i not in transposes:  # once, as what stands twice holds one and the same
                    transposes[i] = call.transposed(tensors[i])
                values.append(transposes[i] if transposed else tensors[i])
        return _core.unflatten(self.tree, values, True, False)


def _role(array: Any) -> Role:
    return CONSTANT if isinstance(array, np.ndarray) and is_trained_type(array.dtype) else OTHER


class Model(Parts):
    """A model taken apart.

    Attributes:
        arrays: Its parameters, tied ones once.
    """

    def __init__(self, model: Any, is_array: Callable[[Any], bool] = is_numbers) -> None:
        _, found, self._index = parameters(model)
        self.arrays = [np.asarray(p.array) for p in found]
        super().__init__(model, is_array, found, "model")

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


def independent(maker: str, parameters: Sequence[Any], cut: str) -> ValueError:
    """The error of a loss without a derivative by any parameter; `cut` says what in this library makes constants."""
    if not parameters:
        return ValueError(f"{maker}: the model has no parameters, on which the loss could depend")
    return ValueError(
        f"{maker}: what the function returned does not depend on any parameter of the model: compute it from the "
        f"arrays of the model that the function is given ({cut})"
    )


def check_loss(maker: str, shape: tuple[int, ...], dtype: str) -> None:
    """Raises unless what the function returned is one real floating-point number.

    Raises:
        ValueError: If it is an array of another shape.
        TypeError: If it is of another type.
    """
    if tuple(shape) != ():
        raise ValueError(f"{maker}: the function must return a scalar, it returned an array of shape {tuple(shape)}")
    if not dtype.startswith(("float", "bfloat")):
        raise TypeError(f"{maker}: the function must return a real floating-point number, it returned {dtype}")
