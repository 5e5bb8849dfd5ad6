"""Layers and losses against PyTorch's, values and gradients: `make peers`.

Both compute in float32; each may be off by the rounding of its sums: some units in the last place of what is greatest.
"""

from typing import Any

import numpy as np
import pytest
from networks import ACTIVATIONS, LOSSES, layer, problem

import optirs

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]  # their warnings are theirs

TOLERANCE = 64 * float(np.finfo(np.float32).eps)


def torch_loss(name: str, yhat: Any, y: Any) -> Any:
    """The mean over the batch of the sum over outputs, by PyTorch."""
    import torch.nn.functional as F

    if name == "crossentropy":
        return F.cross_entropy(yhat, y)
    function = {
        "mse": F.mse_loss,
        "mae": F.l1_loss,
        "huber": F.huber_loss,
        "binary_crossentropy": F.binary_cross_entropy_with_logits,
    }[name]
    return function(yhat, y, reduction="sum") / len(y)


def torch_activation(name: str, z: Any) -> Any:
    import torch
    import torch.nn.functional as F

    return {
        "identity": lambda: z,
        "relu": lambda: torch.relu(z),
        "tanh": lambda: torch.tanh(z),
        "sigmoid": lambda: torch.sigmoid(z),
        "gelu": lambda: F.gelu(z, approximate="tanh"),
        "softplus": lambda: F.softplus(z),
    }[name]()


def assert_close(found: Any, expected: Any) -> None:
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("sizes", [(3, 5, 2, 7), (64, 128, 10, 64)])
def test_networks(activation: str, loss: str, sizes: tuple[int, int, int, int]) -> None:
    import torch

    n_in, hidden, n_out, batch = sizes
    model = optirs.Chain(layer(n_in, hidden, activation), layer(hidden, n_out, "identity"))
    for dense in model:
        dense.W /= np.sqrt(dense.W.shape[1])
    x = np.random.default_rng(7).normal(size=(batch, n_in)).astype(np.float32)
    y = problem(loss, batch, n_out)[1]
    found, gradient = optirs.supervised(getattr(optirs, loss))(model, x, y)

    parameters = [torch.from_numpy(array.copy()).requires_grad_() for array in optirs.trainables(model)]
    W, b, V, c = parameters
    rows = torch.from_numpy(x)
    yhat = torch_activation(activation, rows @ W.T + b) @ V.T + c
    expected = torch_loss(loss, yhat, torch.from_numpy(y))
    expected.backward()
    assert found == pytest.approx(expected.item(), rel=TOLERANCE)
    for slope, parameter in zip(optirs.trainables(gradient), parameters, strict=True):
        assert_close(slope, parameter.grad)


@pytest.mark.parametrize("loss", ["crossentropy", "binary_crossentropy"])
def test_logits_of_a_thousand(loss: str) -> None:
    import torch

    rng = np.random.default_rng(1)
    z, y = rng.choice([-1000.0, 0.0, 1000.0], (50, 4)).astype(np.float32), problem(loss, 50, 4)[1]
    value, slope = getattr(optirs, loss).pullback(z, y)
    logits = torch.from_numpy(z).requires_grad_()
    expected = torch_loss(loss, logits, torch.from_numpy(y))
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=TOLERANCE)
    assert_close(slope, logits.grad)
