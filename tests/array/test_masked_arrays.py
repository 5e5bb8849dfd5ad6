"""Masked arrays: refused by name wherever an array enters, if something is hidden; else an array like any other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optirs


def hidden(shape: tuple[int, ...] = (2,), dtype: Any = np.float32) -> Any:
    """A masked array whose last element is not to be seen."""
    array = np.ma.masked_array(np.ones(shape, dtype), mask=np.zeros(shape, bool))
    array[(-1,) * len(shape)] = np.ma.masked
    array.data[(-1,) * len(shape)] = 1e4
    return array


def shown(array: Any) -> Any:
    """The same with nothing masked, and other values."""
    return np.ma.masked_array(array.data.clip(max=2), mask=False) if array.size % 2 else array.data.view(type(array))


class Halving(optirs.Rule):
    """A rule of one's own."""

    def init(self, x: Any) -> Any:
        return np.zeros_like(x)

    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        return state, 0.5 * dx


DESCENT = optirs.Descent(1.0)
RULES = [DESCENT, optirs.Adam(), optirs.OptimiserChain(optirs.ClipNorm(), optirs.Momentum()), Halving()]
RULES += [optirs.MixedPrecision(optirs.Adam(), "float64")]
MSE = optirs.supervised(optirs.mse)
W, B, X, Y = (np.ones(shape, np.float32) for shape in ((2, 3), (2,), (4, 3), (4, 2)))
LAYER = optirs.Affine(W, B)
PARTS = "{n} of {size} elements masked"


def refused(call: Callable[[], Any], place: str, size: int) -> None:
    with pytest.raises(TypeError) as caught:
        call()
    text = str(caught.value)
    assert text.startswith(place), text
    assert f"is a masked array with 1 of {size} elements masked: fill them, .filled(value), or drop their rows" in text


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.complex64])
def test_parameters_and_gradients(rule: optirs.Rule, dtype: Any) -> None:
    x = hidden(dtype=dtype)
    refused(lambda: optirs.setup(rule, {"a": [x]}), "the parameter at a[0]", 2)
    refused(lambda: optirs.setup(rule, {"a": [x], "n": np.zeros(2, int)}), "the array at a[0]", 2)
    refused(lambda: optirs.setup(lambda path, array: rule, {"a": [x]}), "the array at a[0]", 2)
    refused(lambda: optirs.init(rule, x), type(rule).__name__ + ": the parameter", 2)
    plain = np.ones(2, dtype)
    state, one = optirs.setup(rule, {"a": [plain]}), optirs.init(rule, plain)
    for step in (optirs.update, optirs.update_):
        refused(lambda step=step: step(state, {"a": [x]}, {"a": [plain]}), "parameter at a[0]", 2)
        for g in (x, [1.0, np.ma.masked]):
            refused(
                lambda step=step, g=g: step(state, {"a": [plain]}, {"a": [g]}),
                "gradient at a[0]",
                2 if g is x else 1,
            )
    refused(lambda: optirs.apply(rule, one, x, plain), type(rule).__name__ + ": the parameter", 2)
    refused(lambda: optirs.apply(rule, one, plain, x), type(rule).__name__ + ": the gradient", 2)
    np.testing.assert_array_equal(plain, 1)


def test_one_term_of_a_tied_parameter() -> None:
    w = np.ones((2, 3), np.float32)
    model = {"a": w, "b": w.T}
    state = optirs.setup(DESCENT, model)
    refused(lambda: optirs.update(state, model, {"a": w, "b": hidden((3, 2))}), "gradient at b", 6)
    masked = np.ma.masked_array(w, mask=np.eye(2, 3))
    for tied in ({"a": w, "b": masked}, {"a": masked.T, "b": w}):
        with pytest.raises(TypeError, match="masked array with 2 of 6 elements masked"):
            optirs.setup(DESCENT, tied)
        with pytest.raises(TypeError, match="masked array with 2 of 6 elements masked"):
            optirs.destructure(tied)


def test_what_a_rule_of_ones_own_returns() -> None:
    class Masking(Halving):
        def apply(self, state: Any, x: Any, dx: Any) -> Any:
            return state, hidden()

    model = {"w": np.ones(2, np.float32)}
    state = optirs.setup(Masking(), model)
    refused(lambda: optirs.update_(state, model, model), "Masking: its dx", 2)
    np.testing.assert_array_equal(model["w"], 1)


def test_states() -> None:
    plain = np.ones(2, np.float32)
    refused(lambda: optirs.apply(optirs.Momentum(), {"velocity": hidden()}, plain, plain), "Momentum: velocity", 2)


def test_flat_vectors() -> None:
    refused(lambda: optirs.destructure([hidden()]), "the array at [0]", 2)
    _, restructure = optirs.destructure([np.ones(2)])
    refused(lambda: restructure(hidden()), "restructure: the vector", 2)
    refused(lambda: restructure([1.0, hidden((1,))]), "restructure: the vector", 1)
    refused(lambda: restructure.gradient([hidden()]), "gradient at [0]", 2)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "model"
    refused(lambda: optirs.save(path, model={"w": hidden()}), "model.w", 2)
    refused(lambda: optirs.save(path, model={"n": hidden(dtype=int)}), "model.n", 2)
    optirs.save(path, model={"w": shown(hidden()), "n": shown(hidden((3,), int))})
    like = {"w": np.zeros(2, np.float32), "n": np.zeros(3, int)}
    found = optirs.load(path, like=like).model
    assert [type(array) for array in found.values()] == [np.ndarray] * 2
    np.testing.assert_array_equal(found["n"], [1, 1, 2])


@pytest.mark.parametrize("name", ["mse", "mae", "huber", "binary_crossentropy", "crossentropy"])
def test_losses(name: str) -> None:
    loss, one_hot = getattr(optirs, name), np.eye(2, dtype=np.float32)
    y = np.ma.masked_array(one_hot, mask=[[0, 0], [0, 1]])
    for call in (loss, loss.pullback):
        refused(lambda call=call: call(hidden((2, 2)), one_hot), f"{name}: yhat", 4)
        refused(lambda call=call: call(one_hot, y), f"{name}: y", 4)
        refused(lambda call=call: call(one_hot, y.astype(int)), f"{name}: y", 4)
        refused(lambda call=call: call(one_hot, list(y)), f"{name}: y", 2)
    model, x = optirs.Affine(one_hot, np.zeros(2)), np.ones((2, 2))
    gradient = optirs.supervised(loss)
    refused(lambda: gradient(model, x, y), f"{name}: y", 4)
    refused(lambda: gradient.loss(model, x, y), f"{name}: y", 4)
    classes = np.ma.masked_array([0, 1], mask=[0, 1])
    if name == "crossentropy":
        refused(lambda: loss(one_hot, classes), "crossentropy: y", 2)
        assert loss(one_hot, np.ma.masked_array([0, 1])) == loss(one_hot, [0, 1])


def test_layers() -> None:
    refused(lambda: optirs.Affine(hidden((2, 3)), B), "Affine: W", 6)
    refused(lambda: optirs.Dense(W, hidden((2,))), "Dense: b", 2)
    dense = optirs.Dense(W, B, "relu")
    for layer in (LAYER, dense, optirs.Chain(LAYER), optirs.Chain(dense)):
        for x in (hidden((4, 3)), [hidden((3,))], (hidden((3,)),)):
            for call in (layer, layer.pullback):
                with pytest.raises(TypeError, match="x is a masked array with 1 of "):
                    call(x)
        _, back = layer.pullback(X)
        with pytest.raises(TypeError, match="dy is a masked array with 1 of 8 elements masked"):
            back(hidden((4, 2)))
    later = optirs.Chain(optirs.Affine(W.copy(), B))
    later[0].W = hidden((2, 3))
    for act in (later, lambda x: MSE(later, x, Y), lambda x: MSE.loss(later, x, Y)):
        refused(lambda act=act: act(X), "layers[0].W", 6)
    refused(lambda: optirs.affine_forward(hidden((2, 3)), B, X), "affine_forward: W", 6)
    refused(lambda: optirs.affine_forward(W, hidden(), X), "affine_forward: b", 2)
    refused(lambda: optirs.affine_gradient(W, X, hidden((4, 2))), "affine_gradient: dy", 8)


def test_layers_of_ones_own() -> None:
    class Unmasking:
        """A layer that drops masks."""

        def __call__(self, x: Any) -> Any:
            return np.asarray(x)

        def pullback(self, x: Any) -> Any:
            return self(x), lambda dy: (None, dy)

    for model, name in ((Unmasking(), "supervised: x"), (optirs.Chain(Unmasking()), "Chain: x")):
        refused(lambda model=model: MSE(model, hidden((4, 3)), X), "supervised: x", 12)
        refused(lambda model=model: MSE.loss(model, hidden((4, 3)), X), "supervised: x", 12)
        if isinstance(model, optirs.Chain):
            refused(lambda model=model: model(hidden((4, 3))), name, 12)
            refused(lambda model=model: model.pullback(hidden((4, 3))), name, 12)


@pytest.mark.parametrize("callbacks", [[], [lambda event: None]], ids=["compiled", "Python"])
def test_training(callbacks: list[Any]) -> None:
    def run(data: Any, **options: Any) -> Any:
        return optirs.train(MSE, LAYER, data, DESCENT, callbacks=callbacks, **options)

    for options in ({}, {"batch_size": 2}, {"batch_size": 2, "shuffle": True}):
        refused(lambda options=options: run((hidden((4, 3)), Y), **options), "train: data[0]", 12)
        refused(lambda options=options: run((X, hidden((4, 2))), **options), "train: data[1]", 8)
        refused(lambda options=options: run((X, list(hidden((4, 2)))), **options), "train: data[1]", 2)
    refused(lambda: run([(X, Y), (X, hidden((4, 2)))]), "train: batch[1]", 8)
    refused(lambda: run([(X, Y), (hidden((4, 3)), Y)]), "train: batch[0]", 12)
    refused(lambda: run([(X, {"y": hidden((4, 2))})]), "train: batch[1]", 8)
    refused(lambda: optirs.HeldOut(MSE, (X, hidden((4, 2)))), "HeldOut: data[1]", 8)
    refused(lambda: optirs.train(MSE, {"w": hidden()}, (X, Y), DESCENT), "the parameter at w", 2)
    plain = run((X, Y), epochs=3)
    same = run((shown(hidden((4, 3))).clip(max=1), np.ma.masked_array(Y)), epochs=3)
    assert same.model == plain.model


def test_one_that_hides_nothing_is_an_array() -> None:
    w, g = np.ma.masked_array([1.0, 2.0]), np.ma.masked_array([0.5, 0.5], mask=[False, False])
    for rule in (DESCENT, Halving(), optirs.MixedPrecision(DESCENT, "float64")):
        model = {"w": w.copy()}
        state = optirs.setup(rule, model)
        _, new = optirs.update(state, model, {"w": g})
        optirs.update_(state, model, {"w": g})
        for found in (new["w"], model["w"]):
            np.testing.assert_array_equal(found, [0.75, 1.75] if isinstance(rule, Halving) else [0.5, 1.5])
    assert optirs.mse(w, g) == optirs.mse(w.data, g.data)
    np.testing.assert_array_equal(optirs.destructure([w])[0], w.data)
    np.testing.assert_array_equal(optirs.Affine(np.ma.masked_array(W), np.ma.masked_array(B))(X), LAYER(X))


def test_other_classes_of_arrays(tmp_path: Path) -> None:
    w = np.memmap(tmp_path / "w", np.float32, "w+", shape=(2,))
    g = np.memmap(tmp_path / "g", np.float32, "w+", shape=(2,))
    g[:] = 1
    state = optirs.setup(DESCENT, [w])
    optirs.update_(state, [w], [g])
    np.testing.assert_array_equal(np.fromfile(tmp_path / "w", np.float32), [-1, -1])
    assert optirs.mse(w, g) == 8


def test_bridges() -> None:
    import autograd.numpy as anp

    gradient = optirs.with_autograd(lambda model, x: anp.sum(model["w"] * x))
    refused(lambda: gradient({"w": hidden()}, np.ones(2)), "the array at w", 2)
    refused(lambda: gradient({"w": np.ones(2)}, hidden()), "batch", 2)
    refused(lambda: gradient({"w": np.ones(2), "n": hidden(dtype=int)}, np.ones(2)), "model.n", 2)
    refused(lambda: gradient.loss({"w": np.ones(2)}, hidden()), "batch", 2)


@pytest.mark.peers
@pytest.mark.filterwarnings("default")  # their warnings are theirs
@pytest.mark.parametrize("library", ["jax", "torch"])
def test_bridges_to_tensors(library: str) -> None:
    gradient = getattr(optirs, f"with_{library}")(lambda model, x: (model["w"] * x).sum())
    refused(lambda: gradient({"w": hidden()}, np.ones(2, np.float32)), "the array at w", 2)
    refused(lambda: gradient({"w": np.ones(2, np.float32)}, hidden()), "batch[0]", 2)
    refused(lambda: gradient.loss({"w": np.ones(2, np.float32)}, hidden()), "batch[0]", 2)
    fixed = hidden((4, 3))
    layer = getattr(optirs, f"with_{library}")(lambda model: model(fixed).sum())
    refused(lambda: layer(LAYER), "affine_forward: x", 12)


def test_a_mask_that_only_a_conversion_shows() -> None:
    class Late:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return hidden()

    model = {"w": np.zeros(2, np.float32)}
    state = optirs.setup(DESCENT, model)
    refused(lambda: optirs.update(state, model, {"w": Late()}), "gradient at w", 2)
    refused(lambda: optirs.apply(DESCENT, None, model["w"], Late()), "Descent: the gradient", 2)
    refused(lambda: optirs.mse(Late(), np.zeros(2)), "mse: yhat", 2)
    refused(
        lambda: optirs.affine_forward(np.ones((1, 2), np.float32), np.zeros(1, np.float32), Late()),
        "affine_forward: x",
        2,
    )


def test_batches_of_a_bridge() -> None:
    gradient = optirs.with_autograd(lambda m, batch: (m["w"] * np.asarray(batch["x"][0])).sum())
    refused(lambda: gradient({"w": np.ones(2)}, {"x": [hidden()]}), "batch[0].x[0]", 2)
