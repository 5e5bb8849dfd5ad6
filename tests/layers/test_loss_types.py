"""The type of a loss: the one to which prediction and targets promote, without rounding on the way."""

import itertools
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from networks import LOSSES as DEFINITIONS
from networks import data, network
from trainings import both

import optirs
from optirs import _core

LOSSES = list(DEFINITIONS)
POINTWISE = [name for name in LOSSES if name != "crossentropy"]
NARROW = (np.float16, ml_dtypes.bfloat16, np.float32)
WIDE = (np.float64, np.longdouble, np.int8, np.int64, np.uint64, np.bool_, ">f8", ">i4")

exact = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="longdouble is no wider than float64 here")


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def softmax(z: Any) -> Any:
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def cost(z: Any) -> Any:
    """`-log softmax(z)`, also where it is nearly 0."""
    top = z.argmax(axis=1)[:, None]
    powers = np.exp(z - np.take_along_axis(z, top, 1))
    np.put_along_axis(powers, top, 0, 1)
    return np.log1p(powers.sum(axis=1, keepdims=True)) - (z - np.take_along_axis(z, top, 1))


SLOPES = {
    "mse": lambda z, y: 2 * (z - y),
    "mae": lambda z, y: np.sign(z - y),
    "huber": lambda z, y: np.clip(z - y, -1, 1),
    "binary_crossentropy": lambda z, y: np.where(z < 0, sigmoid(z) - y, (1 - y) - sigmoid(-z)),
    "crossentropy": lambda z, y: softmax(z) - y,
}


def wide_problem(name: str, batch: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """One whose numbers have all digits of float64."""
    rng = np.random.default_rng(batch * 1009 + n)
    z = rng.normal(scale=4, size=(batch, n))
    if name == "crossentropy":
        y = rng.uniform(size=(batch, n))
        return z, y / y.sum(axis=1, keepdims=True)
    return z, rng.uniform(size=(batch, n)) if name == "binary_crossentropy" else z + rng.normal(size=(batch, n))


@exact
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("batch", "n"), [(1, 1), (7, 3), (1, 1000), (50, 300), (3, 40_000)])
def test_float64_is_computed_in_float64(name: str, batch: int, n: int) -> None:
    z, y = wide_problem(name, batch, n)
    long_z, long_y = z.astype(np.longdouble), y.astype(np.longdouble)
    if name == "crossentropy":
        long_y = long_y / long_y.sum(axis=1, keepdims=True)  # the oracle's gradient is that of rows that sum to 1
        expected = (long_y * cost(long_z)).sum(axis=1).mean()
    else:
        expected = DEFINITIONS[name](long_z, long_y).mean()
    loss, gradient = getattr(optirs, name).pullback(z, y)
    assert loss == getattr(optirs, name)(z, y)
    np.testing.assert_allclose(loss, float(expected), rtol=1e-14)
    assert gradient.dtype == np.float64
    slopes = SLOPES[name](long_z, long_y) / batch
    # Where terms of a slope cancel, its error is one of those terms.
    np.testing.assert_allclose(gradient, slopes, rtol=1e-14, atol=1e-15 / batch)


def test_what_is_nearly_nothing_has_its_digits() -> None:
    small = np.exp(-40)
    for loss, gradient in (
        optirs.crossentropy.pullback([[40.0, 0.0]], [0]),
        optirs.crossentropy.pullback([[40.0, 0.0]], [[1.0, 0.0]]),
        optirs.binary_crossentropy.pullback([[40.0]], [[1.0]]),
        optirs.binary_crossentropy.pullback([[-40.0]], [[0]]),
    ):
        assert loss == pytest.approx(small, rel=1e-15)
        assert np.abs(gradient) == pytest.approx(small, rel=1e-15)
    assert optirs.binary_crossentropy([[40.0]], [[1 - 2.0**-40]]) == pytest.approx(40 * 2.0**-40, rel=1e-14)
    assert optirs.mse([[2.0e9]], [[2.0e9 + 3]]) == 9
    assert optirs.mse([[20260101]], [[20260102]]) == 1
    assert optirs.mse([[1e30]], [[-1e30]]) == pytest.approx(4e60, rel=1e-15)
    np.testing.assert_array_equal(optirs.mse.pullback([[1e200, 1e30]], [[0.0, 0.0]])[1], [[2e200, 2e30]])


def values(dtype: Any, low: bool = False) -> np.ndarray:
    return np.array([[1, 0, 1]] * 2 if not low else [[0, 1, 0]] * 2).astype(dtype)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_has_the_promoted_type(name: str) -> None:
    loss = getattr(optirs, name)
    for left, right in itertools.product(NARROW + WIDE, repeat=2):
        value, gradient = loss.pullback(values(left), values(right, low=True))
        wide = np.dtype(left) not in map(np.dtype, NARROW) or np.dtype(right) not in map(np.dtype, NARROW)
        assert gradient.dtype == (np.float64 if wide else np.float32), (left, right)
        assert value == pytest.approx(loss(values(float), values(float, low=True)), rel=1e-15)
    single, y = values(np.float32), values(np.float32, low=True)
    assert loss.pullback(single, y.tolist())[1].dtype == np.float64
    assert loss.pullback(single.tolist(), y)[1].dtype == np.float64
    assert loss.pullback(single, list(y))[1].dtype == np.float32
    empty = np.zeros((0, 3), np.float32)
    assert loss.pullback(empty, empty)[1].dtype == np.float32
    assert loss.pullback(empty, empty.astype(int))[1].dtype == np.float64


def test_class_numbers_take_no_part_in_the_type() -> None:
    z = np.array([[0.1, 0.2], [0.3, -0.4]])
    for dtype in ("int8", "int64", "uint64", ">i4"):
        classes = np.array([1, 0], dtype)
        assert optirs.crossentropy.pullback(z.astype(np.float32), classes)[1].dtype == np.float32
        assert optirs.crossentropy.pullback(z, classes)[1].dtype == np.float64
    assert optirs.crossentropy.pullback(z[0].astype(np.float16), 1)[1].dtype == np.float32
    one_hot = np.array([[0, 1], [1, 0]])
    for narrow in (np.float32, np.float64):
        found = optirs.crossentropy(z.astype(narrow), np.array([1, 0]))
        assert optirs.crossentropy(z.astype(narrow), one_hot) == pytest.approx(found, rel=1e-15)


@pytest.mark.parametrize("name", LOSSES)
def test_neither_layout_nor_threads_nor_instruction_sets_change_a_bit(name: str) -> None:
    loss, (z, y) = getattr(optirs, name), wide_problem(name, 70_000, 5)
    value, gradient = loss.pullback(z, y)
    for form in (np.asfortranarray, lambda a: a.astype(">f8"), lambda a: np.repeat(a, 2, axis=0)[::2]):
        for left, right in ((form(z), y), (z, form(y))):
            again, same = loss.pullback(left, right)
            assert again == value
            np.testing.assert_array_equal(same, gradient)
            assert loss(left, right) == value
    threads, levels = optirs.get_num_threads(), _core.simd_levels()
    try:
        for count, level in itertools.product((1, 3), levels):
            optirs.set_num_threads(count)
            _core.set_simd(level)
            again, same = loss.pullback(z, y)
            assert again == value
            np.testing.assert_array_equal(same, gradient)
    finally:
        optirs.set_num_threads(threads)
        _core.set_simd(levels[-1])


def test_targets_beside_layers_of_float32_are_not_rounded() -> None:
    model, x = optirs.Affine(np.ones((1, 1), np.float32), np.zeros(1, np.float32)), np.ones((2, 1), np.float32)
    y = np.array([[1 + 1e-9], [1 - 3e-9]])
    gradient = optirs.supervised(optirs.mse)
    expected = ((1 - y) ** 2).mean()
    loss, grad = gradient(model, x, y)
    assert loss == gradient.loss(model, x, y) == optirs.mse(model(x), y) == pytest.approx(expected, rel=1e-14)
    # The slope is rounded where it enters the layer: as if its `pullback` were called.
    _, dy = optirs.mse.pullback(model(x), y)
    assert dy.dtype == np.float64
    by_hand = model.pullback(x)[1](dy)[0]
    assert grad == by_hand
    np.testing.assert_allclose(grad.b, (2 * (1 - y)).mean(axis=0), rtol=1e-6)
    held_out = optirs.HeldOut(gradient, (x, y))
    assert held_out.evaluate(model) == (loss, None)


FORMS: dict[str, Any] = {
    "float64": lambda y: y.astype(float) * (1 - 2.0**-40),
    "swapped": lambda y: y.astype(">f8"),
    "Fortran": lambda y: np.asfortranarray(y.astype(float)),
    "int": lambda y: np.rint(y).astype(int),
    "bool": lambda y: y > y.mean(),
    "float16": lambda y: y.astype(np.float16),
    "bfloat16": lambda y: y.astype(ml_dtypes.bfloat16),
    "longdouble": lambda y: y.astype(np.longdouble),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", POINTWISE)
def test_both_loops_train_on_targets_of_every_type(started: list[bool], name: str, form: str) -> None:
    x, y = data(name, 20)
    for shuffle in (False, True):
        options: dict[str, Any] = {"epochs": 3, "batch_size": 7, "shuffle": shuffle, "rng": 3, "log_every": 1}
        _, _, history, logged = both(started, name, network(), (x, FORMS[form](y)), optirs.Adam(0.01), **options)
        assert len(history) == 9
        assert len(logged) == 3
    gradient = optirs.supervised(getattr(optirs, name))
    training = optirs.train(gradient, network(), (x, FORMS[form](y)), optirs.Adam(0.01), epochs=2)
    started.clear()
    assert training.history[0] == getattr(optirs, name)(network()(x), FORMS[form](y))


@pytest.mark.parametrize("form", [form for form in FORMS if form != "bool"])
def test_both_loops_train_on_rows_of_probabilities_of_every_type(started: list[bool], form: str) -> None:
    x, y = data("crossentropy", 20)
    y = y if form == "int" else np.float32(0.97) * y + np.float32(0.01)
    for shuffle in (False, True):
        options: dict[str, Any] = {"epochs": 3, "batch_size": 7, "shuffle": shuffle, "rng": 3}
        both(started, "crossentropy", network(), (x, FORMS[form](y)), optirs.Adam(0.01), **options)


@optirs.functor
@dataclass
class Shift:
    """A layer of one's own, in float64."""

    b: np.ndarray

    def __call__(self, x: Any) -> Any:
        return x + self.b

    def pullback(self, x: Any) -> Any:
        def back(dy: Any) -> Any:
            assert dy.dtype == np.float64
            return {"b": dy.sum(axis=0)}, dy

        return self(x), back


def test_a_layer_of_ones_own_in_float64() -> None:
    x = np.array([[2.0e9], [2.0e9 + 8]])
    gradient = optirs.supervised(optirs.mse)
    trained = optirs.train(gradient, Shift(np.zeros(1)), (x, x + 3), optirs.Adam(0.1), epochs=300, log_every=100)
    assert trained.history[0] == 9
    assert trained.model.b == pytest.approx(3, abs=1e-6)
    assert trained.history.logged[-1][1] < 1e-12
    # Behind layers of float32: the gradient is rounded where it comes to them.
    model = optirs.Chain(optirs.Affine(np.ones((1, 1), np.float32), np.zeros(1, np.float32)), Shift(np.zeros(1)))
    loss, grad = gradient(model, [[1.0]], [[1 + 1e-9]])
    assert loss == pytest.approx(1e-18, rel=1e-6)
    assert grad[0].W.dtype == np.float32
    np.testing.assert_allclose(grad[0].W, [[-2e-9]], rtol=1e-6)
