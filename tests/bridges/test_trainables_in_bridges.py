"""`trainables`, `destructure` and `isnumeric` in functions that a bridge calls: tensors are what arrays are outside."""

import threading
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from libraries import Bridge

import optirs


@optirs.functor
@dataclass
class Layer:
    W: Any
    b: Any

    def penalty(self) -> Any:
        return 0.5 * sum((p**2).sum() for p in optirs.trainables(self))


@optirs.functor(trainable=("scale",))
@dataclass
class Normed:
    scale: Any
    mean: Any
    count: Any


def array(*shape: int, dtype: Any = float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def seen_by(bridge: Bridge, dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type in which a library sees a parameter: autograd sees those of 16 bits in float32."""
    return np.dtype(np.float32) if bridge.name == "autograd" and dtype.itemsize == 2 else dtype


def penalty(model: Any, *_: Any) -> Any:
    return 0.5 * sum((p**2).sum() for p in optirs.trainables(model))


def flat_penalty(model: Any, *_: Any) -> Any:
    return 0.5 * (optirs.destructure(model)[0] ** 2).sum()


def models() -> dict[str, Any]:
    W, wide = array(3, 3), array(2, 3)
    return {
        "dict": {"w": array(3), "b": array(1), "name": "linear"},
        "layers": {"layers": [Layer(array(2, 3), array(2)), (Layer(array(1, 2), array(1)),)], "n": 3},
        "tied": {"a": W, "b": [W, W.T], "c": array(2)},
        "transpose first": [wide.T, {"again": wide, "once more": wide.T}],
        "untrained": {"norm": Normed(array(2), array(2), np.array(3)), "ids": np.arange(3), "odd": np.ones(2, bool)},
        "layouts": [np.asfortranarray(array(3, 4)), array(6, 6)[::2, ::-3], np.array(1.5), np.empty((0, 2)), array(1)],
        "types": [array(2, dtype="f"), array(3), array(2, dtype="float16")],
    }


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("loss", [penalty, flat_penalty])
def test_a_penalty_on_all_parameters(bridge: Bridge, name: str, loss: Any) -> None:
    model = models()[name]
    rtol = 1e-3 if name == "types" else 1e-6
    value, grad = bridge.make(loss)(model)
    expected = sum(0.5 * (p.astype(float) ** 2).sum() for p in optirs.trainables(model))
    assert value == pytest.approx(expected, rel=rtol)
    assert bridge.make(loss).loss(model) == pytest.approx(expected, rel=rtol)
    assert float(penalty(model)) == pytest.approx(expected, rel=rtol)  # the same function, called by hand
    parameters, found = (optirs.trainables(tree) for tree in (model, grad))
    assert len(found) == len(parameters)
    for p, g in zip(parameters, found, strict=True):
        assert g.dtype == seen_by(bridge, p.dtype)
        np.testing.assert_allclose(g.astype(float), p.astype(float), rtol=rtol)


def test_it_trains(bridge: Bridge) -> None:
    """Ridge regression has a solution in closed form."""
    x, y = array(20, 3), array(20, seed=1)
    loss = lambda model, x, y: ((x @ model["w"] - y) ** 2).sum() + penalty(model)  # noqa: E731
    trained = optirs.train(bridge.make(loss), {"w": np.zeros(3)}, (x, y), optirs.Descent(0.01), epochs=300)
    np.testing.assert_allclose(trained.model["w"], np.linalg.solve(2 * x.T @ x + np.eye(3), 2 * x.T @ y), rtol=1e-4)


def test_ties_and_paths(bridge: Bridge) -> None:
    W = array(2, 3)
    model = {"out": W.T, "layers": [Layer(W, array(2)), W.T], "name": "tied"}
    seen: dict[str, Any] = {}

    def f(model: Any) -> Any:
        seen["all"] = optirs.trainables(model, path=True)
        seen["part"] = optirs.trainables(model["layers"], path=True)
        seen["same"] = seen["all"][0][1] is model["out"], seen["part"][0][1] is model["layers"][0].W
        return seen["part"][0][1].sum()

    bridge.make(f)(model)
    for key, tree in (("all", model), ("part", model["layers"])):
        expected = [(path, p.shape) for path, p in optirs.trainables(tree, path=True)]
        assert [(path, tuple(p.shape)) for path, p in seen[key]] == expected
        assert all(type(path) is optirs.KeyPath for path, _ in seen[key])
    assert seen["same"] == (True, True)


def test_methods_of_layers(bridge: Bridge) -> None:
    layer = Layer(array(2, 3), array(2))
    _, grad = bridge.make(lambda model: model["layer"].penalty())({"layer": layer, "other": array(2)})
    np.testing.assert_allclose(grad["layer"].W, layer.W)
    assert grad["other"] is None or (grad["other"] == 0).all()


def test_what_is_numeric(bridge: Bridge) -> None:
    xp = bridge.xp
    own = bridge.scalar(np.ones(2)) if bridge.name != "autograd" else [1.0]
    model = {
        "w": array(3), "half": array(2, dtype="float16"), "norm": Normed(array(2), array(2), np.array(3)),
        "ids": np.arange(3), "odd": np.ones(2, bool), "own": own, "n": 2.5, "name": "text",
    }  # fmt: skip
    seen: dict[str, Any] = {}

    def f(model: Any, x: Any, i: Any) -> Any:
        norm, is_numeric = model["norm"], optirs.isnumeric
        seen["yes"] = [is_numeric(t) for t in (model["w"], model["half"], norm.scale, norm.mean, x, model["w"] * x)]
        rest = [norm.count, *(model[key] for key in ("ids", "odd", "own", "n", "name")), i, model["w"] > 0]
        seen["no"] = [is_numeric(t) for t in rest]
        seen["paths"] = [str(path) for path, _ in optirs.trainables(model, path=True)]
        seen["below"] = [
            str(path) for path, _ in optirs.trainables({"mean": norm.mean, "own": model["own"]}, path=True)
        ]
        return xp.sum(model["w"] * x)

    bridge.make(f)(model, array(3), np.arange(2))
    assert seen["yes"] == [True] * 6
    assert seen["no"] == [False] * 8
    assert seen["paths"] == [str(path) for path, _ in optirs.trainables(model, path=True)]
    assert seen["below"] == ["mean"]
    assert optirs.isnumeric(bridge.scalar(1.5)) == (bridge.name == "autograd")  # whose constants are NumPy's


def test_what_is_computed_of_parameters_is_numeric(bridge: Bridge) -> None:
    def f(model: Any) -> Any:
        doubled = {key: 2 * p for key, p in model.items()}
        assert len(optirs.trainables([doubled, model])) == 4
        return penalty(doubled)

    model = {"w": array(3), "b": array(2)}
    _, grad = bridge.make(f)(model)
    for key, p in model.items():
        np.testing.assert_allclose(grad[key], 4 * p)


def test_arrays_of_numpy_stay_what_they_are(bridge: Bridge) -> None:
    kept = {"first": array(2), "second": np.ones(3)}
    kept["third"] = kept["first"]

    def f(model: Any) -> Any:
        assert optirs.trainables(kept)[0] is kept["first"]
        assert [str(path) for path, _ in optirs.trainables([kept, model], path=True)] == [
            "[0].first", "[0].second", "[1].w",
        ]  # fmt: skip
        assert optirs.destructure(kept)[0].tolist() == [*kept["first"], 1, 1, 1]
        return penalty(model)

    bridge.make(f)({"w": array(3)})


def test_a_vector_and_back(bridge: Bridge) -> None:
    W = array(2, 3)
    model = {"W": W, "again": [W.T], "rest": Normed(np.array(0.5), array(2), np.array(3)), "name": "text"}
    seen: dict[str, Any] = {}

    def f(model: Any) -> Any:
        flat, restructure = optirs.destructure(model)
        new = restructure(3 * flat)
        seen.update(shape=tuple(flat.shape), length=len(restructure), name=new["name"], kind=type(new["rest"]))
        seen["paths"] = [[str(path) for path, _ in optirs.trainables(m, path=True)] for m in (model, new)]
        seen["types"] = [(str(p.dtype), tuple(p.shape)) for p in (new["W"], new["again"][0], new["rest"].scale)]
        assert new["rest"].mean is model["rest"].mean
        return penalty(new) + (new["again"][0] ** 2).sum()

    _, grad = bridge.make(f)(model)
    np.testing.assert_allclose(grad["W"], 9 * W + 18 * W)
    np.testing.assert_allclose(grad["rest"].scale, 4.5)
    assert seen["shape"] == (7,)
    assert (seen["length"], seen["name"], seen["kind"]) == (7, "text", Normed)
    assert seen["paths"] == [["W", "rest.scale"]] * 2
    dtype = "torch.float64" if bridge.name == "torch" else "float64"
    assert seen["types"] == [(dtype, (2, 3)), (dtype, (3, 2)), (dtype, ())]


@pytest.mark.parametrize(
    ("dtypes", "promoted"),
    [
        (["float16"], "float16"),
        (["bfloat16"], "bfloat16"),
        (["float16", "bfloat16"], "float32"),
        (["float32", "float64"], "float64"),
        (["float32", "complex64"], "complex64"),
    ],
)
def test_types_of_vectors(bridge: Bridge, dtypes: list[str], promoted: str) -> None:
    kinds = [np.dtype(getattr(ml_dtypes, name, name)) for name in dtypes]
    seen: list[Any] = []

    def f(model: Any) -> Any:
        flat, restructure = optirs.destructure(model)
        seen.extend([flat.dtype, *(p.dtype for p in restructure(flat))])
        return bridge.xp.sum(bridge.xp.abs(flat))

    _, grad = bridge.make(f)([np.ones(2, kind) for kind in kinds])
    assert [g.dtype for g in grad] == [seen_by(bridge, kind) for kind in kinds]
    np.testing.assert_array_equal([g.astype("complex64") for g in grad], 1)
    expected = [str(seen_by(bridge, np.dtype(getattr(ml_dtypes, name, name)))) for name in (promoted, *dtypes)]
    assert [str(dtype).removeprefix("torch.") for dtype in seen] == expected


def test_a_vector_that_is_the_model(bridge: Bridge) -> None:
    """`destructure` outside, `restructure` inside: as one hands a model to an optimiser of vectors."""
    W = array(2, 3)
    flat, restructure = optirs.destructure({"W": W, "again": W.T, "b": array(2, dtype="f")})

    def f(model: Any, x: Any) -> Any:
        net = restructure(model["flat"])
        assert len(optirs.trainables(net)) == 2
        return ((net["again"].T @ x + net["b"]) ** 2).sum()

    _, grad = bridge.make(f)({"flat": flat}, np.ones(3))
    y = W.sum(axis=1) + flat[6:]
    np.testing.assert_allclose(grad["flat"], [*np.repeat(2 * y, 3), *(2 * y)], rtol=1e-6)


def test_errors_of_vectors(bridge: Bridge) -> None:
    def wrong(act: Any) -> Any:
        return bridge.make(lambda model: act(*optirs.destructure(model), model))

    model = {"w": array(3)}
    with pytest.raises(ValueError, match=r"restructure takes a vector of length 3, got shape \(2,\)"):
        wrong(lambda flat, restructure, _: restructure(flat[:2]))(model)
    with pytest.raises(ValueError, match=r"restructure takes a vector of length 3, got shape \(3, 1\)"):
        wrong(lambda flat, restructure, _: restructure(flat.reshape(3, 1)))(model)
    with pytest.raises(TypeError, match=r"restructure takes real numbers, got .*complex"):
        wrong(lambda flat, restructure, _: restructure(flat * 1j))(model)
    with pytest.raises(TypeError, match=r"restructure.gradient takes gradients of NumPy's arrays"):
        wrong(lambda flat, restructure, model: restructure.gradient(model))(model)


def test_a_bridge_in_a_bridge(bridge: Bridge) -> None:
    """What is inside one is no array of the other."""
    inner = optirs.with_autograd(penalty)

    def f(model: Any) -> Any:
        scale, _ = inner({"v": np.full(2, 2.0)})
        return scale * penalty(model)

    _, grad = bridge.make(f)({"w": array(3)})
    np.testing.assert_allclose(grad["w"], 4 * array(3))


def test_other_threads_and_errors_are_outside(bridge: Bridge) -> None:
    seen: list[Any] = []

    def f(model: Any, fail: bool) -> Any:
        thread = threading.Thread(target=lambda: seen.append(optirs.isnumeric(model["w"])))
        thread.start()
        thread.join()
        seen.append(optirs.isnumeric(model["w"]))
        kept.append(model["w"])
        return 1 / 0 if fail else penalty(model)

    kept: list[Any] = []
    gradient = bridge.make(f)
    gradient({"w": array(3)}, False)
    with pytest.raises(ZeroDivisionError):
        gradient({"w": array(3)}, True)
    assert seen == [False, True] * 2
    assert [optirs.isnumeric(tensor) for tensor in kept] == [False, False]


# --- A loss that does not depend on the model


def constant(bridge: Bridge, w: Any) -> Any:
    """`w` as the library has it where it is not differentiated."""
    if bridge.name == "torch":
        return w.detach()
    if bridge.name == "jax":
        import jax

        return jax.lax.stop_gradient(w)
    return bridge.xp.round(w)


@pytest.mark.parametrize("jit", [True, False])
def test_a_loss_without_the_model(bridge: Bridge, jit: bool) -> None:
    xp, options = bridge.xp, {"jit": jit} if bridge.name == "jax" else {}
    independent = [
        lambda model, x: bridge.scalar(1.0),
        lambda model, x: xp.sum(x if bridge.name != "autograd" else xp.array(x)),
        lambda model, x: xp.sum(constant(bridge, model["w"]) * x),
        lambda model, x: xp.sum(x) * len(optirs.trainables(model)),
    ]
    for f in independent:
        gradient = bridge.make(f, **options)
        for _ in range(2):
            with pytest.raises(ValueError, match=rf"with_{bridge.name}: .* does not depend on any parameter of the m"):
                gradient({"w": array(3)}, np.ones(3))
        assert isinstance(gradient.loss({"w": array(3)}, np.ones(3)), float)
    with pytest.raises(ValueError, match=f"with_{bridge.name}: the model has no parameters"):
        bridge.make(lambda model, x: bridge.scalar(1.0), **options)({"n": np.arange(3)}, np.ones(3))


@pytest.mark.parametrize("jit", [True, False])
def test_a_derivative_that_is_zero_is_one(bridge: Bridge, jit: bool) -> None:
    xp, options = bridge.xp, {"jit": jit} if bridge.name == "jax" else {}
    below = lambda w: xp.where(w > 100, w, 0 * w)  # noqa: E731
    for f in (
        lambda w: (0 * w).sum(),
        lambda w: below(w).sum(),
        lambda w: (w[:0] * 1.0).sum(),
        lambda w: (w - w).sum(),
    ):
        loss, grad = bridge.make(lambda model, f=f: f(model["w"]), **options)({"w": array(3), "v": array(2)})
        assert loss == 0
        np.testing.assert_array_equal(grad["w"], 0)
