"""The dense layer: an affine one with an activation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import _core
from .._core import Xoshiro
from .._equality import Compared
from ..trees.tree import functor
from ._base import Float32, check_arrays, check_sizes, generator
from .forward import bridge

ACTIVATIONS = tuple(_core.activations())


@functor(children=("W", "b"))
@dataclass(eq=False)
class Dense(Compared):
    """The dense layer `y = activation(z)`, `z = W x + b`, for rows `z = x @ W.T + b`, computed in float32.

    Args:
        W: Weights, `(n_out, n_in)`.
        b: Bias, `(n_out,)`.
        activation: What is applied to each element of `z`; the default leaves it as it is:

            "identity"    z
            "relu"        max(z, 0)
            "tanh"        tanh(z)
            "sigmoid"     1 / (1 + exp(-z))
            "gelu"        z / 2 * (1 + tanh(sqrt(2 / pi) * (z + 0.044715 * z**3)))
            "softplus"    log(1 + exp(z))

    The arrays are kept as they are, not copied; other dtypes than float32 are converted at every call. None of the
    activations overflows. A field may be `None` where a `Dense` is a gradient.

    Raises:
        TypeError: If W or b is not an array, or the activation is not a name.
        ValueError: If W is not a matrix, b not a vector, their lengths differ, or there is no such activation.

    Examples:
        >>> import numpy as np, optirs
        >>> dense = optirs.Dense(np.array([[1.0, 2.0]]), np.array([-2.0]), "relu")
        >>> dense([[1.0, 1.0], [-1.0, 0.0]])
        array([[1.],
               [0.]], dtype=float32)

    Source: `Dense` of Flux.jl; PyTorch's `Linear` followed by an activation. `gelu` is what PyTorch calls
    `approximate="tanh"`, and JAX by default.
    """

    W: npt.NDArray[Any]
    b: npt.NDArray[Any]
    activation: str = "identity"

    def __post_init__(self) -> None:
        # Only for users: trees of models, states and gradients are rebuilt without it.
        check_arrays("Dense", self.W, self.b)
        _check_activation(self.activation)

    @classmethod
    def glorot(cls, n_in: int, n_out: int, activation: str = "identity", *, rng: Xoshiro | None = None) -> Dense:
        """A layer with W uniform in +-sqrt(6 / (n_in + n_out)), so that variances are kept, and b = 0.

        Args:
            n_in: Length of an input row.
            n_out: Length of an output row.
            activation: Its name, as for `Dense` itself.
            rng: Generator; by default a new one, seeded by the operating system.

        Raises:
            TypeError: If the sizes are not integers, `rng` is another kind of generator, or the activation is not a
                name.
            ValueError: If a size is negative, or there is no such activation.

        Examples:
            >>> import optirs
            >>> layer = optirs.Dense.glorot(64, 32, "tanh", rng=optirs.Xoshiro(1))
            >>> layer.W.shape, bool(abs(layer.W).max() <= 0.25), layer.b.any()
            ((32, 64), True, np.False_)

        Source: X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks",
        AISTATS 2010; `Flux.glorot_uniform`, whose values these are for the same generator.
        """
        check_sizes("Dense.glorot", n_in=n_in, n_out=n_out)
        _check_activation(activation)
        r = generator("Dense.glorot", rng).rand(n_out, n_in)
        W = (r - np.float32(0.5)) * np.sqrt(np.float32(24.0) / np.float32(max(n_in + n_out, 1)))
        return cls(W, np.zeros(n_out, np.float32), activation)

    def __call__(self, x: npt.ArrayLike) -> Any:
        """`activation(x @ W.T + b)`: `(batch, n_out)` for `x` of `(batch, n_in)`, `(n_out,)` for `(n_in,)`.

        If `x`, `W` or `b` is a tensor of PyTorch or JAX, or autograd traces it, so is the result: the affine part is
        `affine_forward`, the activation the library's own.

        Raises:
            ValueError: If the shapes do not fit.
            TypeError: If `x` is not an array of real numbers.
        """
        W, b = self.W, self.b
        if type(x) is not np.ndarray or type(W) is not np.ndarray or type(b) is not np.ndarray:
            library = bridge(W, b, x)
            if library is not None:
                _check_activation(self.activation)
                return library.ACTIVATIONS[self.activation](library.affine(W, b, x))
        return _core.dense_pullback(W, b, self.activation, x)[0]

    def pullback(self, x: npt.ArrayLike) -> tuple[Float32, Callable[[npt.ArrayLike], tuple[Dense, Float32]]]:
        """The output, and the function that takes gradients back through the layer.

        `back(dy)` is the gradient of `sum(dy * y)`: with `dz = dy * activation'(z)`,
        `(Dense(W=dz.T @ x, b=sum of the rows of dz), dz @ W)`.

        Args:
            x: Rows, `(batch, n_in)` or `(n_in,)`. It must not be changed before `back` is called.

        Raises:
            ValueError: If the shapes do not fit.
            TypeError: If an argument is not an array of real numbers.

        Examples:
            >>> import numpy as np, optirs
            >>> dense = optirs.Dense(np.array([[1.0, 2.0]]), np.array([0.5]), "relu")
            >>> y, back = dense.pullback([3.0, 4.0])
            >>> gradient, dx = back([10.0])
            >>> y, gradient.W, gradient.b, dx
            (array([11.5], dtype=float32), array([[30., 40.]], dtype=float32), array([10.], dtype=float32),
             array([10., 20.], dtype=float32))
        """
        W, activation = self.W, self.activation
        y, z = _core.dense_pullback(W, self.b, activation, x)

        def back(dy: npt.ArrayLike) -> tuple[Dense, Float32]:
            dW, db, dx = _core.dense_gradient(W, activation, x, z, dy)
            return Dense(dW, db, activation), dx

        return y, back


def _check_activation(activation: Any) -> None:
    if not isinstance(activation, str):
        raise TypeError(f"Dense: activation must be a name, got {type(activation).__name__}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"Dense: there is no activation {activation!r}; there are: {', '.join(ACTIVATIONS)}")
