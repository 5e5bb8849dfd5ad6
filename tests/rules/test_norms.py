"""Norms of gradients, and what clipping by them does, against arithmetic with 60 digits."""

import decimal
import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

import optirs

Array = NDArray[Any]
EXACT = decimal.Context(prec=60, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
GREATEST = Decimal(float(np.finfo(np.float64).max))

ORDERS = (0.0, 1.0, 2.0, 3.0, 0.5, 0.1, 0.05, 0.003, 1e-17, 2.5, 100.0, 99.5, 1e6, 123456.75, 1e300, math.inf)
GRADIENTS = (
    [3.0, -4.0],
    [2000.0],
    [3e200, 4e200],
    [3e-170, 4e-170],
    [1e300, 1e-300],
    [1e-300, 2e-300, -1e-300],
    [1e300],
    [1e-300],
    [1e-160] * 50 + [3e-162],
    [1e150, 1e154, 3e155],
    [0.0, 5e-200, 0.0],
    [0.0, 0.0],
    [1.0, 1.0, 1.0],
    [3e38, 1e-45],
)


@pytest.fixture(autouse=True)
def digits() -> Iterator[None]:
    with decimal.localcontext(EXACT):
        yield


def modulus(z: Any) -> Decimal:
    return (Decimal(float(np.real(z))) ** 2 + Decimal(float(np.imag(z))) ** 2).sqrt()


def exact_norm(g: Array, p: float) -> Decimal:
    """The p-norm as `numpy.linalg.norm` defines it; infinite beyond float64."""
    moduli = [modulus(z) for z in g.ravel()]
    if p == 0:
        return Decimal(sum(m != 0 for m in moduli))
    if math.isinf(p):
        return max(moduli) if p > 0 else min(moduli)
    if not any(moduli) or (p < 0 and not all(moduli)):
        return Decimal(0)
    moduli = [m for m in moduli if m]
    unit, order = max(moduli) if p > 0 else min(moduli), Decimal(p)
    total = sum((order * (m / unit).ln()).exp() for m in moduli)
    log = unit.ln() + total.ln() / order
    return Decimal("inf") if log > GREATEST.ln() else log.exp() if log > -2000 else Decimal(0)


def tolerance(p: float) -> Decimal:
    return Decimal("1e-12") if abs(p) >= 0.1 or p == 0 else Decimal("1e-15") / abs(Decimal(p))


def clipped(g: Array, omega: float, p: float) -> Array:
    rule = optirs.ClipNorm(omega, p, throw=False)
    dx: Array = optirs.apply(rule, None, g, g)[1]
    return dx


def check(g: Array, p: float) -> None:
    """That the norm by which `g` is clipped is right: to its tolerance and the two roundings of an element."""
    norm = exact_norm(g, p)
    if norm > GREATEST / 2:
        assert norm < GREATEST * 2 or np.isnan(clipped(g, 1.0, p)).all()
        return
    allowed = tolerance(p)
    if norm == 0 or allowed > Decimal("0.1"):
        assert np.isfinite(clipped(g, 1.0, p)).all()
        return
    omega = float(norm / 16)
    if omega < 1e-290:
        return
    i = int(np.argmax(np.abs(g)))
    found, expected = clipped(g, omega, p)[i], Decimal(omega) / norm * modulus(g[i])
    assert modulus(found) / expected - 1 < allowed + Decimal("4e-16")
    assert 1 - modulus(found) / expected < allowed + Decimal("4e-16")


@pytest.mark.parametrize("p", ORDERS + tuple(-p for p in ORDERS if p))
@pytest.mark.parametrize("g", GRADIENTS, ids=lambda g: str(g[:3]))
def test_norms_of_finite_gradients(p: float, g: list[float]) -> None:
    check(np.array(g), p)
    check(np.array(g) * (0.6 - 0.8j), p)


sizes = st.builds(lambda m, e: m * 10.0**e, st.floats(1, 9.99), st.integers(-300, 299))
orders = st.one_of(st.floats(-20, 20), st.floats(-0.2, 0.2), st.floats(-1e6, 1e6), st.integers(-200, 200).map(float))


@given(st.lists(sizes, min_size=1, max_size=20), orders)
@example([1.0, 1.0], 5e-324)
@example([1e-300, 1e-300], 0.0005)  # the root is beyond float64, the norm is not
@example([1e300, 1e300], -0.0005)
@example([1e300], 3e-19)
def test_norms_of_any_order(g: list[float], p: float) -> None:
    with decimal.localcontext(EXACT):
        check(np.array(g), p)
        check(np.array(g) * 1j, p)


@pytest.mark.parametrize(("p", "n"), [(0.01, 1000), (0.05, 5000), (0.099, 1000), (-0.05, 1000)])
def test_sums_of_small_powers_keep_their_digits(p: float, n: int) -> None:
    g = np.random.default_rng(n).normal(size=n) * 10.0 ** (-290 if p > 0 else 290)
    norm = exact_norm(g, p)
    if Decimal("1e-290") < norm < Decimal("1e300"):
        check(g, p)
    else:
        assert p != 0.099


def test_many_blocks_lose_no_digits() -> None:
    g = np.full(4_000_000, 0.7654321)
    norm = modulus(g[0]) * Decimal(g.size).sqrt()
    found = Decimal(float(clipped(g, 1.0, 2.0)[0]))
    assert abs(found * norm / modulus(g[0]) - 1) < Decimal("1e-15")


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float16", "bfloat16"])
@pytest.mark.parametrize("p", [2.0, 1.0, 100.0, -3.0, 0.5, 0.05, math.inf, -math.inf])
def test_narrow_types_near_their_ends(dtype: str, p: float) -> None:
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    tiny = {"float16": 6e-8, "bfloat16": 1e-40}.get(dtype, 3e-45)
    ends = ([6e4, 5e4] if dtype == "float16" else [3e38, 2e38], [tiny, 20 * tiny])
    for end in ends:
        g = np.array(end).astype(kind)
        if kind.kind == "c":
            g = (g + 1j * g.real).astype(kind)  # whose modulus is beyond float32
        norm = exact_norm(g.astype(np.complex128), p)
        omega = float(norm / 2)
        found, expected = clipped(g, omega, p)[0], Decimal(omega) / norm * modulus(g[0])
        spacing = Decimal(float(np.spacing(np.float32(expected))))
        assert abs(modulus(found) - expected) <= 2 * spacing
        assert np.array_equal(clipped(g, float(norm) * 1.001, p), g.astype(found.dtype))


@pytest.mark.parametrize("throw", [True, False])
@pytest.mark.parametrize("p", [1.0, 2.0, 3.5, 0.01])
def test_a_norm_beyond_float64_is_not_finite(throw: bool, p: float) -> None:
    for g in (np.array([1.7e308] * 3), np.array([1.5e308 + 1.5e308j])):
        if p == 0.01 and g.size == 1:
            continue  # may be anything: no digit of it is asked for
        rule = optirs.ClipNorm(math.inf, p, throw=throw)
        if throw:
            with pytest.raises(FloatingPointError, match=r"ClipNorm.*inf"):
                optirs.apply(rule, None, g, g)
        else:
            assert np.isnan(optirs.apply(rule, None, g, g)[1]).all()


@pytest.mark.parametrize("p", [-1.0, -2.0, -0.5, -100.0])
def test_a_zero_makes_norms_of_negative_order_zero(p: float) -> None:
    g = np.array([0.0, 3e-200, 5.0])
    assert np.array_equal(clipped(g, 1e-300, p), g)


FACTORS = (1e-45, 1e-40, 3e-39, 1.1e-38, 1.3e-38, 1e-30, 1e-6, 1.0)


@pytest.mark.parametrize("omega", FACTORS)
def test_factors_below_float32_keep_their_digits(omega: float) -> None:
    g = np.array([3e38, -2e38, 1e37], np.float32)
    norm = exact_norm(g.astype(float), 2.0)
    for g_i, found in zip(g, clipped(g, omega, 2.0), strict=True):
        expected = Decimal(omega) / norm * Decimal(float(g_i))
        unit = max(Decimal(float(np.spacing(np.float32(abs(expected))))), Decimal(2) ** -149)
        assert abs(Decimal(float(found)) - expected) <= Decimal("1.5") * unit


@given(st.lists(sizes, min_size=1, max_size=5), sizes)
@example([3e300, 4e300], 1e-300)  # the factor is beyond float64
@example([3e-170, 4e-170], 1e-180)
def test_factors_keep_their_digits(g: list[float], omega: float) -> None:
    with decimal.localcontext(EXACT):
        array, norm = np.array(g), exact_norm(np.array(g), 2.0)
        factor = min(Decimal(omega) / norm, Decimal(1))
        for g_i, found in zip(array, clipped(array, omega, 2.0), strict=True):
            expected = factor * Decimal(float(g_i))
            assert abs(Decimal(float(found)) - expected) <= max(expected * Decimal("1e-15"), Decimal("5e-324"))


@given(st.lists(st.one_of(sizes, st.just(0.0), st.just(-0.0)), min_size=1, max_size=5), st.sampled_from(ORDERS))
def test_a_gradient_within_omega_passes_unchanged(g: list[float], p: float) -> None:
    array = np.array(g)
    with decimal.localcontext(EXACT):
        norm = exact_norm(array, p) * (1 + tolerance(p))
    if norm < Decimal("1e308"):
        assert clipped(array, max(float(norm), 1e-320), p).tobytes() == array.tobytes()
    assert clipped(array, math.inf, math.inf).tobytes() == array.tobytes()


@pytest.mark.parametrize("p", [2.0, 3.0, 0.05, -1.5])
def test_scaled_norms_have_the_same_bits_for_any_number_of_threads(p: float) -> None:
    g = np.random.default_rng(0).normal(size=700_001) * 1e200
    before, found = optirs.get_num_threads(), set()
    try:
        for threads in (1, 2, 5):
            optirs.set_num_threads(threads)
            found.add(clipped(g, 1e-3, p).tobytes())
    finally:
        optirs.set_num_threads(before)
    assert len(found) == 1


def test_every_road_asks_for_the_same_norm() -> None:
    rule, g = optirs.OptimiserChain(optirs.ClipNorm(1.0), optirs.Descent(1.0)), np.array([3e200, 4e200])
    for later in (rule, optirs.OptimiserChain(optirs.Momentum(1.0, 0.0), rule)):
        model = {"w": np.zeros(2)}
        _, new = optirs.update(optirs.setup(later, model), model, {"w": g})
        optirs.update_(optirs.setup(later, model), model, {"w": g})
        _, dx = optirs.apply(later, optirs.init(later, g), g, g)
        for found in (-new["w"], -model["w"], dx):
            assert np.allclose(found, [0.6, 0.8], rtol=1e-15, atol=0)


def test_norms_in_a_compiled_training(started: list[bool]) -> None:
    x, y = np.full((1, 2), 1e19, np.float32), np.full((1, 1), 1.0, np.float32)
    model = optirs.Affine(np.zeros((1, 2), np.float32), np.zeros(1, np.float32))
    rule = optirs.OptimiserChain(optirs.ClipNorm(1.0, 100.0), optirs.Descent(1.0))
    training = optirs.train(optirs.supervised(optirs.mse), model, (x, y), rule)
    assert started == [True]
    assert np.allclose(training.model.W, 2**-0.01, rtol=1e-6)
