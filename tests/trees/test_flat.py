"""Models as flat vectors."""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest
from scipy.optimize import minimize

import optirs


@optirs.functor
@dataclass(frozen=True)
class Layer:
    W: np.ndarray
    b: np.ndarray
    name: str = "layer"


def model():
    W = np.arange(6, dtype="f").reshape(2, 3)
    return {"first": Layer(W, np.array([6.0, 7], "e")), "rest": (W.T, np.array(8.0), [np.arange(3), "x"])}


def test_flat_is_a_promoted_copy_with_ties_once():
    tree = model()
    flat, restructure = optirs.destructure(tree)
    assert flat.dtype == np.float64
    assert flat.tolist() == list(range(9))
    assert len(restructure) == 9
    assert isinstance(restructure, optirs.Restructure)
    flat[:] = 5
    assert tree["first"].W[0, 0] == 0


def test_flat_of_one_array_is_a_copy():
    x = np.arange(3.0)
    assert not np.shares_memory(optirs.destructure(x)[0], x)
    flat, restructure = optirs.destructure(x)
    new = restructure(flat)
    assert not np.shares_memory(new, flat)


def test_restructure_restores_shapes_types_and_ties():
    tree = model()
    flat, restructure = optirs.destructure(tree)
    new = restructure(flat * 2)
    assert type(new["first"]) is Layer
    assert new["first"].name == "layer"
    assert new["first"].W.dtype == np.float32
    np.testing.assert_array_equal(new["first"].W, 2 * tree["first"].W)
    assert new["first"].b.dtype == np.float16
    assert np.shares_memory(new["rest"][0], new["first"].W)
    np.testing.assert_array_equal(new["rest"][0], 2 * tree["rest"][0])
    assert isinstance(new["rest"][1], np.ndarray)
    assert new["rest"][1] == 16
    assert new["rest"][2][0] is tree["rest"][2][0]
    assert restructure(list(range(9)))["rest"][1] == 8
    again = restructure(np.arange(9))
    assert not np.shares_memory(again["first"].W, new["first"].W)


GRID = np.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize("x", [np.asfortranarray(GRID), GRID[::2, ::-1]])
def test_flat_is_in_c_order(x):
    flat, restructure = optirs.destructure([x])
    np.testing.assert_array_equal(flat, x.ravel())
    np.testing.assert_array_equal(restructure(flat)[0], x)
    np.testing.assert_array_equal(restructure.gradient([x]), x.ravel())


def test_restructure_outlives_changes_of_the_model():
    tree = {"a": [np.ones(2)]}
    _, restructure = optirs.destructure(tree)
    tree["a"].append(np.ones(1))
    tree["b"] = 1
    assert list(restructure([1, 2])) == ["a"]
    assert len(restructure([1, 2])["a"]) == 1


@pytest.mark.parametrize("flat", [np.zeros(8), np.zeros(10), np.zeros((9, 1)), 0.0, [], np.zeros((3, 3))])
def test_wrong_length(flat):
    with pytest.raises(ValueError, match="length 9"):
        optirs.destructure(model())[1](flat)


def test_wrong_type():
    with pytest.raises(TypeError, match="numbers"):
        optirs.destructure(model())[1](["x"] * 9)
    with pytest.raises(TypeError, match="real"):
        optirs.destructure(model())[1](np.zeros(9, complex))


def test_gradient_sums_ties_and_fills_zeros():
    _, restructure = optirs.destructure(model())
    assert restructure.gradient(None).tolist() == [0] * 9
    g = np.arange(6.0).reshape(2, 3)
    flat = restructure.gradient({"first": {"W": g, "b": [1, 2]}, "rest": (g.T, None, None)})
    assert flat.tolist() == [*(2 * g).ravel(), 1, 2, 0]
    assert flat.dtype == np.float64
    assert restructure.gradient({"rest": [None, 3, None]}).tolist() == [0] * 8 + [3]
    with pytest.raises(ValueError, match=r"gradient at first\.b has shape \(3,\), the parameter has \(2,\)"):
        restructure.gradient({"first": {"b": [1, 2, 3]}})
    with pytest.raises(ValueError, match="'z'"):
        restructure.gradient({"z": 1})


@pytest.mark.parametrize(
    ("types", "promoted"),
    [
        ("ee", "e"),
        ("ef", "f"),
        ("fd", "d"),
        ("fF", "F"),
        ("dF", "D"),
        ((ml_dtypes.bfloat16, "e"), "f"),
        ((ml_dtypes.bfloat16, "f"), "f"),
        ((ml_dtypes.bfloat16,) * 2, ml_dtypes.bfloat16),
        ([">f4"], "f"),
    ],
)
def test_promotion(types, promoted):
    tree = [np.ones(2, t) for t in types]
    flat, restructure = optirs.destructure(tree)
    assert flat.dtype == promoted
    assert flat.dtype.isnative
    new = restructure(flat)
    assert [x.dtype for x in new] == [x.dtype for x in tree]
    assert all((x == 1).all() for x in new)
    assert restructure.gradient(tree).dtype == ("f" if flat.itemsize == 2 else promoted)


def test_values_out_of_range_become_infinite():
    _, restructure = optirs.destructure(np.ones(2, "f"))
    assert restructure(np.array([1e300, 1])).tolist() == [np.inf, 1]
    assert restructure.gradient(np.array([1, -1e300])).tolist() == [1, -np.inf]


def test_nothing_trainable():
    flat, restructure = optirs.destructure({"x": 1})
    assert flat.shape == (0,)
    assert len(restructure) == 0
    assert restructure([]) == {"x": 1}
    assert restructure.gradient(None).shape == (0,)


def test_scipy_minimize():
    rng = np.random.default_rng(0)
    X, true = rng.normal(size=(50, 3)), np.array([1.0, -2, 3])
    y = X @ true + 0.5
    flat, restructure = optirs.destructure({"W": np.zeros((1, 3)), "b": [np.zeros(1)]})

    def loss(values):
        tree = restructure(values)
        error = (X @ tree["W"].T + tree["b"][0])[:, 0] - y
        gradient = {"W": (2 * error @ X / 50)[None], "b": [[2 * error.mean()]]}
        return (error**2).mean(), restructure.gradient(gradient)

    found = minimize(loss, flat, jac=True, method="L-BFGS-B")
    assert found.success
    np.testing.assert_allclose(restructure(found.x)["W"][0], true, atol=1e-3)
    np.testing.assert_allclose(restructure(found.x)["b"][0], 0.5, atol=1e-3)
