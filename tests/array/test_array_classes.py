"""Arrays of classes derived from NumPy's: their memory is what counts, not what their methods and protocols say."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optirs


class Liar(np.ndarray):
    """An array whose every answer in Python is wrong."""

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return np.full(1, 7.0) if func.__name__ in ("empty_like", "zeros_like", "ravel", "copy") else False

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        return np.full(1, 7.0)

    def __array_wrap__(self, *args: Any, **kwargs: Any) -> Any:
        return np.full(1, 7.0)

    def _lie(self, *args: Any, **kwargs: Any) -> Any:
        return np.full(1, 7.0).view(Liar)

    astype = copy = view = reshape = ravel = flatten = tobytes = __getitem__ = _lie  # type: ignore[assignment]


def lying(x: np.ndarray) -> np.ndarray:
    return np.ndarray.view(x, Liar)


def memory_mapped(x: np.ndarray, folder: Path) -> np.ndarray:
    mapped = np.memmap(folder / f"{len(list(folder.iterdir()))}.bin", x.dtype, "w+", shape=x.shape)
    mapped[...] = x
    return mapped


@pytest.fixture(params=["liar", "memmap", "matrix", "strided"])
def derived(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[np.ndarray], np.ndarray]:
    return {
        "liar": lying,
        "memmap": lambda x: memory_mapped(x, tmp_path),
        "matrix": lambda x: x.view(type("Derived", (np.ndarray,), {})),
        "strided": lambda x: lying(np.repeat(x, 2, axis=-1)[..., ::2]),
    }[request.param]


RULES = [optirs.Descent(), optirs.Adam(), optirs.MixedPrecision(optirs.Momentum())]


class Own(optirs.Rule):
    def init(self, x: Any) -> Any:
        return np.zeros_like(x)

    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        return state + dx, 0.1 * (state + dx)


ALL = [*RULES, Own(), optirs.MixedPrecision(Own(), np.float64), optirs.OptimiserChain(optirs.ClipGrad(), Own())]


@pytest.mark.parametrize("rule", ALL, ids=repr)
@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_steps(rule: Any, dtype: str, derived: Any) -> None:
    values, gradient = np.linspace(0, 1, 12).reshape(3, 4).astype(dtype), np.linspace(-1, 1, 12).reshape(3, 4)
    model = {"a": values.copy()}
    state = optirs.setup(rule, model)
    expected_state, expected = state, model
    for _ in range(3):
        expected_state, expected = optirs.update(expected_state, expected, {"a": gradient})

    model = {"a": derived(values.copy())}
    state = optirs.setup(rule, model)
    pure_state, pure = state, model
    for _ in range(3):
        pure_state, pure = optirs.update(pure_state, pure, {"a": derived(gradient)})
        assert type(pure["a"]) is np.ndarray
    assert (pure["a"] == expected["a"]).all()
    assert pure_state == expected_state

    for _ in range(3):
        optirs.update_(state, model, {"a": derived(gradient)})
    assert type(model["a"]) is not np.ndarray
    assert (np.asarray(model["a"]) == expected["a"]).all()
    assert state == expected_state


@pytest.mark.parametrize("rule", ALL, ids=repr)
def test_apply(rule: Any, derived: Any) -> None:
    x, dx = np.linspace(0, 1, 12).reshape(3, 4), np.linspace(-1, 1, 12).reshape(3, 4)
    expected = optirs.apply(rule, optirs.init(rule, x), x, dx)[1]
    found = optirs.apply(rule, optirs.init(rule, derived(x)), derived(x), derived(dx))[1]
    assert (found == expected).all()


def test_states(derived: Any) -> None:
    """A state that is given to `apply` may be of any class, too."""
    x, dx = np.linspace(0, 1, 12).reshape(3, 4), np.linspace(-1, 1, 12).reshape(3, 4)
    state = {"velocity": derived(dx.copy())}
    found, _ = optirs.apply(optirs.Momentum(), state, x, dx)
    assert (found["velocity"] == optirs.apply(optirs.Momentum(), {"velocity": dx}, x, dx)[0]["velocity"]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layers_and_losses(dtype: Any, derived: Any) -> None:
    rng = np.random.default_rng(0)
    W, b, x, y = (rng.random(shape).astype(dtype) for shape in ((3, 4), (3,), (5, 4), (5, 3)))

    def results(W: Any, b: Any, x: Any, y: Any) -> list[Any]:
        dense = optirs.Dense(W, b, "tanh")
        loss, gradient = optirs.supervised(optirs.mse)(dense, x, y)
        back = dense.pullback(x)[1](y)
        losses = [optirs.mse(y, y[::-1] if type(y) is np.ndarray else y), optirs.huber.pullback(x, x)[1]]
        return [
            optirs.affine_forward(W, b, x), *optirs.affine_gradient(W, x, y), dense(x), loss, gradient.W, gradient.b,
            back[0].W, back[1], losses[1],
        ]  # fmt: skip

    for found, expected in zip(results(*map(derived, (W, b, x, y))), results(W, b, x, y), strict=True):
        assert type(found) in (np.ndarray, float)
        assert np.array_equal(found, expected)


def test_flat_vectors(derived: Any) -> None:
    values = np.linspace(0, 1, 12).reshape(3, 4)
    flat, restructure = optirs.destructure({"a": derived(values.copy()), "b": derived(values.copy())})
    assert type(flat) is np.ndarray
    assert (flat == np.tile(values.ravel(), 2)).all()
    assert (restructure(derived(flat))["b"] == values).all()
    assert (restructure.gradient({"a": derived(values)}) == np.append(values.ravel(), np.zeros(12))).all()


def test_files_and_copies(derived: Any, tmp_path: Path) -> None:
    values = np.linspace(0, 1, 12).reshape(3, 4)
    path = tmp_path / "model.safetensors"
    optirs.save(path, model={"a": derived(values)})
    assert (optirs.load(path, like={"a": values}).model["a"] == values).all()
    state = optirs.setup(optirs.Adam(), {"a": values})
    assert optirs.digest(state, {"a": derived(values)}) == optirs.digest(state, {"a": values})


def test_training(derived: Any) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 4)), rng.random((40, 2))
    model = optirs.Affine(np.ones((2, 4), np.float32), np.zeros(2, np.float32))

    def losses(x: Any, y: Any, model: Any) -> Any:
        return list(optirs.train(optirs.supervised(optirs.mse), model, (x, y), optirs.Adam(), epochs=3).history)

    expected = losses(x, y, model)
    found = losses(derived(x), derived(y), optirs.Affine(derived(model.W), derived(model.b)))
    assert found == expected
    assert pickle.loads(pickle.dumps(expected)) == expected


def test_ties_and_overlaps(derived: Any) -> None:
    """Two places share memory by where their elements lie; NumPy's own answer is the class's to give."""
    values = np.linspace(0, 1, 12).reshape(3, 4)
    x = derived(values)
    assert optirs.setup(optirs.Descent(), {"a": x, "b": x})["a"] is not None
    with pytest.raises(ValueError, match="share memory"):
        optirs.setup(optirs.Descent(), {"a": x, "b": np.ndarray.view(np.asarray(x)[1:], type(x))})
