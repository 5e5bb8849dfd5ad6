"""The bridge to HIPS autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.core import defvjp_argnums, make_vjp, vspace
from autograd.tracer import getval, isbox, primitive

from .. import _core
from ..tree import is_bfloat16
from .parts import Array, Model, affine_gradient, check_loss, gelu


@dataclass(frozen=True)
class WithAutograd:
    """The gradient function that `with_autograd` makes."""

    f: Callable[..., Any]

    def __call__(self, model: Any, /, *batch: Any) -> tuple[float, Any]:
        """The loss, and its gradient: a tree like the model."""
        parts = Model(model)
        arrays = tuple(map(_known, parts.arrays))
        backward, value = make_vjp(lambda boxes: self._value(parts, boxes, batch), arrays)
        gradients = backward(vspace(value).ones())
        return float(value), parts.gradient([_like(g, a) for g, a in zip(gradients, parts.arrays, strict=True)])

    def loss(self, model: Any, /, *batch: Any) -> float:
        """The loss alone, without the cost of the gradient; `train` logs with it."""
        parts = Model(model)
        return float(self._value(parts, tuple(map(_known, parts.arrays)), batch))

    def _value(self, model: Model, arrays: Any, batch: tuple[Any, ...]) -> Any:
        # One box an array: each time autograd's box of a tuple is asked for an element, it makes a new one.
        boxes = [arrays[i] for i in range(len(model.arrays))]
        loss = self.f(model.rebuilt(boxes, model.constants, np.transpose), *batch)
        value = getval(loss)
        if not isinstance(value, (np.ndarray, np.generic, float)):
            raise TypeError(f"with_autograd: the function must return an array, it returned {type(value).__name__}")
        check_loss("with_autograd", np.shape(value), np.asarray(value).dtype.name)
        return loss


def _known(parameter: Array) -> Array:
    """In a type that autograd has; it lacks bfloat16."""
    return parameter.astype(np.float32) if is_bfloat16(parameter.dtype) else parameter


def _like(gradient: Any, parameter: Array) -> Array:
    """The gradient in the parameter's type; autograd's is the conjugate of the direction in which the loss grows."""
    if parameter.dtype.kind == "c":
        gradient = np.conj(gradient)
    return np.asarray(gradient, dtype=parameter.dtype)


affine = primitive(_core.affine_forward)


def _affine_vjp(argnums: tuple[int, ...], y: Array, arguments: Any, _: Any) -> Callable[[Any], Iterator[Any]]:
    W, _, x = arguments

    def back(dy: Any) -> Iterator[Any]:
        again = any(map(isbox, (W, x, dy)))  # the gradient itself is differentiated
        gradients = (affine_gradient if again else _core.affine_gradient)(W, x, dy)  # by W, b, x
        return iter([gradients[0], gradients[1], gradients[2]][i] for i in argnums)

    return back


defvjp_argnums(affine, _affine_vjp)


def _tanh(z: Any) -> Any:
    # Beyond +-10 it is +-1 in float32. Without the limits autograd's slope, by the square of cosh, would overflow.
    return anp.tanh(anp.clip(z, -10, 10))


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda z: z,
    "relu": lambda z: anp.where(z <= 0, 0, z),  # the slope of `maximum` is 1/2 at 0
    "tanh": _tanh,
    "sigmoid": lambda z: anp.exp(-anp.logaddexp(0, -z)),  # overflows nowhere
    "gelu": lambda z: gelu(z, anp.clip(z, -10, 10), anp.tanh),
    "softplus": lambda z: anp.logaddexp(0, z),
}
