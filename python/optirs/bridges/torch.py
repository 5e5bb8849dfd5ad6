"""The bridge to PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.lib.array_utils import byte_bounds

from .. import _core
from ..trees.tensors import Inside
from ..trees.tree import is_bfloat16
from .parts import Array, Model, Parts, affine_gradient, check_loss, gelu, independent, is_numbers

TRAINED = frozenset((torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128))
"""The types that are trained."""


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
        parts = Model(model, _is_array)
        with torch.enable_grad(), _Call() as call:
            tensors = [tensor(array).requires_grad_() for array in parts.arrays]
            loss = self._value(call, parts, tensors, batch)
            value = _checked(loss)
            # A graph of other tensors, such as those of a module, leads to no parameter either.
            gradients = torch.autograd.grad(loss, tensors, allow_unused=True) if loss.requires_grad and tensors else ()
            if all(gradient is None for gradient in gradients):
                raise independent("with_torch", parts.arrays, "detach() and no_grad() make constants")
        return value, parts.gradient(_apart([_gradient(g, a) for g, a in zip(gradients, parts.arrays, strict=True)]))

    def loss(self, model: Any, /, *batch: Any) -> float:
        """The loss alone, without the cost of the gradient; `train` logs with it."""
        parts = Model(model, _is_array)
        with torch.no_grad(), _Call() as call:
            return _checked(self._value(call, parts, [tensor(array) for array in parts.arrays], batch))

    def _value(self, call: Inside, model: Model, tensors: list[Any], batch: tuple[Any, ...]) -> Any:
        return self._function(_rebuilt(call, model, tensors), *_rebuilt(call, Parts(batch, _is_array), []))


class _Call(Inside):
    """In it, PyTorch's tensors are arrays."""

    def is_tensor(self, x: Any) -> bool:
        return isinstance(x, torch.Tensor) and x.dtype in TRAINED

    def transpose(self, tensor: Any) -> Any:
        return tensor.permute(*reversed(range(tensor.ndim)))

    def concatenated(self, arrays: Sequence[Any]) -> Any:
        return torch.cat([_as_tensor(a).reshape(-1) for a in arrays])

    def shaped(self, values: Any, like: Any) -> Any:
        kind = _as_tensor(like).dtype
        values = _as_tensor(values).reshape(like.shape)
        return (values if kind.is_complex or not values.is_complex() else values.real).to(kind)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) or is_numbers(leaf)


def _as_tensor(array: Any) -> Any:
    return array if isinstance(array, torch.Tensor) else tensor(array)


def _rebuilt(call: Inside, parts: Parts, tensors: list[Any]) -> Any:
    return parts.rebuilt(call, tensors, [_constant(c) for c in parts.constants])


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
        with _core.Pinned("with_torch: an array", array):  # a copy also where the type is right
            array = array.astype(array.dtype.newbyteorder("="))
    return torch.from_numpy(array)


def _constant(array: Array) -> Any:
    """A tensor where PyTorch has the type; it lacks longdouble."""
    try:
        return _as_tensor(array)
    except TypeError:
        return array


def array(tensor: Any, dtype: np.dtype[Any]) -> Array:
    """A tensor as an array on its memory; `dtype` is what is wanted of bfloat16, for which NumPy has no type itself.

    Raises:
        TypeError, RuntimeError, NotImplementedError: If PyTorch cannot, as where the tensor is not on the CPU.
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
    if not isinstance(value, torch.Tensor):  # `torch.compile` does not look into functions like this one
        _core.refuse_masked(f"affine_forward: {name}", value)
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
