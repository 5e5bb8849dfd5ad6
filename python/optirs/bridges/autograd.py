"""The bridge to HIPS autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from autograd.core import defvjp_argnums, make_vjp, vspace
from autograd.extend import primitive

from .. import _core
from .parts import Array, Model, check_loss


@dataclass(frozen=True)
class WithAutograd:
    """The gradient function that `with_autograd` makes."""

    f: Callable[..., Any]

    def __call__(self, model: Any, /, *batch: Any) -> tuple[float, Any]:
        """The loss, and its gradient: a tree like the model."""
        parts = Model(model)

        def loss(boxes: Any) -> Any:
            rebuilt = parts.rebuilt([boxes[i] for i in range(len(parts.arrays))], parts.constants, np.transpose)
            return self.f(rebuilt, *batch)

        backward, value = make_vjp(loss, tuple(parts.arrays))
        checked = _checked(value)
        gradients = backward(vspace(value).ones())
        return checked, parts.gradient([_like(g, a) for g, a in zip(gradients, parts.arrays, strict=True)])

    def loss(self, model: Any, /, *batch: Any) -> float:
        """The loss alone, without the cost of the gradient; `train` logs with it."""
        return _checked(self.f(model, *batch))


def _checked(value: Any) -> float:
    array = np.asarray(value)
    check_loss("with_autograd", array.shape, array.dtype.name)
    return float(array)


def _like(gradient: Any, parameter: Array) -> Array:
    """The gradient in the parameter's type; autograd's is the conjugate of the direction in which the loss grows."""
    return np.asarray(np.conj(gradient), dtype=parameter.dtype)


affine = primitive(_core.affine_forward)


def _affine_vjp(argnums: tuple[int, ...], y: Array, arguments: Any, _: Any) -> Callable[[Array], Iterator[Array]]:
    W, _, x = arguments

    def back(dy: Array) -> Iterator[Array]:
        gradients = _core.affine_gradient(W, x, dy)  # by W, b, x
        return iter([gradients[0], gradients[1], gradients[2]][i] for i in argnums)

    return back


defvjp_argnums(affine, _affine_vjp)
