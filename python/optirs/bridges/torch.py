"""The bridge to PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.lib.array_utils import byte_bounds

from .. import _core
from ..tree import is_bfloat16
from .parts import Array, Model, Parts, affine_gradient, check_loss, gelu


class WithTorch:
    """The gradient function that `with_torch` makes."""

    def __init__(self, f: Callable[..., Any], compile: bool) -> None:
        self.f, self.compile = f, compile

    def __repr__(self) -> str:
        return f"with_torch({self.f!r}, compile={self.compile!r})"

    @cached_property
    def _function(self) -> Callable[..., Any]:
        return torch.compile(self.f) if self.compile else self.f

    def __call__(self, model: Any, /, *batch: Any) -> tuple[float, Any]:
        """The loss, and its gradient: a tree like the model."""
        parts = Model(model)
        with torch.enable_grad():
            tensors = [tensor(array).requires_grad_() for array in parts.arrays]
            loss = self._value(parts, tensors, batch)
            value = _checked(loss)
            if not loss.requires_grad:
                raise ValueError("with_torch: what the function returned does not depend on any parameter of the model")
            gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
        return value, parts.gradient(_apart([_gradient(g, a) for g, a in zip(gradients, parts.arrays, strict=True)]))

    def loss(self, model: Any, /, *batch: Any) -> float:
        """The loss alone, without the cost of the gradient; `train` logs with it."""
        parts = Model(model)
        with torch.no_grad():
            return _checked(self._value(parts, [tensor(array) for array in parts.arrays], batch))

    def _value(self, model: Model, tensors: list[Any], batch: tuple[Any, ...]) -> Any:
        return self._function(_rebuilt(model, tensors), *_rebuilt(Parts(batch), []))


def _rebuilt(parts: Parts, tensors: list[Any]) -> Any:
    return parts.rebuilt(tensors, [_constant(c) for c in parts.constants], _transposed)


def _checked(loss: Any) -> float:
    if not isinstance(loss, torch.Tensor):
        raise TypeError(f"with_torch: the function must return a tensor, it returned {type(loss).__name__}")
    check_loss("with_torch", tuple(loss.shape), str(loss.dtype).removeprefix("torch."))
    return float(loss.detach())


def tensor(array: Array) -> Any:
    """The array as a tensor on its memory, or on a copy where PyTorch cannot share it.

    It knows neither negative strides nor another byte order nor memory that must not be written.
    """
    array = np.asarray(array)
    if is_bfloat16(array.dtype):
        return tensor(array.view(np.int16)).view(torch.bfloat16)
    if not (array.dtype.isnative and array.flags.writeable and all(s >= 0 for s in array.strides)):
        array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(array)


def _constant(array: Array) -> Any:
    """A tensor where PyTorch has the type; it lacks longdouble."""
    try:
        return tensor(array)
    except TypeError:
        return array


def array(tensor: Any, dtype: np.dtype[Any]) -> Array:
    """A tensor as an array on its memory; `dtype` is what is wanted of bfloat16, for which NumPy has no type itself.

    Raises:
        TypeError, RuntimeError, NotImplementedError: PyTorch cannot, as where the tensor is not on the CPU.
    """
    tensor = tensor.detach()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    tensor = tensor.resolve_conj().resolve_neg()
    if tensor.dtype is not torch.bfloat16:
        return np.asarray(tensor.numpy())
    if not is_bfloat16(dtype):
        return np.asarray(tensor.float().numpy())
    return np.asarray(tensor.view(torch.int16).numpy().view(dtype))


def _gradient(tensor: Any, parameter: Array) -> Array | None:
    if tensor is None:
        return None
    if tensor.layout is torch.strided and 0 in tensor.stride():  # that of a sum is one number, seen many times
        tensor = tensor.contiguous()
    return array(tensor, parameter.dtype)


def _apart(gradients: list[Array | None]) -> list[Array | None]:
    """Each on memory of its own: of a sum PyTorch hands one gradient, or parts of it, to all terms."""
    arrays = [(i, g) for i, g in enumerate(gradients) if g is not None and g.size]
    end = 0
    for low, high, i, gradient in sorted((*byte_bounds(g), i, g) for i, g in arrays):
        if low < end:
            gradients[i] = gradient.copy()
        else:
            end = high
    return gradients


def _transposed(tensor: Any) -> Any:
    return tensor.permute(*reversed(range(tensor.ndim)))


class _Affine(torch.autograd.Function):
    """The affine layer in Rust."""

    @staticmethod
    def forward(W: Any, b: Any, x: Any) -> Any:
        return torch.from_numpy(_core.affine_forward(W.numpy(), b.numpy(), x.numpy()))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        W, _, x = inputs
        ctx.save_for_backward(W, x)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *arguments: Any) -> Any:
        """One after the other, as under JAX's `vmap`; of an empty batch one of zeros, for the shape of the output."""
        n = info.batch_size
        pairs = zip(arguments, in_dims, strict=True)
        each = [[a] * max(n, 1) if d is None else a.unbind(d) or [a.sum(d)] for a, d in pairs]
        return torch.stack([_Affine.apply(*one) for one in zip(*each, strict=True)])[:n], 0

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        W, x = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient itself is differentiated
            return affine_gradient(W, x, dy)
        return tuple(map(torch.from_numpy, _core.affine_gradient(W.numpy(), x.numpy(), dy.resolve_neg().numpy())))


def affine(W: Any, b: Any, x: Any) -> Any:
    """`affine_forward` on tensors; those of other types are converted to float32, and their gradients back."""
    return _Affine.apply(_float32("W", W), _float32("b", b), _float32("x", x))


def _float32(name: str, value: Any) -> Any:
    tensor = torch.as_tensor(value)
    if tensor.is_complex():
        raise TypeError(f"affine_forward: {name} must be an array of real numbers, got {tensor.dtype}")
    return tensor.to("cpu", torch.float32)


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda z: z,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": lambda z: gelu(z, z.clamp(-10, 10), torch.tanh),  # the slope of PyTorch's own overflows
    "softplus": torch.nn.functional.softplus,
}
