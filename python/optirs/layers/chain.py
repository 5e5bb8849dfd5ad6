"""Layers in sequence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .. import _core
from .._equality import Compared
from ..trees.tree import functor
from ._base import Layer
from .affine import Affine
from .dense import Dense
from .forward import bridge


@functor(children=("layers",))
class Chain(Compared):
    """Layers in sequence: `Chain(f, g)(x)` is `g(f(x))`.

    Args:
        *layers: `Affine`, `Dense`, `Chain`, or anything else that is callable and has a method
            `pullback(x) -> (y, back)`, `back(dy) -> (gradient of the layer, gradient of x)`. A layer with parameters is
            of a class registered with `functor`.

    `chain[0]` is a layer, `chain[1:]` a `Chain` of some of them, `len(chain)` how many there are. The layers are kept
    as the tuple `.layers`, so that a key path is `layers[0].W`. A chain of `Affine`, `Dense` and such chains alone is
    run as a whole, by one call of compiled code; the answer has the same bits as that of its layers one by one.

    Raises:
        TypeError: If something is not a layer.

    Examples:
        >>> import numpy as np, optirs
        >>> rng = optirs.Xoshiro(1)
        >>> model = optirs.Chain(optirs.Dense.glorot(3, 8, "tanh", rng=rng), optirs.Dense.glorot(8, 2, rng=rng))
        >>> model(np.zeros((5, 3))).shape
        (5, 2)
        >>> [str(path) for path, _ in optirs.trainables(model, path=True)]
        ['layers[0].W', 'layers[0].b', 'layers[1].W', 'layers[1].b']

    Source: `Chain` of Flux.jl; PyTorch's `Sequential`.
    """

    layers: tuple[Any, ...]

    def __init__(self, *layers: Layer) -> None:
        # Only for users: trees of models, states and gradients are rebuilt without it.
        for i, layer in enumerate(layers):
            if isinstance(layer, type) or not (callable(layer) and callable(getattr(layer, "pullback", None))):
                name = layer.__name__ if isinstance(layer, type) else type(layer).__name__
                raise TypeError(f"Chain: layer {i} must be callable and have a method pullback(x), got {name}")
        self.layers = layers

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.layers)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Chain: ...
    def __getitem__(self, index: int | slice) -> Any:
        found = self.layers[index]
        return Chain(*found) if isinstance(index, slice) else found

    def __repr__(self) -> str:
        return f"Chain({', '.join(map(repr, self.layers))})"

    def __call__(self, x: npt.ArrayLike) -> Any:
        """The output of the last layer; a tensor if `x` or a parameter is one, as for the layers themselves.

        Raises:
            ValueError: If the shapes do not fit; the text names the place.
            TypeError: If `x` is not an array of real numbers.
        """
        if bridge(x, *_parameters(self)) is None:
            y: Any = _core.forward(self, x)
            if y is not None:
                return y
        y = _rows(x)
        for layer in self.layers:
            y = layer(y)
        return y

    def pullback(self, x: npt.ArrayLike) -> tuple[Any, Callable[[Any], tuple[Chain, Any]]]:
        """The output, and the function that takes gradients back through all layers.

        Args:
            x: What the first layer takes. It must not be changed before `back` is called.

        Raises:
            ValueError, TypeError: What the layers raise.

        Examples:
            >>> import numpy as np, optirs
            >>> double, add = optirs.Affine(np.array([[2.0]]), np.zeros(1)), optirs.Affine(np.eye(1), np.ones(1))
            >>> y, back = optirs.Chain(double, add).pullback([3.0])
            >>> gradient, dx = back([1.0])
            >>> y, gradient[0].W, dx
            (array([7.], dtype=float32), array([[3.]], dtype=float32), array([2.], dtype=float32))
        """
        backs = []
        y: Any = _rows(x)
        for layer in self.layers:
            y, back = layer.pullback(y)
            backs.append(back)

        def back_through(dy: Any) -> tuple[Chain, Any]:
            gradients = []
            for back in reversed(backs):
                gradient, dy = back(dy)
                gradients.append(gradient)
            # Not through `__init__`: the gradient of a layer may be None, or a dict.
            chain = object.__new__(Chain)
            chain.layers = tuple(reversed(gradients))
            return chain, dy

        return y, back_through


def _parameters(chain: Chain) -> Iterator[Any]:
    """What stands in the places of the built-in layers' arrays."""
    for layer in chain.layers:
        kind = type(layer)
        if kind is Dense or kind is Affine:
            yield layer.W
            yield layer.b
        elif kind is Chain:
            yield from _parameters(layer)


def _rows(x: Any) -> Any:
    """`x` for the first layer: numbers as float32, anything else as it is."""
    if isinstance(x, (list, tuple, np.ndarray)):
        _core.refuse_masked("Chain: x", x)
    if isinstance(x, (list, tuple)) or np.isscalar(x):
        with _core.Pinned("Chain: x", x):
            return np.asarray(x, np.float32)
    return x
