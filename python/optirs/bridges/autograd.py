"""The bridge to HIPS autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.core import defvjp_argnums, make_vjp, vspace
from autograd.tracer import getval, isbox, primitive

from .. import _core
from .._rounding import cast
from ..trees.tensors import Inside
from ..trees.tree import is_trained_type
from .parts import Array, Model, Parts, affine_gradient, check_loss, gelu, independent


@dataclass(frozen=True)
class WithAutograd:
    """The gradient function that `with_autograd` makes."""

    f: Callable[..., Any]

    def __call__(self, model: Any, /, *batch: Any) -> tuple[float, Any]:
        """The loss, and its gradient: a tree like the model."""
        parts = Model(model)
        arrays = tuple(map(_known, parts.arrays))

        def traced(boxes: Any) -> Any:
            loss = self._value(parts, boxes, batch)
            if not isbox(loss):
                raise independent("with_autograd", parts.arrays, "sign or round make constants")
            return loss

        backward, value = make_vjp(traced, arrays)
        gradients = backward(vspace(value).ones())
        return float(value), parts.gradient([_like(g, a) for g, a in zip(gradients, parts.arrays, strict=True)])

    def loss(self, model: Any, /, *batch: Any) -> float:
        """The loss alone, without the cost of the gradient; `train` logs with it."""
        parts = Model(model)
        return float(self._value(parts, tuple(map(_known, parts.arrays)), batch))

    def _value(self, model: Model, arrays: Any, batch: tuple[Any, ...]) -> Any:
        Parts(batch)  # which refuses what is masked, however deep
        # One box an array: each time autograd's box of a tuple is asked for an element, it makes a new one.
        boxes = [arrays[i] for i in range(len(model.arrays))]
        with _Call() as call:
            loss = self.f(model.rebuilt(call, boxes, model.constants), *batch)
        value = getval(loss)
        if not isinstance(value, (np.ndarray, np.generic, float)):
            raise TypeError(f"with_autograd: the function must return an array, it returned {type(value).__name__}")
        check_loss("with_autograd", np.shape(value), np.asarray(value).dtype.name)
        return loss


class _Call(Inside):
    """In it, autograd's boxes are arrays."""

    def is_tensor(self, x: Any) -> bool:
        if not isbox(x):
            return False
        while isbox(x):  # as deep as it is being differentiated
            x = getval(x)
        return isinstance(x, np.ndarray) and is_trained_type(x.dtype)

    def transpose(self, tensor: Any) -> Any:
        return anp.transpose(tensor)

    def concatenated(self, arrays: Sequence[Any]) -> Any:
        if any(a.dtype.kind == "c" for a in arrays):
            # Of a concatenation autograd hands complex gradients to real arrays, of a sum it does not.
            arrays = [a + np.zeros((), np.complex64) for a in arrays]
        return anp.concatenate([anp.ravel(a) for a in arrays])

    def shaped(self, values: Any, like: Any) -> Any:
        values = anp.reshape(values, like.shape)
        kind = np.dtype(np.float32) if like.dtype.itemsize == 2 else like.dtype
        return (values if kind.kind == "c" else anp.real(values)).astype(kind)


def _known(parameter: Array) -> Array:
    """A parameter of 16 bits as float32: autograd lacks bfloat16, and adds up gradients in the parameter's type."""
    return cast("with_autograd: a parameter", parameter, np.dtype(np.float32)) if parameter.itemsize == 2 else parameter


def _like(gradient: Any, parameter: Array) -> Array:
    """The gradient in the parameter's type, that of 16-bit parameters in float32.

    Autograd's is the conjugate of the direction in which the loss grows.
    """
    if parameter.dtype.kind == "c":
        gradient = np.conj(gradient)
    return np.asarray(gradient, dtype=np.float32 if parameter.itemsize == 2 else parameter.dtype)


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
