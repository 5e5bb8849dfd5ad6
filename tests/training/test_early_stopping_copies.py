"""What `EarlyStopping` keeps is its own: nothing that is done to anything else changes it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import optirs

GRADIENT = optirs.supervised(optirs.mse)


def data() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(20, 2)).astype("f")
    return x, x @ np.array([[1.0], [2.0]], "f")


def affine() -> optirs.Affine:
    return optirs.Affine(np.zeros((1, 2), "f"), np.zeros(1, "f"))


def watched(values: list[float] | None = None, **options: Any) -> optirs.EarlyStopping:
    """One that sees these values, or better ones each time."""
    found = iter(values or np.linspace(1, 0, 100))
    return optirs.EarlyStopping(optirs.HeldOut(lambda *_: next(found), (np.ones(1),), **options), patience=50)


def snapshot(stopping: optirs.EarlyStopping) -> bytes:
    arrays = [
        leaf for _, leaf, _ in optirs.trees.tree.leaves(stopping.model, whole=True) if isinstance(leaf, np.ndarray)
    ]
    return b"".join(a.tobytes() for a in arrays) + repr(stopping.state).encode()


def arrays(*trees: Any) -> list[np.ndarray]:
    """All arrays of models, and of the Leafs of states."""
    found = []
    for tree in trees:
        for _, leaf, _ in optirs.trees.tree.leaves(tree, whole=True):
            states = leaf.state if isinstance(leaf, optirs.Leaf) else leaf
            found += [a for a in flat(states) if isinstance(a, np.ndarray)]
    return found


def flat(value: Any) -> list[Any]:
    if isinstance(value, dict | tuple | list):
        return [x for part in (value.values() if isinstance(value, dict) else value) for x in flat(part)]
    return [value]


RULES: dict[str, Any] = {
    "Adam": optirs.Adam(0.1),
    "a chain": optirs.OptimiserChain(optirs.ClipNorm(1.0), optirs.AccumGrad(3), optirs.Momentum(0.1)),
    "mixed": optirs.MixedPrecision(optirs.Adam(0.1)),
    "scheduled": optirs.Scheduled(optirs.Adam(), eta=optirs.schedules.Cosine(0.1, steps=50)),
    "some": lambda path, _: optirs.Adam(0.1) if path == ("W",) else None,
}


@pytest.mark.parametrize("unit", ["epoch", "step"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("values", [None, [1.0, 0.5] + [2.0] * 20], ids=["the last is best", "an early one is"])
def test_stepping_what_train_returned_does_not_reach_it(rule: str, unit: str, values: Any) -> None:
    x, y = data()
    stopping = watched(values, unit=unit)
    training = optirs.train(GRADIENT, affine(), (x, y), RULES[rule], epochs=8, callbacks=[stopping])
    kept, last = snapshot(stopping), stopping.epoch == 8
    assert last == (values is None)
    assert not any(np.shares_memory(a, b) for a in arrays(stopping.model, stopping.state)
                   for b in arrays(training.model, training.state))  # fmt: skip
    if last:
        assert stopping.state == training.state
        np.testing.assert_array_equal(stopping.model.W, training.model.W)
    for _ in range(4):
        optirs.update_(training.state, training.model, GRADIENT(training.model, x, y - 100)[1])
    optirs.freeze_(training.state)
    assert snapshot(stopping) == kept


def test_it_goes_on_in_a_resumed_training() -> None:
    x, y = data()
    stopping = watched([1.0, 0.5, 0.4, *[2.0] * 4])
    first = optirs.train(GRADIENT, affine(), (x, y), optirs.Adam(0.1), epochs=3, callbacks=[stopping])
    kept = snapshot(stopping)
    optirs.update_(first.state, first.model, GRADIENT(first.model, x, y - 100)[1])
    optirs.train(GRADIENT, first.model, (x, y), state=first.state, epochs=4, callbacks=[stopping])
    assert snapshot(stopping) == kept
    best = optirs.train(GRADIENT, affine(), (x, y), optirs.Adam(0.1), epochs=3)
    again = optirs.train(GRADIENT, stopping.model, (x, y), state=stopping.state, epochs=2)
    expected = optirs.train(GRADIENT, best.model, (x, y), state=best.state, epochs=2)
    np.testing.assert_array_equal(again.model.W, expected.model.W)
    assert snapshot(stopping) == kept


def test_the_last_good_model_of_an_error_is_another() -> None:
    x, y = data()
    losses = iter([1.0, 1.0, math.nan])

    def gradient(model: Any, x: Any, y: Any) -> tuple[float, Any]:
        return next(losses), GRADIENT(model, x, y)[1]

    stopping = watched([3.0, 2.0, 1.0], unit="step")
    with pytest.raises(optirs.NonFiniteLossError) as caught:
        optirs.train(gradient, affine(), (x, y), optirs.Adam(0.1), epochs=5, callbacks=[stopping])
    kept, error = snapshot(stopping), caught.value
    optirs.update_(error.state, error.model, GRADIENT(error.model, x, y)[1])
    assert snapshot(stopping) == kept


@optirs.functor(trainable=("W",))
@dataclass
class Layer:
    W: np.ndarray
    view: Any
    mean: Any
    more: Any


def test_ties_and_what_is_not_trained() -> None:
    W, mean, wide = np.ones((2, 3)), np.zeros(2), np.arange(6.0).reshape(2, 3)
    fixed = np.arange(3.0)
    fixed.flags.writeable = False
    function = [].append
    more: dict[str, Any] = {"again": mean, "wide": wide, "tall": wide.T, "view": mean[:], "count": np.array(0)}
    layer = Layer(W, W.T, mean, {**more, "fixed": fixed, "f": function})
    model = {"layer": layer, "out": W.T, "base": np.ones(2), "ids": np.arange(3)}

    def gradient(model: Any, x: Any) -> tuple[float, Any]:
        model["layer"].more["count"][...] += 1  # as batch normalisation counts
        return 1.0, {"layer": {"W": np.ones((2, 3))}}

    def rule(path: optirs.KeyPath, _: Any) -> optirs.Rule | None:
        return None if path == ("base",) else optirs.Adam(0.1)

    stopping = watched()
    training = optirs.train(gradient, model, (np.ones(2),), rule, epochs=3, callbacks=[stopping])
    best = stopping.model
    assert np.shares_memory(best["layer"].view, best["layer"].W)
    assert [str(path) for path, _ in optirs.trainables(best, path=True)] == ["layer.W", "base"]
    np.testing.assert_array_equal(best["out"], best["layer"].W.T)
    more = best["layer"].more
    assert best["layer"].mean is more["again"] is more["view"]
    assert np.shares_memory(more["wide"], more["tall"])
    np.testing.assert_array_equal(more["tall"], wide.T)
    assert more["fixed"] is fixed
    assert more["f"] is function
    shared = [a for a in arrays(best) for b in arrays(training.model) if np.shares_memory(a, b)]
    assert [a is fixed for a in shared] == [True]
    kept = snapshot(stopping)
    for array in arrays(training.model):
        if array is not fixed:
            array[...] = 77
    assert snapshot(stopping) == kept
    assert more["count"] == 3
