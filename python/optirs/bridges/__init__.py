"""Gradient functions of arbitrary code, by autograd, JAX or PyTorch. Nothing is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

Function = Callable[..., Any]


class GradientFunction(Protocol):
    """What the makers return: a gradient function that can also give the loss alone."""

    def __call__(self, model: Any, /, *batch: Any) -> tuple[float, Any]: ...

    def loss(self, model: Any, /, *batch: Any) -> float: ...


def with_autograd(f: Function) -> GradientFunction:
    """The gradient function of any `f(model, *batch) -> scalar` written with `autograd.numpy`.

    `f` gets the model with autograd's boxes in the places of its parameters, a tied one being one box everywhere. All
    else in the model, and the batch, it gets as they are.

    Args:
        f: Function of model and batch that returns a real number.

    Returns:
        A function `(model, *batch) -> (loss, gradient)`. The gradient is a tree like the model: NumPy arrays of the
        parameters' types, of a tied parameter at the first of its places, and None elsewhere. A parameter that `f` does
        not use has the gradient 0. Of a complex parameter `a + bi` it is `dL/da + i dL/db`, which descends. Its
        `.loss(model, *batch)` is the loss alone.

    Raises:
        ImportError: If autograd is not installed (extra `autograd`).
        TypeError: If `f` is not callable; when called, if what it returns is no real number.
        ValueError: When called, if `f` returns an array that is not 0-d, or one that depends on no parameter.

    Examples:
        >>> import autograd.numpy as anp
        >>> import numpy as np, optirs
        >>> gradient = optirs.with_autograd(lambda model, x: anp.sum(anp.sin(model["w"] * x)))
        >>> gradient({"w": np.zeros(2), "name": "sine"}, np.array([1.0, 2.0]))
        (0.0, {'w': array([1., 2.]), 'name': None})

    Source: `autograd.value_and_grad`, which returns the conjugate for complex parameters.
    """
    gradient: GradientFunction = _bridge("with_autograd", "autograd", f).WithAutograd(f)
    return gradient


def with_jax(f: Function, *, jit: bool = True) -> GradientFunction:
    """The gradient function of any `f(model, *batch) -> scalar` written with JAX.

    `f` gets the model with JAX arrays in the places of its NumPy arrays, and so the batch; a tied parameter is one
    array everywhere. All else in the model is as it is. A model with a float64 or complex128 parameter is computed with
    64 bits, whatever `jax_enable_x64` says; without one, JAX's own setting holds.

    Args:
        f: Function of model and batch that returns a real number.
        jit: Whether `f` is compiled: once for every structure of the model, shapes and types of arrays. Everything in
            the model that is not an array of numbers belongs to its structure. False for functions that JAX cannot
            compile, such as those with an `if` on a value.

    Returns:
        A function `(model, *batch) -> (loss, gradient)`. The gradient is a tree like the model: NumPy arrays of the
        parameters' types (read-only, as JAX's own memory), of a tied parameter at the first of its places, and None
        elsewhere. A parameter that `f` does not use has the gradient 0. Of a complex parameter `a + bi` it is
        `dL/da + i dL/db`, which descends. Its `.loss(model, *batch)` is the loss alone.

    Raises:
        ImportError: If JAX is not installed (extra `jax`).
        TypeError: If `f` is not callable; when called, if what it returns is no real number.
        ValueError: When called, if `f` returns an array that is not 0-d, or one that depends on no parameter.

    Examples:
        >>> import jax.numpy as jnp
        >>> import numpy as np, optirs
        >>> gradient = optirs.with_jax(lambda model, x: jnp.sum(jnp.sin(model["w"] * x)))
        >>> gradient({"w": np.zeros(2), "name": "sine"}, np.array([1.0, 2.0]))
        (0.0, {'w': array([1., 2.]), 'name': None})

    Source: `jax.value_and_grad`, which returns the conjugate for complex parameters.
    """
    gradient: GradientFunction = _bridge("with_jax", "jax", f).WithJax(f, jit)
    return gradient


def with_torch(f: Function, *, compile: bool = False) -> GradientFunction:
    """The gradient function of any `f(model, *batch) -> scalar` written with PyTorch.

    `f` gets the model with tensors in the places of its NumPy arrays, and so the batch; they share memory with the
    arrays. A tied parameter is one tensor everywhere. All else in the model is as it is.

    Args:
        f: Function of model and batch that returns a real number.
        compile: Whether `f` goes through `torch.compile`.

    Returns:
        A function `(model, *batch) -> (loss, gradient)`. The gradient is a tree like the model: NumPy arrays of the
        parameters' types, of a tied parameter at the first of its places, and None elsewhere, also for parameters that
        `f` does not use: `update` does not step them. Of a complex parameter `a + bi` it is `dL/da + i dL/db`, which
        descends. Its `.loss(model, *batch)` is the loss alone.

    Raises:
        ImportError: If PyTorch is not installed (extra `torch`).
        TypeError: If `f` is not callable; when called, if what it returns is no real number.
        ValueError: When called, if `f` returns a tensor that is not 0-d, or one that depends on no parameter.

    Examples:
        >>> import torch
        >>> import numpy as np, optirs
        >>> gradient = optirs.with_torch(lambda model, x: torch.sin(model["w"] * x).sum())
        >>> gradient({"w": np.zeros(2), "name": "sine"}, np.array([1.0, 2.0]))
        (0.0, {'w': array([1., 2.]), 'name': None})

    Source: `torch.autograd.grad`.
    """
    gradient: GradientFunction = _bridge("with_torch", "torch", f).WithTorch(f, compile)
    return gradient


def _bridge(maker: str, library: str, f: Any) -> Any:
    """The module of this package that uses `library`."""
    if not callable(f):
        raise TypeError(f"{maker} takes a function f(model, *batch), got {type(f).__name__}")
    try:
        import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise  # it is there, but lacks something itself
        raise ImportError(f"{maker} needs {library}: pip install 'optirs[{library}]'", name=library) from error
    return import_module(f"{__name__}.{library}")
