"""Losses against their definitions in float64, finite differences, and what is refused."""

import copy
import math
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import LOSSES as DEFINITIONS
from networks import problem

import optirs

POINTWISE = ["mse", "mae", "huber", "binary_crossentropy"]


def expected_loss(name: str, z: np.ndarray, y: np.ndarray) -> float:
    return float(DEFINITIONS[name](z.astype(np.float64), y.astype(np.float64)).mean())


@pytest.mark.parametrize("name", DEFINITIONS)
@given(batch=st.integers(1, 20), n=st.integers(1, 20))
def test_values_follow_the_definitions(name: str, batch: int, n: int) -> None:
    z, y = problem(name, batch, n)
    loss = getattr(optirs, name)
    value = loss(z, y)
    assert type(value) is float
    assert value == pytest.approx(expected_loss(name, z, y), rel=1e-12, abs=1e-12)
    assert loss.pullback(z, y)[0] == value
    # One sample without a batch dimension.
    assert loss(z[0], y[0]) == pytest.approx(expected_loss(name, z[:1], y[:1]), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_gradients_are_finite_differences(name: str) -> None:
    z, y = problem(name, 4, 3)
    _, gradient = getattr(optirs, name).pullback(z, y)
    assert gradient.dtype == np.float32
    expected = np.zeros(z.shape)
    for at in np.ndindex(z.shape):
        up, down = z.astype(np.float64), z.astype(np.float64)
        up[at] += 1e-5
        down[at] -= 1e-5
        expected[at] = (expected_loss(name, up, y) - expected_loss(name, down, y)) / 2e-5
    np.testing.assert_allclose(gradient, expected, atol=2e-7)
    row = getattr(optirs, name).pullback(z[0], y[0])[1]
    np.testing.assert_allclose(row, 4 * gradient[0], rtol=1e-6)


def test_kinks() -> None:
    _, slope = optirs.mae.pullback([1.0, 2.0, 0.0], [1.0, 1.0, 1.0])
    np.testing.assert_array_equal(slope, [0, 1, -1])
    _, slope = optirs.huber.pullback([1.0, -5.0, 0.5, 2.0], [0.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(slope, [1, -1, 0.5, 1])


def test_class_numbers_are_one_hot_rows() -> None:
    z, one_hot = problem("crossentropy", 6, 4)
    classes = one_hot.argmax(axis=1)
    value, gradient = optirs.crossentropy.pullback(z, one_hot)
    for dtype in ("int64", "int32", "uint8", "uint64", ">i4"):
        again, same = optirs.crossentropy.pullback(z, classes.astype(dtype))
        assert again == value
        np.testing.assert_array_equal(same, gradient)
    assert optirs.crossentropy(z, classes.tolist()) == value
    assert optirs.crossentropy(z, one_hot.astype(int)) == value
    assert optirs.crossentropy(z[0], int(classes[0])) == optirs.crossentropy(z[0], one_hot[0])


def test_softened_targets() -> None:
    z, y = problem("crossentropy", 6, 4)
    y = 0.9 * y + 0.025
    assert optirs.crossentropy(z, y) == pytest.approx(expected_loss("crossentropy", z, np.float32(y)), rel=1e-6)


def test_logits_of_a_thousand() -> None:
    z = np.array([[1000.0, -1000.0], [-1000.0, 1000.0]])
    ones = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert optirs.binary_crossentropy(z, ones) == 0.0
    assert optirs.binary_crossentropy(z, 1 - ones) == 2000.0
    np.testing.assert_array_equal(optirs.binary_crossentropy.pullback(z, 1 - ones)[1], [[0.5, -0.5], [-0.5, 0.5]])
    assert optirs.crossentropy(z, [0, 1]) == 0.0
    assert optirs.crossentropy(z, [1, 0]) == 2000.0
    np.testing.assert_array_equal(optirs.crossentropy.pullback(z, [1, 0])[1], [[0.5, -0.5], [-0.5, 0.5]])


def test_a_class_can_be_ruled_out() -> None:
    for target in (0, [1.0, 0.0]):
        loss, gradient = optirs.crossentropy.pullback([1.0, -math.inf], target)
        assert loss == 0.0
        np.testing.assert_array_equal(gradient, [0.0, 0.0])


@pytest.mark.parametrize("name", DEFINITIONS)
def test_an_empty_batch_has_the_loss_zero(name: str) -> None:
    loss, gradient = getattr(optirs, name).pullback(np.zeros((0, 3)), np.zeros((0, 3)))
    assert (loss, gradient.shape) == (0.0, (0, 3))
    assert optirs.crossentropy(np.zeros((0, 3)), np.zeros(0, int)) == 0.0


@pytest.mark.parametrize("name", DEFINITIONS)
def test_nan_comes_through_without_a_warning(name: str) -> None:
    z, y = problem(name, 3, 2)
    z[1, 0] = math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, gradient = getattr(optirs, name).pullback(z, y)
    assert math.isnan(loss)
    assert math.isnan(gradient[1, 0])
    assert np.isfinite(gradient[0]).all()


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize(("left", "right"), [((4, 1), (4, 3)), ((4, 3), (1, 3)), ((4, 3), (3, 4)), ((3,), (1, 3))])
def test_shapes_that_differ_are_never_broadcast(name: str, left: tuple[int, ...], right: tuple[int, ...]) -> None:
    loss = getattr(optirs, name)
    for call in (loss, loss.pullback):
        with pytest.raises(ValueError, match=r"yhat has shape .*, y has"):
            call(np.zeros(left), np.zeros(right))


@pytest.mark.parametrize("name", POINTWISE)
def test_a_column_is_not_a_vector(name: str) -> None:
    with pytest.raises(ValueError, match=r"yhat has shape \(4, 1\), y has \(4,\)"):
        getattr(optirs, name)(np.zeros((4, 1)), np.zeros(4))


@pytest.mark.parametrize("name", DEFINITIONS)
@pytest.mark.parametrize("shape", [(), (2, 2, 2)])
def test_predictions_are_rows(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be \(n,\) or \(batch, n\)"):
        getattr(optirs, name)(np.zeros(shape), np.zeros(shape))


@pytest.mark.parametrize(
    ("name", "y", "error", "message"),
    [
        ("binary_crossentropy", [[0.0, 1.5]], ValueError, r"must lie in \[0, 1\], got 1.5 at y\[0, 1\]"),
        ("binary_crossentropy", [[0.0, -1.0]], ValueError, r"must lie in \[0, 1\]"),
        ("binary_crossentropy", [[0.0, math.nan]], ValueError, r"must lie in \[0, 1\], got NaN"),
        ("crossentropy", [2], ValueError, r"class number 2 at y\[0\] is not in 0 <= class < 2"),
        ("crossentropy", [-1], ValueError, "class number -1"),
        ("crossentropy", [2**64 - 1], ValueError, "class number 18446744073709551615"),
        ("crossentropy", [0.0], TypeError, "class numbers must be integers, got float64"),
        ("crossentropy", [True], TypeError, "class numbers must be integers, got bool"),
        ("crossentropy", [[1.0, 1.0]], ValueError, "row 0 of the one-hot targets sums to 2"),
        ("crossentropy", [[0.0, 0.0]], ValueError, "sums to 0"),
        ("crossentropy", [[2.0, -1.0]], ValueError, r"must lie in \[0, 1\]"),
        ("crossentropy", [[math.nan, 1.0]], ValueError, r"must lie in \[0, 1\]"),
        ("mse", [["a", "b"]], TypeError, "mse: y must be an array of real numbers"),
        ("mse", [[1j, 2j]], TypeError, "mse: y must be an array of real numbers"),
        *((name, None, TypeError, f"{name}: y must be an array of real numbers, got NoneType") for name in DEFINITIONS),
        ("crossentropy", "a", TypeError, "crossentropy: y must be an array of real numbers, got str"),
    ],
)
def test_wrong_targets(name: str, y: object, error: type[Exception], message: str) -> None:
    loss = getattr(optirs, name)
    for call in (loss, loss.pullback):
        with pytest.raises(error, match=message):
            call([[0.5, -0.5]], y)
    gradient, model = optirs.supervised(loss), optirs.Affine(np.eye(2), np.zeros(2))
    for act in (gradient, gradient.loss):
        with pytest.raises(error, match=message):
            act(model, [[0.5, -0.5]], y)  # type: ignore[operator]


def test_a_batch_without_targets() -> None:
    """A list of two arrays is two batches."""
    gradient, model = optirs.supervised(optirs.mse), optirs.Affine(np.eye(2), np.zeros(2))
    text = r"a batch must be \(x, y\), got x alone; the data of train is a tuple of arrays, \(x, y\)"
    with pytest.raises(TypeError, match=text):
        optirs.train(gradient, model, [np.ones((3, 2)), np.ones((3, 2))], optirs.Descent(0.1))
    with pytest.raises(TypeError, match=text):
        gradient.loss(model, np.ones((3, 2)))


def test_the_sum_is_taken_in_float64() -> None:
    z = np.full((1, 1_000_003), 0.1, np.float32)
    assert optirs.mae(z, np.zeros_like(z)) == pytest.approx(1_000_003 * float(np.float32(0.1)), rel=1e-14)


def test_losses_are_values() -> None:
    assert repr(optirs.mse) == "optirs.mse"
    assert pickle.loads(pickle.dumps(optirs.huber)) is optirs.huber
    assert copy.deepcopy(optirs.mae) is optirs.mae
    assert optirs.mse.__doc__ is not None
