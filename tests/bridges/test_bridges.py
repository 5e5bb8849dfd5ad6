"""`with_autograd`, `with_jax`, `with_torch`. Those of JAX and PyTorch run where they are installed: `make peers`."""

import importlib
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from libraries import LIBRARIES

import optirs

DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


@optirs.functor
@dataclass
class Dense:
    W: np.ndarray
    b: np.ndarray
    activation: Any = None

    def __post_init__(self):
        raise AssertionError("models are rebuilt without this")

    def __call__(self, x):
        y = x @ self.W.T + self.b
        return y if self.activation is None else self.activation(y)


@optirs.functor(trainable=("W",))
@dataclass
class Scaled:
    W: np.ndarray
    mean: Any
    steps: Any = 0


def dense(W, b, activation=None):
    """A layer past its __init__."""
    layer = object.__new__(Dense)
    layer.W, layer.b, layer.activation = W, b, activation
    return layer


def network(xp, dtype="float64"):
    rng = np.random.default_rng(1)
    W1, b1, W2, b2 = (rng.normal(size=s).astype(dtype) for s in ((4, 3), (4,), (2, 4), (2,)))
    return {"layers": [dense(W1, b1, xp.tanh), dense(W2, b2)], "name": "small", "size": np.array([3, 4, 2])}


def batch(dtype="float64"):
    rng = np.random.default_rng(2)
    return rng.normal(size=(5, 3)).astype(dtype), rng.normal(size=(5, 2)).astype(dtype)


def squares(model, x, y):
    for layer in model["layers"] if isinstance(model, dict) else [model]:
        x = layer(x)
    return ((x - y) ** 2).sum() / len(y)


def differences(loss, model, *data):
    """The gradient of each parameter of a float64 model, by central differences."""
    found = []
    for array in optirs.trainables(model):
        gradient = np.empty_like(array)
        for i in np.ndindex(array.shape):
            kept = array[i]
            array[i] = kept + 1e-6
            above = loss(model, *data)
            array[i] = kept - 1e-6
            gradient[i] = (above - loss(model, *data)) / 2e-6
            array[i] = kept
        found.append(gradient)
    return found


def test_a_small_network(bridge):
    model = network(bridge.xp)
    before = [a.copy() for a in optirs.trainables(model)]
    gradient = bridge.make(squares)
    loss, grad = gradient(model, *batch())
    assert type(loss) is float
    assert loss == pytest.approx(gradient.loss(model, *batch()), rel=1e-12)
    first, second = grad["layers"]
    assert type(first) is Dense
    assert (grad["name"], grad["size"], first.activation) == (None, None, None)
    found = [first.W, first.b, second.W, second.b]
    for g, expected in zip(found, differences(gradient.loss, model, *batch()), strict=True):
        assert type(g) is np.ndarray
        assert g.dtype == np.float64
        np.testing.assert_allclose(g, expected, rtol=1e-6, atol=1e-8)
    for a, kept in zip(optirs.trainables(model), before, strict=True):
        np.testing.assert_array_equal(a, kept)


def test_it_trains(bridge):
    model = network(bridge.xp, "float32")
    gradient = bridge.make(squares)
    trained = optirs.train(gradient, model, batch("float32"), optirs.Adam(0.02), epochs=300, log_every=100)
    assert trained.history[-1] < trained.history[0] / 100
    assert trained.history.logged[-1][1] == pytest.approx(gradient.loss(trained.model, *batch("float32")))


@pytest.mark.parametrize("first", ["as it is", "transposed"])
def test_a_tied_parameter(bridge, first):
    W = np.random.default_rng(3).normal(size=(2, 3))
    model = {"a": W if first == "as it is" else W.T, "b": [W.T if first == "as it is" else W], "again": W}
    seen = []

    def f(model, x):
        seen.append(model)
        encoder, decoder = (model["a"], model["b"][0]) if first == "as it is" else (model["b"][0], model["a"])
        return ((x @ encoder.T @ decoder.T @ model["again"].T) ** 2).sum()

    gradient = bridge.make(f)
    x = np.random.default_rng(4).normal(size=(5, 3))
    _, grad = gradient(model, x)
    assert grad["b"] == [None]
    assert grad["again"] is None
    np.testing.assert_allclose(grad["a"], differences(gradient.loss, model, x)[0], rtol=1e-6)
    assert seen[0]["again"] is (seen[0]["a"] if first == "as it is" else seen[0]["b"][0]) or first == "transposed"
    state = optirs.setup(optirs.Descent(0.5), model)
    _, new = optirs.update(state, model, grad)
    np.testing.assert_array_equal(new["a"], model["a"] - 0.5 * grad["a"])
    assert new["b"][0].base is not None or new["b"][0] is new["again"]
    assert optirs.trainables(new, path=True)[0][0] == ("a",)
    assert len(optirs.trainables(new)) == 1


def test_the_transpose_of_three_dimensions(bridge):
    W = np.random.default_rng(3).normal(size=(2, 3, 4))
    weights = np.random.default_rng(4).normal(size=(4, 3, 2))
    gradient = bridge.make(lambda model, weights: (model[1] * weights).sum())
    _, grad = gradient([W, W.T], weights)
    np.testing.assert_allclose(grad[0], weights.T)
    assert grad[1] is None


def test_fields_that_are_not_trained(bridge):
    function, opaque = (lambda x: x), object()
    model = {
        "scaled": Scaled(np.ones(2), {"of": [np.full(2, 3.0)]}, np.array(4)),
        "odd": [function, opaque, "text", None, np.array(["a"]), 2.5],
    }

    def f(model, x):
        assert model["odd"][:4] == [function, opaque, "text", None]
        assert model["odd"][4].dtype.kind == "U"
        scaled = model["scaled"]
        return ((x - scaled.mean["of"][0]) * scaled.W * scaled.steps * model["odd"][5]).sum()

    loss, grad = bridge.make(f)(model, np.array([4.0, 5.0]))
    assert loss == 30
    np.testing.assert_array_equal(grad["scaled"].W, [10, 20])
    assert (grad["scaled"].mean, grad["scaled"].steps, grad["odd"]) == (None, None, [None] * 6)
    state = optirs.setup(optirs.Descent(0.1), model)
    np.testing.assert_allclose(optirs.update(state, model, grad)[1]["scaled"].W, [0, -1])


@pytest.mark.parametrize("rows", [(5, 3), (1, 3), (3,)])
def test_the_rust_affine_is_a_primitive(bridge, rows):
    x = np.random.default_rng(5).normal(size=rows).astype("float32")
    y = np.random.default_rng(6).normal(size=(*rows[:-1], 2)).astype("float32")
    model = optirs.Affine.random(3, 2, rng=optirs.Xoshiro(1))
    batch_size = rows[0] if len(rows) == 2 else 1
    loss, grad = bridge.make(lambda model, x, y: ((model(x) - y) ** 2).sum() / batch_size)(model, x, y)
    expected_loss, expected = optirs.supervised(optirs.mse)(model, x, y)
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert type(grad) is optirs.Affine
    for g, e in ((grad.W, expected.W), (grad.b, expected.b)):
        assert g.dtype == np.float32
        np.testing.assert_allclose(g, e, rtol=1e-5)


def test_the_rust_affine_between_other_layers(bridge):
    """Its gradient by x, by parameters of other types, and where only one of its arguments is traced."""
    rng = np.random.default_rng(7)
    model = {
        "in": rng.normal(size=(3, 3)),
        "affine": optirs.Affine(rng.normal(size=(2, 3)), rng.normal(size=2)),
        "fixed": Scaled(rng.normal(size=2), optirs.Affine(rng.normal(size=(2, 2)), rng.normal(size=2))),
        "bias": rng.normal(size=2),
    }

    def with_rust(model, x):
        h = model["affine"](bridge.xp.tanh(x @ model["in"]))
        h = model["fixed"].mean(h) * model["fixed"].W
        return (optirs.affine_forward(np.eye(2, dtype="f"), model["bias"], h) ** 2).sum()

    def without(model, x):
        h = bridge.xp.tanh(x @ model["in"]) @ model["affine"].W.T + model["affine"].b
        h = (h @ model["fixed"].mean.W.T + model["fixed"].mean.b) * model["fixed"].W
        return ((h + model["bias"]) ** 2).sum()

    x = rng.normal(size=(5, 3))
    (loss, grad), (expected_loss, expected) = bridge.make(with_rust)(model, x), bridge.make(without)(model, x)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for get in (lambda g: g["in"], lambda g: g["affine"].W, lambda g: g["affine"].b, lambda g: g["fixed"].W):
        assert get(grad).dtype == np.float64
        np.testing.assert_allclose(get(grad), get(expected), rtol=1e-4)
    np.testing.assert_allclose(grad["bias"], expected["bias"], rtol=1e-4)
    assert grad["fixed"].mean is None


def gradient_by(bridge, f, x):
    """The gradient of `f` at `x`, which can be differentiated again."""
    if bridge.name != "torch":
        return importlib.import_module(bridge.name).grad(f)(x)
    x = x.clone().requires_grad_()
    (gradient,) = bridge.xp.autograd.grad(f(x), x, create_graph=True)
    return gradient


@pytest.mark.parametrize("rows", [(5, 3), (1, 3), (3,)])
def test_the_rust_affine_is_differentiated_twice(bridge, rows):
    """As a penalty on the slope of a network asks for."""

    def penalty(layer):
        def f(model, x):
            network = lambda x: (bridge.xp.tanh(layer(model["a"], bridge.xp.tanh(layer(model["b"], x))))).sum()  # noqa: E731
            return (gradient_by(bridge, network, x) ** 2).sum()

        return bridge.make(f)

    random = optirs.Xoshiro(1)
    model = {"b": optirs.Affine.random(3, 4, rng=random), "a": optirs.Affine.random(4, 2, rng=random)}
    x = np.random.default_rng(1).normal(size=rows).astype("f")
    loss, grad = penalty(lambda affine, x: affine(x))(model, x)
    expected_loss, expected = penalty(lambda affine, x: x @ affine.W.T + affine.b)(model, x)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    for g, e in zip(optirs.trainables(grad), optirs.trainables(expected), strict=True):
        assert np.abs(e).max() > 1e-3
        np.testing.assert_allclose(g, e, rtol=1e-4, atol=1e-5)


ACTIVATIONS = ("identity", "relu", "tanh", "sigmoid", "gelu", "softplus")


def same_as_supervised(bridge, model, x, y):
    """Loss and gradient are those of compiled code."""
    gradient = bridge.make(lambda model, x, y: ((model(x) - y) ** 2).sum() / len(y))
    loss, grad = gradient(model, x, y)
    expected_loss, expected = optirs.supervised(optirs.mse)(model, x, y)
    assert gradient.loss(model, x, y) == pytest.approx(expected_loss, rel=1e-5)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert type(grad) is type(model)
    found, wanted = (optirs.trainables(g) for g in (grad, expected))
    assert len(found) == len(wanted) > 0
    for g, e in zip(found, wanted, strict=True):
        assert g.dtype == np.float32
        np.testing.assert_allclose(g, e, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense_layers(bridge, activation):
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(6, 3)).astype("f"), rng.normal(size=(6, 2)).astype("f")
    x[0] = 0  # where relu has its corner, as b = 0
    same_as_supervised(bridge, optirs.Dense.glorot(3, 2, activation, rng=optirs.Xoshiro(1)), x, y)


def test_a_chain_of_all_kinds_of_layers(bridge):
    rng, random = np.random.default_rng(9), optirs.Xoshiro(2)
    layers = [optirs.Dense.glorot(4, 4, name, rng=random) for name in ACTIVATIONS]
    model = optirs.Chain(
        optirs.Affine.random(3, 4, rng=random), optirs.Chain(*layers), optirs.Dense.glorot(4, 2, rng=random)
    )
    x, y = rng.normal(size=(6, 3)).astype("f"), rng.normal(size=(6, 2)).astype("f")
    same_as_supervised(bridge, model, x, y)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dense_layers_far_from_zero(bridge, activation):
    """No overflow, neither in the value nor in the slope; each input has its own weight, so no sum hides one."""
    z = np.array([-1e30, -200, -30, 30, 200, 1e30], "f")
    model = optirs.Dense(z[:, None].copy(), np.zeros(6, "f"), activation)
    one = np.ones((1, 1), "f")
    _, grad = bridge.make(lambda model, x: model(x).sum())(model, one)
    _, back = model.pullback(one)
    np.testing.assert_allclose(grad.b, back(np.ones((1, 6), "f"))[0].b, rtol=1e-5, atol=1e-12)


def test_a_model_of_arrays_on_a_traced_input(bridge):
    """The gradient by what a layer takes, where the layer itself is not trained."""
    layer = optirs.Dense.glorot(3, 2, "tanh", rng=optirs.Xoshiro(1))
    chain = optirs.Chain(optirs.Dense.glorot(3, 3, "gelu", rng=optirs.Xoshiro(2)), layer)
    x = np.random.default_rng(3).normal(size=(5, 3)).astype("f")
    for fixed in (layer, chain):
        _, grad = bridge.make(lambda model, fixed=fixed: (fixed(model["x"]) ** 2).sum())({"x": x})
        y, back = fixed.pullback(x)
        np.testing.assert_allclose(grad["x"], back(2 * y)[1], rtol=1e-4, atol=1e-6)


def test_errors_of_the_rust_affine(bridge):
    model = optirs.Affine.random(3, 2, rng=optirs.Xoshiro(1))
    gradient = bridge.make(lambda model, x: model(x).sum())
    with pytest.raises(ValueError, match=r"affine_forward: x has shape \(5, 4\), W \(2, 3\) takes"):
        gradient(model, np.ones((5, 4), "f"))
    with pytest.raises(TypeError, match="affine_forward: x must be an array of real numbers"):
        gradient(model, np.ones((5, 3), "complex64"))
    wrong = bridge.make(lambda model, x: optirs.affine_forward(model["W"], model["b"], x).sum())
    with pytest.raises(ValueError, match=r"affine_forward: b has shape \(3,\), W \(2, 3\) takes \(2,\)"):
        wrong({"W": np.ones((2, 3), "f"), "b": np.ones(3, "f")}, np.ones(3, "f"))
    with pytest.raises(ValueError, match=r"affine_forward: W has shape \(3,\), it must be"):
        wrong({"W": np.ones(3, "f"), "b": np.ones(3, "f")}, np.ones(3, "f"))


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_parameters_descend(bridge, dtype):
    target = np.array([1 + 2j, -3 + 0.5j], dtype)
    xp = bridge.xp
    gradient = bridge.make(lambda model, target: xp.sum(xp.abs(model["z"] * 1j - target) ** 2))
    model = {"z": np.array([0.5 - 1j, 2 + 2j], dtype)}
    loss, grad = gradient(model, target)
    assert grad["z"].dtype == dtype
    np.testing.assert_allclose(grad["z"], 2 * (model["z"] * 1j - target) * -1j, rtol=1e-5)
    _, new = optirs.update(optirs.setup(optirs.Descent(0.5), model), model, grad)
    assert gradient.loss(new, target) < 1e-6 * loss


@pytest.mark.parametrize("dtype", DTYPES)
def test_types_are_kept(bridge, dtype):
    xp, kind = bridge.xp, np.dtype(getattr(ml_dtypes, dtype, dtype))
    model = [np.array([1, 2], kind), np.array([[3]], kind)]
    seen = []

    def f(model):
        seen.append(str(model[0].dtype).removeprefix("torch."))
        return xp.sum(xp.abs(model[0])) + xp.sum(xp.abs(model[1]))

    loss, grad = bridge.make(f)(model)
    assert loss == 6
    expected = "float32" if bridge.name == "autograd" and kind.itemsize == 2 else dtype
    assert [g.dtype.name for g in grad] == [expected, expected]
    np.testing.assert_array_equal(grad[0].astype("complex64"), [1, 1])
    assert bridge.name == "autograd" or seen == [dtype]


def test_layouts(bridge):
    base = np.arange(24.0).reshape(4, 6)
    read_only = np.arange(3.0)
    read_only.flags.writeable = False
    model = {
        "fortran": np.asfortranarray(base),
        "slice": base.copy()[::2, 1::3],
        "backwards": np.arange(4.0)[::-1],
        "swapped": np.arange(3.0).astype(">f8"),
        "read only": read_only,
        "0-d": np.array(2.0),
        "empty": np.empty((0, 3)),
    }
    kept = {key: x.copy() for key, x in model.items()}
    loss, grad = bridge.make(lambda model: sum((x**2).sum() for x in model.values()))(model)
    assert loss == sum((x**2).sum() for x in model.values())
    for key, x in model.items():
        np.testing.assert_array_equal(x, kept[key])
        assert grad[key].shape == x.shape
        np.testing.assert_array_equal(grad[key], 2 * x)
    writable = {key: x.copy() if key == "read only" else x for key, x in model.items()}
    _, new = optirs.update_(optirs.setup(optirs.Descent(0.5), writable), writable, grad)
    assert all((x == 0).all() for x in new.values())


@pytest.mark.parametrize("second", [lambda v: v, lambda v: v.T, lambda v: v.reshape(2, 2)])
def test_gradients_that_are_equal_are_not_one(bridge, second):
    """Of two arrays on one memory a tree would make one parameter."""
    model = {"w": np.ones((2, 2)), "v": np.ones((2, 2)), "empty": np.ones((0, 2)), "no": np.ones((0, 2))}
    _, grad = bridge.make(lambda m: ((m["w"] + second(m["v"])) ** 2).sum() + (m["empty"] + m["no"]).sum())(model)
    assert len(optirs.trainables(grad)) == 4
    assert not np.shares_memory(grad["w"], grad["v"])


def test_a_parameter_that_is_not_used(bridge):
    model = {"used": np.ones(2), "not": np.ones(3)}
    _, grad = bridge.make(lambda model: model["used"].sum())(model)
    np.testing.assert_array_equal(grad["used"], 1)
    if bridge.name == "torch":
        assert grad["not"] is None
    else:
        np.testing.assert_array_equal(grad["not"], 0)


@pytest.mark.parametrize(
    ("f", "error", "text"),
    [
        (lambda model, _: model["w"], ValueError, r"must return a scalar, it returned an array of shape \(2,\)"),
        (lambda model, _: model["w"][:1], ValueError, r"must return a scalar, it returned an array of shape \(1,\)"),
        (lambda model, _: model["w"].sum() * 1j, TypeError, "real floating-point number, it returned complex"),
        (lambda model, number: number(1), TypeError, "must return an? .*, it returned int"),
        (lambda model, _: None, TypeError, "must return an? .*, it returned NoneType"),
        (lambda model, _: "text", TypeError, "must return an? .*, it returned str"),
    ],
)
def test_what_is_no_scalar(bridge, f, error, text):
    gradient = bridge.make(f)
    for act in (gradient, gradient.loss):
        with pytest.raises(error, match=f"with_{bridge.name}: .*{text}"):
            act({"w": np.ones(2)}, bridge.scalar)


def test_errors_of_the_function_go_through(bridge):
    with pytest.raises(ZeroDivisionError):
        bridge.make(lambda model: 1 / 0)({"w": np.ones(2)})
    with pytest.raises(TypeError, match=f"with_{bridge.name} takes a function f.model, .batch., got dict"):
        bridge.make({})
    shared = np.ones(4)
    with pytest.raises(ValueError, match="share memory"):
        bridge.make(lambda model: model[0].sum())([shared[1:], shared[:-1]])


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_missing_library_names_the_extra(library, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"with_{library} needs {library}: pip install 'optirs\[{library}\]'"):
        getattr(optirs, f"with_{library}")(abs)


def test_nothing_is_imported_before_it_is_asked_for():
    code = "import sys, optirs; optirs.affine_forward([[1.0]], [1.0], [1.0]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"autograd", "jax", "torch"} & set(done.stdout.split())
