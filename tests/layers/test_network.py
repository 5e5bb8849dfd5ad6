"""`supervised` on built-in layers: differences in float64 for every layer and loss; the bits of the general road."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from networks import ACTIVATIONS, LOSSES, layer, problem

import optirs


@dataclass(frozen=True)
class General:
    """A built-in loss that the compiled road does not know: each layer is asked for its own pullback."""

    loss: Callable[..., float]

    def __call__(self, yhat: Any, y: Any) -> float:
        return self.loss(yhat, y)

    def pullback(self, yhat: Any, y: Any) -> Any:
        return self.loss.pullback(yhat, y)  # type: ignore[attr-defined]


def network(activation: str) -> optirs.Chain:
    last = layer(5, 3, "identity")
    affine = optirs.Affine(last.W, last.b)
    return optirs.Chain(layer(4, 6, activation), optirs.Chain(layer(6, 5, activation), affine))


def bits(tree: Any) -> list[bytes]:
    return [array.tobytes() for array in optirs.trainables(tree)]


def value(arrays: list[np.ndarray], activations: list[str], loss: str, x: np.ndarray, y: np.ndarray) -> float:
    """The loss of the layers whose W and b are `arrays`, in float64."""
    for W, b, activation in zip(arrays[::2], arrays[1::2], activations, strict=True):
        x = ACTIVATIONS[activation](x @ W.T + b)
    return float(LOSSES[loss](x, y).mean())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_finite_differences(activation: str, loss: str) -> None:
    model = network(activation)
    _, y = problem(loss, 7, 3)
    x = np.random.default_rng(3).uniform(-1, 1, (7, 4)).astype(np.float32)
    found, gradient = optirs.supervised(getattr(optirs, loss))(model, x, y)
    arrays = [array.astype(np.float64) for array in optirs.trainables(model)]
    x64, y64, names = x.astype(np.float64), y.astype(np.float64), [activation, activation, "identity"]
    assert found == pytest.approx(value(arrays, names, loss, x64, y64), rel=1e-5)
    for array, slope in zip(arrays, optirs.trainables(gradient), strict=True):
        assert slope.shape == array.shape
        for at in np.ndindex(array.shape):
            kept, ends = array[at], []
            for h in (1e-6, -1e-6):
                array[at] = kept + h
                ends.append(value(arrays, names, loss, x64, y64))
            array[at] = kept
            assert slope[at] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("batch", [0, 1, 64, 1000])
def test_both_roads_give_the_same_bits(activation: str, loss: str, batch: int) -> None:
    model = network(activation)
    _, y = problem(loss, batch, 3)
    x = np.random.default_rng(batch).uniform(-1, 1, (batch, 4)).astype(np.float32)
    fast, general = (optirs.supervised(f) for f in (getattr(optirs, loss), General(getattr(optirs, loss))))
    (a, gradient), (b, expected) = fast(model, x, y), general(model, x, y)
    assert a == b == fast.loss(model, x, y) == general.loss(model, x, y)
    assert bits(gradient) == bits(expected)
    assert type(gradient) is optirs.Chain
    assert gradient[0].activation == activation


def test_a_large_batch_gives_the_same_bits_on_any_number_of_threads() -> None:
    model = optirs.Chain(layer(8, 64, "gelu"), layer(64, 10, "identity"))
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (30_000, 8)).astype(np.float32), rng.integers(10, size=30_000)
    gradient, before, found = optirs.supervised(optirs.crossentropy), optirs.get_num_threads(), []
    for threads in (1, 2, 3):
        optirs.set_num_threads(threads)
        loss, grad = gradient(model, x, y)
        found.append((loss, bits(grad), model(x).tobytes()))
    optirs.set_num_threads(before)
    assert found[0] == found[1] == found[2]


@optirs.functor
@dataclass
class Scale:
    """A layer of the user's own."""

    factor: np.ndarray

    def __call__(self, x: Any) -> Any:
        return x * self.factor

    def pullback(self, x: Any) -> Any:
        return x * self.factor, lambda dy: ({"factor": np.sum(dy * x)}, dy * self.factor)


def test_a_layer_of_ones_own() -> None:
    scale, dense = Scale(np.array(3.0, np.float32)), layer(4, 2, "tanh")
    tripled = optirs.Dense(3 * dense.W, 3 * dense.b, "identity")
    model = optirs.Chain(optirs.Dense(dense.W, dense.b), scale, optirs.Chain(Scale(np.array(0.5, np.float32))))
    x, y = np.ones((3, 4), np.float32), np.zeros((3, 2), np.float32)
    np.testing.assert_allclose(model(x), tripled(x) / 2, rtol=1e-5)
    loss, gradient = optirs.supervised(optirs.mse)(model, x, y)
    state, new = optirs.update(optirs.setup(optirs.Descent(0.01), model), model, gradient)
    assert new[1].factor != scale.factor
    assert optirs.supervised(optirs.mse).loss(new, x, y) < loss
    trained = optirs.train(optirs.supervised(optirs.mse), model, (x, y), state=state, epochs=20)
    assert trained.history[-1] < loss


def test_a_class_derived_from_a_layer_keeps_its_own_methods() -> None:
    class Twice(optirs.Affine):
        def pullback(self, x: Any) -> Any:
            y, back = super().pullback(x)
            return 2 * y, lambda dy: back(2 * dy)

    plain = optirs.Affine(np.ones((1, 2), np.float32), np.zeros(1, np.float32))
    x, y = np.ones((1, 2), np.float32), np.zeros((1, 1), np.float32)
    assert optirs.supervised(optirs.mse)(Twice(plain.W, plain.b), x, y)[0] == 16.0
    assert optirs.supervised(optirs.mse)(plain, x, y)[0] == 4.0


def test_ties_add_up() -> None:
    shared = layer(3, 3, "tanh")
    model = optirs.Chain(shared, shared)
    x, y = np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)
    _, gradient = optirs.supervised(optirs.mse)(model, x, y)
    _, new = optirs.update(optirs.setup(optirs.Descent(1.0), model), model, gradient)
    assert new[0].W is new[1].W
    np.testing.assert_allclose(new[0].W, shared.W - (gradient[0].W + gradient[1].W), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("error", "text", "x", "y"),
    [
        (ValueError, r"x has shape \(2, 5\), the model takes \(4,\) or \(batch, 4\)", np.ones((2, 5)), np.ones((2, 3))),
        (ValueError, r"mse: yhat has shape \(2, 3\), y has \(3,\)", np.ones((2, 4)), np.ones(3)),
        (TypeError, "mse: y must be an array of real numbers", np.ones((2, 4)), None),
        (TypeError, "x must be an array of real numbers, got an array of <U1", np.array([["a"]]), np.ones((2, 3))),
    ],
)
def test_what_is_refused(error: type[Exception], text: str, x: Any, y: Any) -> None:
    with pytest.raises(error, match=text):
        optirs.supervised(optirs.mse)(network("relu"), x, y)


def test_a_step_learns() -> None:
    # Two moons: no line parts them, a small network does.
    rng = np.random.default_rng(0)
    angle, side = rng.uniform(0, np.pi, 400), rng.integers(2, size=400)
    sign = 1 - 2 * side
    x = np.stack([sign * np.cos(angle) + side, sign * np.sin(angle) + side / 2], axis=1) + rng.normal(0, 0.1, (400, 2))
    draw = optirs.Xoshiro(1)
    model = optirs.Chain(optirs.Dense.glorot(2, 16, "tanh", rng=draw), optirs.Dense.glorot(16, 2, rng=draw))
    gradient = optirs.supervised(optirs.crossentropy)
    trained = optirs.train(gradient, model, (x, side), optirs.Adam(0.05), epochs=200)
    assert (trained.model(x).argmax(axis=1) == side).mean() > 0.99
