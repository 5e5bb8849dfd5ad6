"""The bridge to JAX."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import _core
from .._rounding import cast
from ..layers.forward import check_shapes
from ..trees.tensors import Inside
from .parts import Array, Model, Parts, affine_gradient, check_loss, gelu, independent, is_numbers
from .structure import Structure

TRAINED = frozenset(("float16", "bfloat16", "float32", "float64", "complex64", "complex128"))
"""The types that are trained."""


class WithJax:
    """The gradient function that `with_jax` makes."""

    def __init__(self, f: Callable[..., Any], jit: bool) -> None:
        self.f, self.jit = f, jit
        self._loss: Callable[..., Any] = self._value
        self._loss_and_gradient: Callable[..., Any] = jax.value_and_grad(self._connected, argnums=1)
        if jit:
            self._loss = jax.jit(self._loss, static_argnums=0)
            self._loss_and_gradient = jax.jit(self._loss_and_gradient, static_argnums=0)

    def __repr__(self) -> str:
        return f"with_jax({self.f!r}, jit={self.jit!r})"

    def __call__(self, model: Any, /, *batch: Any) -> tuple[float, Any]:
        """The loss, and its gradient: a tree like the model."""
        parts = Model(model, _is_array)
        loss, gradients = self._run(self._loss_and_gradient, parts, batch)
        return float(loss), parts.gradient([_gradient(g) for g in gradients])

    def loss(self, model: Any, /, *batch: Any) -> float:
        """The loss alone, without the cost of the gradient; `train` logs with it."""
        return float(self._run(self._loss, Model(model, _is_array), batch))

    def _run(self, function: Callable[..., Any], model: Model, batch: tuple[Any, ...]) -> Any:
        rest = Parts(batch, _is_array_or_number)
        with _precision(model.arrays):
            arrays, constants, data = map(self._given, (model.arrays, model.constants, rest.constants))
            if not self.jit:
                return function(SimpleNamespace(skeletons=(model, rest)), arrays, constants, data)
            try:
                return function(Structure(model, rest), arrays, constants, data)
            except jax.errors.JAXTypeError as error:
                error.add_note("optirs.with_jax(f, jit=False) does not compile f")
                raise

    def _given(self, arrays: Sequence[Any]) -> list[Any]:
        """What JAX takes; a compiled function takes arrays as they are, and is quicker at that."""
        native = [a if isinstance(a, jax.Array) else _native(a) for a in arrays]
        return native if self.jit else [jnp.asarray(a) for a in native]

    def _connected(self, structure: Any, arrays: Sequence[Any], constants: Sequence[Any], data: Sequence[Any]) -> Any:
        """As `_value`, which must depend on the arrays. That is found out while JAX traces: later it costs nothing."""
        loss = self._value(structure, arrays, constants, data)
        if not _is_differentiated(loss):
            raise independent("with_jax", arrays, "stop_gradient, and sign or round, make constants")
        return loss

    def _value(self, structure: Any, arrays: Sequence[Any], constants: Sequence[Any], data: Sequence[Any]) -> Any:
        """The loss of arrays alone, which JAX differentiates."""
        model, batch = structure.skeletons
        with _Call() as call:
            loss = self.f(model.rebuilt(call, arrays, constants), *batch.rebuilt(call, (), data))
        if not isinstance(loss, (jax.Array, np.ndarray, np.generic, float)):
            raise TypeError(f"with_jax: the function must return a JAX array, it returned {type(loss).__name__}")
        check_loss("with_jax", jnp.shape(loss), jnp.result_type(loss).name)
        return loss


class _Call(Inside):
    """In it, JAX's arrays are arrays."""

    def is_tensor(self, x: Any) -> bool:
        return isinstance(x, jax.Array) and x.dtype.name in TRAINED

    def transpose(self, tensor: Any) -> Any:
        return jnp.transpose(tensor)

    def concatenated(self, arrays: Sequence[Any]) -> Any:
        return jnp.concatenate([jnp.ravel(a) for a in arrays])

    def shaped(self, values: Any, like: Any) -> Any:
        values = jnp.reshape(values, like.shape)
        kind = jax.dtypes.canonicalize_dtype(like.dtype)
        return (values if kind.kind == "c" else jnp.real(values)).astype(kind)


def _is_differentiated(loss: Any) -> bool:
    """Whether JAX follows a derivative from `loss` to what it is differentiated by; its value may be zero.

    JAX says so to the rule of a function that has its own, and calls no rule where there is no derivative at all.
    """
    found: list[bool] = []
    same = jax.custom_vjp(lambda x: x)

    def forward(x: Any) -> tuple[Any, None]:
        found.append(x.perturbed)
        return x.value, None

    same.defvjp(forward, lambda _, slope: (slope,), symbolic_zeros=True)
    same(loss)
    return any(found)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) or is_numbers(leaf)


def _is_array_or_number(leaf: Any) -> bool:
    """What varies from batch to batch; a bool is rather a switch."""
    return _is_array(leaf) or isinstance(leaf, np.number) or type(leaf) in (int, float, complex)


def _precision(arrays: Sequence[Array]) -> AbstractContextManager[Any]:
    """JAX would make 32 bits of 64 without a word; a model of 64 bits is meant so."""
    wide = any(array.dtype.char in "dD" for array in arrays)
    return jax.enable_x64(True) if wide else nullcontext()


def _native(array: Any) -> Any:
    """In this machine's byte order."""
    if isinstance(array, np.ndarray) and not array.dtype.isnative:
        return cast("with_jax: an array", array, array.dtype.newbyteorder("="))
    return array


def _gradient(gradient: Any) -> Array:
    """JAX's gradient is the conjugate of the direction in which the loss grows."""
    array = np.asarray(gradient)
    return array.conj() if array.dtype.kind == "c" else array


def affine(W: Any, b: Any, x: Any) -> Any:
    """`affine_forward` on JAX arrays; those of other types are converted to float32, and their gradients back."""
    W, b, x = (_float32(name, value) for name, value in (("W", W), ("b", b), ("x", x)))
    check_shapes(W.shape, b.shape, x.shape)
    # JAX hands arrays to a callback by way of its threads, of which there is one for a CPU. Where there is but one, the
    # callback itself occupies it and waits for ever, once the arrays are large.
    return x @ W.T + b if _cpus() == 1 else _affine(W, b, x)


def _cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _float32(name: str, value: Any) -> Any:
    _core.refuse_masked(f"affine_forward: {name}", value)
    array = jnp.asarray(value)
    if jnp.iscomplexobj(array):
        raise TypeError(f"affine_forward: {name} must be an array of real numbers, got {array.dtype}")
    return array.astype(jnp.float32)


@jax.custom_vjp
def _affine(W: Any, b: Any, x: Any) -> Any:
    y = jax.ShapeDtypeStruct((*x.shape[:-1], *b.shape), jnp.float32)
    return jax.pure_callback(_forward, y, W, b, x, vmap_method="sequential")


def _affine_forward(W: Any, b: Any, x: Any) -> Any:
    return _affine(W, b, x), (W, b, x)


def _affine_backward(saved: tuple[Any, Any, Any], dy: Any) -> Any:
    W, _, x = saved
    return _gradient_of_affine(W, x, dy)


@jax.custom_vjp
def _gradient_of_affine(W: Any, x: Any, dy: Any) -> Any:
    gradients = tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (W.shape, W.shape[:1], x.shape))
    return tuple(jax.pure_callback(_backward, gradients, W, x, dy, vmap_method="sequential"))


_affine.defvjp(_affine_forward, _affine_backward)
_gradient_of_affine.defvjp(  # where the gradient itself is differentiated
    lambda *arguments: (_gradient_of_affine(*arguments), arguments),
    lambda arguments, slopes: jax.vjp(affine_gradient, *arguments)[1](slopes),
)


def _forward(W: Any, b: Any, x: Any) -> Any:
    return _core.affine_forward(np.asarray(W), np.asarray(b), np.asarray(x))


def _backward(W: Any, x: Any, dy: Any) -> Any:
    return _core.affine_gradient(np.asarray(W), np.asarray(x), np.asarray(dy))


ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda z: z,
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": lambda z: gelu(z, jnp.clip(z, -10, 10), jnp.tanh),  # the slope of `jax.nn.gelu` overflows
    "softplus": jax.nn.softplus,
}
