"""Gradient functions: anything called `(model, *batch) -> (loss, gradient)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Never

import numpy.typing as npt

from .. import _core
from ._base import Layer
from .losses import Loss, check_targets

_MISSING: Any = object()


@dataclass(frozen=True)
class Supervised:
    """The gradient function that `supervised` makes: `f(model, x, y) -> (loss, gradient)`."""

    criterion: Loss

    @property
    def _built_in(self) -> bool:
        """Whether the compiled module has the loss: on its own layers, one call does it all."""
        return type(self.criterion) is Loss

    def __call__(self, model: Layer, x: npt.ArrayLike, y: npt.ArrayLike = _MISSING, *more: Never) -> tuple[float, Any]:
        """The loss of `model` on the batch, and its gradient: a tree like the model.

        Raises:
            TypeError: If the model has no `pullback`, or the batch is not `x` and `y`.
            ValueError: If shapes do not fit.
        """
        self._check(y, more)
        answer = _core.supervised(self.criterion.__name__, model, x, y) if self._built_in else None
        if answer is not None:
            return answer
        _core.refuse_masked("supervised: x", x)
        yhat, back = _pullback(model)(x)
        loss, dyhat = self.criterion.pullback(yhat, y)
        return loss, back(dyhat)[0]

    def loss(self, model: Layer, x: npt.ArrayLike, y: npt.ArrayLike = _MISSING, *more: Never) -> float:
        """The loss alone, without the cost of the gradient; `train` logs with it."""
        self._check(y, more)
        answer = _core.supervised_loss(self.criterion.__name__, model, x, y) if self._built_in else None
        if answer is not None:
            return answer
        _core.refuse_masked("supervised: x", x)
        yhat, _ = _pullback(model)(x)
        return self.criterion(yhat, y)

    def _check(self, y: Any, more: tuple[Any, ...]) -> None:
        if more:
            raise TypeError(f"supervised: a batch must be (x, y), got {2 + len(more)} arrays")
        if y is _MISSING:
            raise TypeError(
                "supervised: a batch must be (x, y), got x alone; the data of train is a tuple of arrays, (x, y), or a "
                "list of such batches"
            )
        if self._built_in:
            check_targets(self.criterion.__name__, y)


def supervised(loss: Loss) -> Supervised:
    """The gradient function of `loss(model(x), y)`, for the layers of this library.

    Args:
        loss: One of `mse`, `mae`, `huber`, `binary_crossentropy`, `crossentropy`, or anything callable with their
            method `pullback(yhat, y) -> (loss, gradient by yhat)`.

    Returns:
        A function `(model, x, y) -> (loss, gradient)`, for any model with a method `pullback(x) -> (y, back)`,
        `back(dy) -> (gradient of the model, gradient of x)`. Its `.loss(model, x, y)` is the loss alone. The loss is
        of the type to which `model(x)` and `y` promote (`Loss` says how), and `dy` is of that type. Layers of this
        library compute in float32: they round it once, where it enters.

    Raises:
        TypeError: If the loss has no `pullback`; when called, if the model has none.

    Examples:
        >>> import numpy as np, optirs
        >>> model = optirs.Affine(np.array([[1.0, 2.0]]), np.array([0.0]))
        >>> loss, grad = optirs.supervised(optirs.mse)(model, [[1.0, 1.0]], [[0.0]])
        >>> loss, grad.W, grad.b
        (9.0, array([[6., 6.]], dtype=float32), array([6.], dtype=float32))

    Source: the step of the Optimisers.jl tutorial, where Zygote takes the gradient.
    """
    if not (callable(loss) and callable(getattr(loss, "pullback", None))):
        raise TypeError(f"supervised: the loss must have a method pullback(yhat, y), got {_name(loss)}")
    return Supervised(loss)


def _pullback(model: Layer) -> Any:
    pullback = getattr(model, "pullback", None)
    if not callable(pullback):
        raise TypeError(f"supervised: the model must have a method pullback(x), as layers have, got {_name(model)}")
    return pullback


def _name(value: object) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__
