"""The affine layer against NumPy in float64."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import optirs
from optirs import _core

EPSILON = float(np.finfo(np.float32).eps)
SIZES = st.integers(0, 40)


def arrays(batch: int, n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """W[n_out, n_in], b[n_out], x[batch, n_in], dy[batch, n_out] in [-1, 1)."""
    rng = np.random.default_rng(batch * 10007 + n_in * 101 + n_out)
    shapes = ((n_out, n_in), (n_out,), (batch, n_in), (batch, n_out))
    W, b, x, dy = (rng.uniform(-1, 1, shape).astype(np.float32) for shape in shapes)
    return W, b, x, dy


def assert_close(found: np.ndarray, expected: np.ndarray, terms: int) -> None:
    """Equal to within the rounding of `terms` additions of numbers up to 1."""
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=EPSILON, atol=EPSILON * (terms + 1))


def check(W: np.ndarray, b: np.ndarray, x: np.ndarray, dy: np.ndarray) -> None:
    W64, b64, x64, dy64 = (array.astype(np.float64) for array in (W, b, x, dy))
    (batch, n_in), n_out = x.shape, len(b)
    assert_close(optirs.affine_forward(W, b, x), x64 @ W64.T + b64, n_in + 1)
    dW, db, dx = optirs.affine_gradient(W, x, dy)
    assert_close(dW, dy64.T @ x64, batch)
    in_float32 = max(n_in, n_out) <= 4 and batch <= 256
    assert_close(db, dy64.sum(axis=0), batch if in_float32 else 1)
    assert_close(dx, dy64 @ W64, n_out)


@given(SIZES, SIZES, SIZES)
def test_any_shape(batch: int, n_in: int, n_out: int) -> None:
    check(*arrays(batch, n_in, n_out))


LARGE = [(300, 200, 100), (1, 700, 300), (2, 300, 300), (3, 300, 300), (256, 3, 2), (5000, 3, 2)]


@pytest.mark.parametrize("shape", LARGE)
def test_large_shapes(shape: tuple[int, int, int]) -> None:
    check(*arrays(*shape))


def test_a_row_is_a_batch_of_one() -> None:
    W, b, x, dy = arrays(1, 5, 4)
    y = optirs.affine_forward(W, b, x[0])
    assert y.shape == (4,)
    np.testing.assert_array_equal(y, optirs.affine_forward(W, b, x)[0])
    for of_row, of_batch in zip(optirs.affine_gradient(W, x[0], dy[0]), optirs.affine_gradient(W, x, dy), strict=True):
        np.testing.assert_array_equal(of_row, of_batch.reshape(of_row.shape))


def test_an_empty_batch_has_the_gradient_zero() -> None:
    W, b, x, dy = arrays(0, 3, 2)
    assert optirs.affine_forward(W, b, x).shape == (0, 2)
    dW, db, dx = optirs.affine_gradient(W, x, dy)
    np.testing.assert_array_equal(dW, np.zeros((2, 3)))
    np.testing.assert_array_equal(db, np.zeros(2))
    assert dx.shape == (0, 3)


LAYOUTS = {
    "fortran": np.asfortranarray,
    "float64": lambda a: a.astype(np.float64),
    "swapped": lambda a: a.astype(">f4"),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    "unaligned": lambda a: np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(a.shape),
    "read-only": lambda a: np.frombuffer(a.tobytes(), np.float32).reshape(a.shape),
    "list": lambda a: a.tolist(),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("shape", [(6, 3, 2), (40, 30, 20)])
def test_other_layouts_are_converted(name: str, shape: tuple[int, int, int]) -> None:
    W, b, x, dy = arrays(*shape)
    W2, b2, x2, dy2 = (LAYOUTS[name](array) for array in (W, b, x, dy))
    np.testing.assert_array_equal(optirs.affine_forward(W2, b2, x2), optirs.affine_forward(W, b, x))
    converted, direct = optirs.affine_gradient(W2, x2, dy2), optirs.affine_gradient(W, x, dy)
    for found, expected in zip(converted, direct, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint64", "bool", "bfloat16"])
def test_other_dtypes_are_converted(dtype: str) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    ones = np.ones((2, 3), ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    np.testing.assert_array_equal(optirs.affine_forward(ones, ones[:, 0], ones[0]), np.float32([4, 4]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda W, b, x, dy: optirs.affine_forward(W[0], b, x), r"W has shape \(3,\), it must be \(n_out, n_in\)"),
        (lambda W, b, x, dy: optirs.affine_forward(W, b[:1], x), r"b has shape \(1,\), W \(2, 3\) takes \(2,\)"),
        (lambda W, b, x, dy: optirs.affine_forward(W, b, x.T), r"x has shape \(3, 5\), W \(2, 3\) takes \(3,\) or"),
        (lambda W, b, x, dy: optirs.affine_forward(W, b, x[None]), r"x has shape \(1, 5, 3\)"),
        (lambda W, b, x, dy: optirs.affine_forward(W, b, 1.0), r"x has shape \(\)"),
        (
            lambda W, b, x, dy: optirs.affine_gradient(W, x, dy[0]),
            r"dy has shape \(2,\), x \(5, 3\) and W \(2, 3\) give",
        ),
        (lambda W, b, x, dy: optirs.affine_gradient(W, x[0], dy[:1]), r"dy has shape \(1, 2\), .* give \(2,\)"),
        (lambda W, b, x, dy: optirs.affine_gradient(W.T, x, dy), r"x has shape \(5, 3\), W \(3, 2\) takes"),
    ],
)
def test_shapes_that_do_not_fit_name_both_sides(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(*arrays(5, 3, 2))  # type: ignore[operator]


@pytest.mark.parametrize("value", [None, "abc", {}, object(), np.ones(3, complex), [1j, 2, 3], np.array(["a"] * 3)])
def test_what_is_no_array_of_real_numbers(value: object) -> None:
    W, b, x, _ = arrays(5, 3, 2)
    with pytest.raises(TypeError, match="affine_forward: x must be an array of real numbers"):
        optirs.affine_forward(W, b, value)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="affine_forward: W must be an array of real numbers"):
        optirs.affine_forward(value, b, x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="affine_gradient: dy must be an array of real numbers"):
        optirs.affine_gradient(W, x, value)  # type: ignore[arg-type]


def test_an_output_too_large_for_memory_is_a_memory_error() -> None:
    tall, long = np.zeros((2**21, 1), np.float32), np.zeros((2**24, 1), np.float32)
    with pytest.raises(MemoryError):
        optirs.affine_forward(tall, tall[:, 0], long)


def test_threads_compute_the_same_bits() -> None:
    W, _, x, dy = arrays(64, 100, 80)
    expected, results = optirs.affine_gradient(W, x, dy), []
    threads = [threading.Thread(target=lambda: results.append(optirs.affine_gradient(W, x, dy))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        for found, wanted in zip(result, expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_pullback_is_the_derivative_of_the_layer() -> None:
    W, b, x, dy = arrays(4, 3, 2)
    layer = optirs.Affine(W, b)
    y, back = layer.pullback(x)
    np.testing.assert_array_equal(y, layer(x))
    gradient, dx = back(dy)
    assert isinstance(gradient, optirs.Affine)
    values = {"W": W.astype(np.float64), "b": b.astype(np.float64), "x": x.astype(np.float64)}
    for name, found in (("W", gradient.W), ("b", gradient.b), ("x", dx)):
        expected = np.zeros(found.shape)
        for at in np.ndindex(found.shape):
            side = []
            for h in (1e-3, -1e-3):
                moved = {key: value.copy() for key, value in values.items()}
                moved[name][at] += h
                side.append(np.sum(dy * (moved["x"] @ moved["W"].T + moved["b"])))
            expected[at] = (side[0] - side[1]) / 2e-3
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_random_draws_w_then_b() -> None:
    layer, rng = optirs.Affine.random(3, 2, rng=optirs.Xoshiro(1)), optirs.Xoshiro(1)
    np.testing.assert_array_equal(layer.W, rng.rand(2, 3))
    np.testing.assert_array_equal(layer.b, rng.rand(2))
    assert (layer.W.shape, layer.b.shape) == ((2, 3), (2,))
    assert not np.array_equal(optirs.Affine.random(3, 2).W, optirs.Affine.random(3, 2).W)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: optirs.Affine.random(3, 2, rng=np.random.default_rng(1)), TypeError, "must be an optirs.Xoshiro"),
        (lambda: optirs.Affine.random(3, -2), ValueError, "^Affine.random: n_out must not be negative, got -2$"),
        (lambda: optirs.Affine.random(3.0, 2), TypeError, "^Affine.random: n_in must be an integer, got 3.0$"),
        (lambda: optirs.Dense.glorot(-3, 2), ValueError, "^Dense.glorot: n_in must not be negative, got -3$"),
        (lambda: optirs.Dense.glorot(3, "2"), TypeError, "^Dense.glorot: n_out must be an integer, got '2'$"),
        (lambda: optirs.Affine([[1.0]], [1.0]), TypeError, "W must be an array"),
        (lambda: optirs.Affine(np.ones((2, 3)), 1.0), TypeError, "b must be an array"),
        (lambda: optirs.Affine(np.ones(3), np.ones(3)), ValueError, r"W has shape \(3,\), it must be \(n_out, n_in\)"),
        (lambda: optirs.Affine(np.ones((2, 3)), np.ones((2, 1))), ValueError, r"b has shape \(2, 1\)"),
        (lambda: optirs.Affine(np.ones((2, 3)), np.ones(3)), ValueError, r"W has shape \(2, 3\), b has \(3,\)"),
    ],
)
def test_layers_that_cannot_be(call: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()  # type: ignore[operator]


def test_a_gradient_may_leave_out_a_field() -> None:
    assert optirs.Affine(None, np.ones(2)).W is None  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(300, 180, 90), (1, 2100, 2050), (3, 5, 2)])
def test_threads_and_instruction_sets_do_not_change_a_bit(shape: tuple[int, int, int]) -> None:
    W, b, x, dy = arrays(*shape)
    before, seen = optirs.get_num_threads(), set()
    try:
        for level in _core.simd_levels():
            for count in (1, 2, 3):
                _core.set_simd(level)
                optirs.set_num_threads(count)
                results = (optirs.affine_forward(W, b, x), *optirs.affine_gradient(W, x, dy))
                seen.add(b"".join(result.tobytes() for result in results))
    finally:
        _core.set_simd(_core.simd_levels()[-1])
        optirs.set_num_threads(before)
    assert len(seen) == 1


def test_a_row_does_not_depend_on_the_others_of_its_batch() -> None:
    W, b, x, dy = arrays(50, 300, 40)
    y, dx = optirs.affine_forward(W, b, x), optirs.affine_gradient(W, x, dy)[2]
    for rows in (slice(0, 2), slice(7, 20), slice(43, 50)):
        np.testing.assert_array_equal(optirs.affine_forward(W, b, x[rows]), y[rows])
        np.testing.assert_array_equal(optirs.affine_gradient(W, x[rows], dy[rows])[2], dx[rows])


def test_long_sums_are_added_up_in_blocks() -> None:
    W, b, x, _ = arrays(20, 20000, 20)
    exact = x.astype(np.float64) @ W.astype(np.float64).T + b
    one_by_one = np.add.accumulate(x[:, None] * W[None], axis=2, dtype=np.float32)[:, :, -1] + b
    error, of_one_by_one = (np.abs(y - exact).mean() for y in (optirs.affine_forward(W, b, x), one_by_one))
    assert error < of_one_by_one / 3


def test_large_outputs_outlive_the_memory_of_others() -> None:
    W, b, x, _ = arrays(600, 3, 400)
    first, second = optirs.affine_forward(W, b, x), optirs.affine_forward(W, b, -x)
    kept = first.copy()
    del second
    optirs.affine_forward(W, b, 2 * x)
    np.testing.assert_array_equal(first, kept)
    assert first.flags.c_contiguous
    assert first.flags.writeable
