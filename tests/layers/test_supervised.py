"""`supervised`: what it asks of a loss and a model, and that it is a value."""

from typing import Any

import numpy as np
import pytest
from trainings import GRADIENT, problem

import optirs


def test_supervised() -> None:
    model, (x, y) = problem()
    loss, grad = GRADIENT(model, x, y)
    assert loss == GRADIENT.loss(model, x, y) == optirs.mse(model(x), y)
    _, dy = optirs.mse.pullback(model(x), y)
    for found, expected in zip((grad.W, grad.b), optirs.affine_gradient(model.W, x, dy), strict=False):
        np.testing.assert_array_equal(found, expected)
    assert GRADIENT == optirs.supervised(optirs.mse) != optirs.supervised(optirs.mae)
    for wrong in (3, lambda yhat, y: 0.0, None):
        with pytest.raises(TypeError, match=r"must have a method pullback\(yhat, y\)"):
            optirs.supervised(wrong)  # type: ignore[arg-type]


def test_a_loss_and_a_layer_of_ones_own() -> None:
    class Half:
        def __call__(self, yhat: Any, y: Any) -> float:
            return optirs.mse(yhat, y) / 2

        def pullback(self, yhat: Any, y: Any) -> tuple[float, Any]:
            loss, dyhat = optirs.mse.pullback(yhat, y)
            return loss / 2, dyhat / 2

    model, data = problem()
    loss, grad = optirs.supervised(Half())(model, *data)  # type: ignore[arg-type]
    whole, twice = GRADIENT(model, *data)
    assert loss == whole / 2
    np.testing.assert_allclose(2 * grad.W, twice.W, rtol=1e-6)
