"""Losses: the mean over the batch of the sum over outputs, and their gradients by the prediction."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper

import numpy as np
import numpy.typing as npt

from .. import _core


class Loss:
    """A loss: `loss(yhat, y)` is its value, `loss.pullback(yhat, y)` its value and its gradient by `yhat`.

    For all of them: `yhat` is `(batch, n)`, or `(n,)` for one sample. A loss is of the type to which `yhat` and `y`
    promote: of float64 where one of them is, or is of integers, else of float32 (16-bit types too); class numbers take
    no part. That is the type of the gradient, and no argument is rounded on the way. The arithmetic is float64, sums
    are taken in a fixed order, so equal arguments give equal bits. A batch without rows has the loss 0.0.
    Shapes that differ are a `ValueError`, never broadcast; what is not an array of real numbers is a `TypeError`, and
    so is a masked array that hides some.
    """

    __name__: str

    def __init__(self, function: Callable[[npt.ArrayLike, npt.ArrayLike], float]) -> None:
        update_wrapper(self, function)
        self._value = function

    def __call__(self, yhat: npt.ArrayLike, y: npt.ArrayLike) -> float:
        check_targets(self.__name__, y)
        return self._value(yhat, y)

    def pullback(self, yhat: npt.ArrayLike, y: npt.ArrayLike) -> tuple[float, npt.NDArray[np.float32 | np.float64]]:
        """The loss, and its gradient by `yhat`, of its shape: float64 where `yhat` and `y` promote to it, else float32.

        Args:
            yhat: Predictions, `(batch, n)` or `(n,)`.
            y: Targets, as the loss itself takes them.

        Raises:
            ValueError, TypeError: As the loss itself.

        Examples:
            >>> import numpy as np, optirs
            >>> optirs.mse.pullback([[1.0, 2.0]], [[0.0, 0.0]])
            (5.0, array([[2., 4.]]))
            >>> optirs.mse.pullback(np.ones((1, 2), np.float32), np.zeros((1, 2), np.float32))
            (2.0, array([[2., 2.]], dtype=float32))
        """
        check_targets(self.__name__, y)
        return _core.loss_pullback(self.__name__, yhat, y)

    def __repr__(self) -> str:
        return f"optirs.{self.__name__}"

    def __reduce__(self) -> str:
        # By name, as functions are pickled.
        return self.__name__


def check_targets(loss: str, y: object) -> None:
    """Raises where `y` is nothing at all, or text: NumPy makes an array without dimensions of it.

    Raises:
        TypeError: If it is nothing, or text.
    """
    if y is None or isinstance(y, str):
        raise TypeError(f"{loss}: y must be an array of real numbers, got {type(y).__name__}")


@Loss
def mse(yhat: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Squared error: mean over the batch of the sum over outputs of `(yhat - y)**2`.

    Args:
        yhat: Predictions, `(batch, n)` or `(n,)`.
        y: Targets of the same shape.

    Raises:
        ValueError: If the shapes differ, or are not 1-D or 2-D.
        TypeError: If an argument is not an array of real numbers.

    Examples:
        >>> import optirs
        >>> optirs.mse([[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [3.0, 2.0]])
        2.5
        >>> optirs.mse([[2e9]], [[2e9 + 3]])
        9.0

    Source: the loss of the Optimisers.jl tutorial, `sum(abs2, ŷ - y) / size(y, 2)`. PyTorch's `MSELoss` divides by the
    number of outputs as well.
    """
    return _core.loss("mse", yhat, y)


@Loss
def mae(yhat: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Absolute error: mean over the batch of the sum over outputs of `|yhat - y|`; its slope at 0 is 0.

    Args:
        yhat: Predictions, `(batch, n)` or `(n,)`.
        y: Targets of the same shape.

    Raises:
        ValueError: If the shapes differ, or are not 1-D or 2-D.
        TypeError: If an argument is not an array of real numbers.

    Examples:
        >>> import optirs
        >>> optirs.mae([[1.0, 2.0], [3.0, 4.0]], [[1.0, 1.0], [3.0, 2.0]])
        1.5

    Source: P. S. Laplace (1774); PyTorch's `L1Loss` divides by the number of outputs as well.
    """
    return _core.loss("mae", yhat, y)


@Loss
def huber(yhat: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Huber's loss with delta 1: with `d = |yhat - y|`, the mean over the batch of the sum over outputs of

        d**2 / 2    where d <= 1,    else    d - 1/2.

    Args:
        yhat: Predictions, `(batch, n)` or `(n,)`.
        y: Targets of the same shape.

    Raises:
        ValueError: If the shapes differ, or are not 1-D or 2-D.
        TypeError: If an argument is not an array of real numbers.

    Examples:
        >>> import optirs
        >>> optirs.huber([[0.5, 3.0]], [[0.0, 0.0]])
        2.625

    Source: P. J. Huber, "Robust Estimation of a Location Parameter", Ann. Math. Statist. 35 (1964).
    """
    return _core.loss("huber", yhat, y)


@Loss
def binary_crossentropy(yhat: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Cross-entropy of logits against probabilities: mean over the batch of the sum over outputs of

        max(yhat, 0) - yhat * y + log(1 + exp(-|yhat|)),

    which is `-y log s - (1 - y) log(1 - s)` with `s = 1 / (1 + exp(-yhat))`, without overflow for any finite logit.

    Args:
        yhat: Logits, `(batch, n)` or `(n,)`.
        y: Targets of the same shape in [0, 1].

    Raises:
        ValueError: If the shapes differ, or are not 1-D or 2-D, or a target lies outside of [0, 1].
        TypeError: If an argument is not an array of real numbers.

    Examples:
        >>> import optirs
        >>> optirs.binary_crossentropy([[1000.0], [-1000.0]], [[1.0], [1.0]])
        500.0

    Source: `logitbinarycrossentropy` of Flux.jl, `BCEWithLogitsLoss` of PyTorch.
    """
    return _core.loss("binary_crossentropy", yhat, y)


@Loss
def crossentropy(yhat: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Cross-entropy of logits against classes: the mean over the batch of

        log(sum over k of exp(yhat[k])) - yhat[class]

    computed without overflow; for rows of probabilities `p`, of `-sum over k of p[k] log softmax(yhat)[k]`.

    Args:
        yhat: Logits, `(batch, n)` or `(n,)`. A class may be ruled out by `-inf`.
        y: Class numbers from 0 to n - 1 (integers, one a row), or one-hot rows in the shape of `yhat`; softened rows
            (probabilities that sum to 1) will do as well. A sum may be off by 0.001; in float16 by 0.004, and 6e-8
            more a class; in bfloat16 by 0.032.

    Raises:
        ValueError: If shapes do not fit, a class number is outside of 0 to n - 1, or a row of targets has entries
            outside of [0, 1] or does not sum to 1.
        TypeError: If class numbers are not integers, or an argument is not an array of real numbers.

    Examples:
        >>> import optirs
        >>> loss = optirs.crossentropy([[0.0, 0.0], [1000.0, 0.0]], [0, 1])
        >>> print(f"{loss:.6f}")
        500.346574

    Source: `logitcrossentropy` of Flux.jl, `CrossEntropyLoss` of PyTorch.
    """
    return _core.loss("crossentropy", yhat, y)
