"""The affine layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from .. import _core
from .._core import Xoshiro, affine_gradient
from .._equality import Compared
from ..trees.tree import functor
from ._base import Float32, check_arrays, check_sizes, generator
from .forward import affine_forward


@functor
@dataclass(eq=False)
class Affine(Compared):
    """The affine layer `y = W x + b`, for rows `y = x @ W.T + b`, computed in float32.

    Args:
        W: Weights, `(n_out, n_in)`.
        b: Bias, `(n_out,)`.

    The arrays are kept as they are, not copied; other dtypes than float32 are converted at every call. A field may
    be `None` where an `Affine` is a gradient.

    Raises:
        TypeError: If W or b is not an array.
        ValueError: If W is not a matrix, b not a vector, or their lengths differ.

    Examples:
        >>> import numpy as np, optirs
        >>> affine = optirs.Affine(np.array([[1.0, 2.0]]), np.array([0.5]))
        >>> affine([[1.0, 1.0], [2.0, 0.0]])
        array([[3.5],
               [2.5]], dtype=float32)

    Source: the `Affine` of the Functors.jl and Optimisers.jl documentation.
    """

    W: npt.NDArray[Any]
    b: npt.NDArray[Any]

    def __post_init__(self) -> None:
        # Only for users: trees of models, states and gradients are rebuilt without it.
        check_arrays("Affine", self.W, self.b)

    @classmethod
    def random(cls, n_in: int, n_out: int, *, rng: Xoshiro | None = None) -> Affine:
        """A layer with W, then b, uniform in [0, 1), in the order in which Julia draws them.

        Args:
            n_in: Length of an input row.
            n_out: Length of an output row.
            rng: Generator; by default a new one, seeded by the operating system.

        Raises:
            TypeError: If the sizes are not integers, or `rng` is another kind of generator.
            ValueError: If a size is negative.

        Examples:
            >>> import optirs
            >>> optirs.Affine.random(3, 2, rng=optirs.Xoshiro(12345)).b
            array([0.07435727, 0.1361165 ], dtype=float32)

        Source: `Affine(rand(rng, Float32, n_out, n_in), rand(rng, Float32, n_out))` in the Julia notebook.
        """
        check_sizes("Affine.random", n_in=n_in, n_out=n_out)
        rng = generator("Affine.random", rng)
        W = rng.rand(n_out, n_in)
        return cls(W, rng.rand(n_out))

    def __call__(self, x: npt.ArrayLike) -> Any:
        """`x @ W.T + b`: `(batch, n_out)` for `x` of `(batch, n_in)`, `(n_out,)` for `(n_in,)`; see `affine_forward`.

        Raises:
            ValueError: If the shapes do not fit.
            TypeError: If `x` is not an array of real numbers.
        """
        return affine_forward(self.W, self.b, x)

    def pullback(self, x: npt.ArrayLike) -> tuple[Float32, Callable[[npt.ArrayLike], tuple[Affine, Float32]]]:
        """The output, and the function that takes gradients back through the layer.

        `back(dy)` is the gradient of `sum(dy * y)`: `(Affine(W=dy.T @ x, b=sum of the rows of dy), dy @ W)`.

        Args:
            x: Rows, `(batch, n_in)` or `(n_in,)`. It must not be changed before `back` is called.

        Raises:
            ValueError: If the shapes do not fit.
            TypeError: If an argument is not an array of real numbers.

        Examples:
            >>> import numpy as np, optirs
            >>> affine = optirs.Affine(np.array([[1.0, 2.0]]), np.array([0.5]))
            >>> y, back = affine.pullback([3.0, 4.0])
            >>> gradient, dx = back([10.0])
            >>> gradient.W, gradient.b, dx
            (array([[30., 40.]], dtype=float32), array([10.], dtype=float32), array([10., 20.], dtype=float32))
        """
        W = self.W

        def back(dy: npt.ArrayLike) -> tuple[Affine, Float32]:
            dW, db, dx = affine_gradient(W, x, dy)
            return Affine(dW, db), dx

        return _core.affine_forward(W, self.b, x), back
