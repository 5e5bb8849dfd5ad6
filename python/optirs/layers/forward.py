"""`affine_forward` for NumPy arrays and for the tensors of autodiff libraries, and what else layers ask of those."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import numpy.typing as npt
from numpy import ndarray

from .. import _core

_TENSORS = {"jax": ("jax", "Array"), "torch": ("torch", "Tensor"), "autograd": ("autograd.tracer", "Box")}
"""For each bridge where its library keeps the type of its tensors. A tracer of JAX is an instance of `jax.Array`."""


def affine_forward(W: npt.ArrayLike, b: npt.ArrayLike, x: npt.ArrayLike, /) -> Any:
    """The affine layer on rows, `y = x @ W.T + b`, in float32.

    Args:
        W: Weights, `(n_out, n_in)`.
        b: Bias, `(n_out,)`.
        x: Rows, `(batch, n_in)`, or one row, `(n_in,)`.

    C-contiguous float32 arrays are read directly, others through a converted copy. The GIL is released; the result
    does not depend on the number of threads. If an argument is a tensor of PyTorch or JAX, or autograd traces it, the
    result is one too, and the library differentiates through it with `affine_gradient`.

    Returns:
        A new array, `(batch, n_out)` or `(n_out,)`.

    Raises:
        ValueError: If shapes do not fit.
        TypeError: If an argument is not an array of real numbers.

    Examples:
        >>> import optirs
        >>> optirs.affine_forward([[1.0, 2.0]], [0.5], [[1.0, 1.0], [2.0, 0.0]])
        array([[3.5],
               [2.5]], dtype=float32)

    Source: `W * x .+ b` of the Optimisers.jl notebook, where batches are columns.
    """
    if type(x) is not ndarray or type(W) is not ndarray or type(b) is not ndarray:
        library = bridge(W, b, x)
        if library is not None:
            return library.affine(W, b, x)
    return _core.affine_forward(W, b, x)


def bridge(*arguments: Any) -> Any:
    """The bridge to the library, already imported, that one of the arguments belongs to; None if they are no tensors.

    It has the affine layer as a primitive, `affine`, and the functions of the library for `ACTIVATIONS`.
    """
    for library, (home, name) in _TENSORS.items():
        module = sys.modules.get(home)
        # A module that is being imported in another thread may not have its type yet.
        kind = getattr(module, name, None)
        if kind is not None and any(isinstance(a, kind) for a in arguments):
            return import_module(f"..bridges.{library}", __package__)
    return None


def check_shapes(W: tuple[int, ...], b: tuple[int, ...], x: tuple[int, ...]) -> None:
    """What `affine_forward` asks of shapes, for libraries that have to know before they call it.

    Raises:
        ValueError: If shapes do not fit.
    """
    if len(W) != 2:
        raise ValueError(f"affine_forward: W has shape {W}, it must be (n_out, n_in)")
    if len(x) not in (1, 2) or x[-1] != W[1]:
        raise ValueError(f"affine_forward: x has shape {x}, W {W} takes ({W[1]},) or (batch, {W[1]})")
    if b != W[:1]:
        raise ValueError(f"affine_forward: b has shape {b}, W {W} takes ({W[0]},)")
