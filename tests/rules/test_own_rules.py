"""Rules applied by hand, and rules of the user's own."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from problems import DecayDescent, Skip

import optirs
from optirs import _core, rules, schedules
from optirs.rules import Rule


def step(rule: Rule, state: Any, x: Any, g: Any) -> tuple[Any, Any]:
    """The state and the parameter after an update of one that has this state."""
    strides = [stride // x.itemsize for stride in x.strides]
    leaf, new = optirs.update(_core.restore(rule, list(x.shape), strides, x.dtype.name, state, False), x, g)
    return leaf.state, new


def test_own_rule_alone_and_in_a_chain() -> None:
    x, g = np.array([1.0, 2.0]), np.array([0.5, 0.25])
    state, dx = rules.apply(DecayDescent(1.0), 4, x, g)
    assert state == 5
    np.testing.assert_array_equal(dx, g / 2)
    chain = rules.OptimiserChain(Skip(), DecayDescent(1.0))
    state = rules.init(chain, x)
    (skip, count), dx = rules.apply(chain, state, x, g)
    assert (skip["calls"], count, dx) == (1, 1, None)  # nothing passed on: the state behind stays
    (skip, count), dx = rules.apply(chain, (skip, count), x, g)
    assert (skip["calls"], count) == (2, 2)
    np.testing.assert_array_equal(dx, g)


def test_own_rule_cannot_write() -> None:
    class Writes(Rule):
        def init(self, x: Any) -> Any:
            return [np.zeros(2)]

        def apply(self, state: Any, x: Any, dx: Any) -> Any:
            for array in (x, dx, state[0]):
                with pytest.raises(ValueError, match="read-only"):
                    array += 1
            return state, dx

    x, g = np.ones(2), np.ones(2)
    rules.apply(Writes(), [np.zeros(2)], x, g)
    assert x.flags.writeable
    assert g.flags.writeable


@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        (None, TypeError, r"Odd.apply must return \(state, dx\), got NoneType"),
        ((1, 2, 3), TypeError, r"Odd.apply must return \(state, dx\), got tuple"),
        ((1, np.zeros(3)), ValueError, r"Odd: its dx has shape \(3,\), the parameter has \(2,\)"),
        ((1, np.zeros(2, complex)), TypeError, "Odd: its dx is complex128, the parameter is float64"),
        ((1, "ab"), TypeError, "Odd: its dx must be an array of numbers"),
    ],
)
def test_own_rule_that_returns_nonsense(result: Any, error: type[Exception], message: str) -> None:
    class Odd(Rule):
        def init(self, x: Any) -> Any:
            return None

        def apply(self, state: Any, x: Any, dx: Any) -> Any:
            return result

    with pytest.raises(error, match=message):
        rules.apply(Odd(), None, np.zeros(2), np.zeros(2))


def test_own_rule_that_forgets_a_method() -> None:
    class Empty(Rule):
        pass

    with pytest.raises(NotImplementedError, match="Empty must define init"):
        rules.init(Empty(), np.zeros(2))
    with pytest.raises(NotImplementedError, match="Empty must define apply"):
        rules.apply(Empty(), None, np.zeros(2), np.zeros(2))


def test_arguments_are_checked() -> None:
    rule = DecayDescent()
    with pytest.raises(ValueError, match=r"the gradient has shape \(3,\), the parameter has \(2,\)"):
        rules.apply(rule, 1, np.zeros(2), np.zeros(3))
    with pytest.raises(TypeError, match="the gradient is complex128, the parameter is float64"):
        rules.apply(rule, 1, np.zeros(2), np.zeros(2, complex))
    with pytest.raises(TypeError, match="the parameter must be an array of floats, got int"):
        rules.init(rule, np.zeros(2, int))
    with pytest.raises(TypeError, match="must be a rule, got the class"):
        rules.init(DecayDescent, np.zeros(2))  # type: ignore[arg-type]
    np.testing.assert_array_equal(rules.apply(rule, 1, [0.0, 0.0], [1, 2])[1], [0.1, 0.2])


class Number:
    def __index__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("rule", "change", "error", "text"),
    [
        (rules.Adam(), {"t": -1}, ValueError, r"^Adam: t must be in \[0, 2\*\*63\), got -1$"),
        (rules.Adam(), {"t": 2**63}, ValueError, r"^Adam: t must be in \[0, 2\*\*63\), got 9223372036854775808$"),
        (rules.Adam(), {"t": 1.5}, TypeError, "^Adam: t must be an int, got 1.5$"),
        (rules.Adam(), {"t": True}, TypeError, "^Adam: t must be an int, got True$"),
        (rules.Adam(), {"t": np.bool(True)}, TypeError, "^Adam: t must be an int, got "),
        (rules.Adam(), {"t": None}, TypeError, "^Adam: t must be an int, got None$"),
        (rules.Adam(), {"m": np.zeros(3, complex)}, TypeError, "^Adam: m is complex128, not float64$"),
        (rules.Adam(), {"m": np.zeros(2)}, ValueError, r"^Adam: m has shape \(2,\), the parameter has \(3,\)$"),
        (rules.Adam(), {"m": 0.0}, TypeError, "^Adam: m must be an array, got float$"),
        (rules.AccumGrad(2), {"count": 2}, ValueError, "^AccumGrad: count must be less than n, got 2$"),
        (rules.AccumGrad(2), {"count": -1}, ValueError, "^AccumGrad: count must be in "),
    ],
)
@pytest.mark.parametrize("around", [lambda r: r, lambda r: rules.OptimiserChain(r, DecayDescent())])
def test_states_of_built_in_rules_are_checked(
    rule: Rule, change: dict[str, Any], error: type[Exception], text: str, around: Any
) -> None:
    x, whole = np.ones(3), around(rule)
    state = rules.init(whole, x)
    state = state | change if whole is rule else (state[0] | change, *state[1:])
    with pytest.raises(error, match=text):
        rules.apply(whole, state, x, x)


def test_counts_of_other_integer_types_will_do() -> None:
    x = np.ones(3)
    for t in (np.int64(3), Number()):
        state, _ = rules.apply(rules.Adam(), rules.init(rules.Adam(), x) | {"t": t}, x, x)
        assert state["t"] == 4
    rule = rules.AccumGrad(2)
    state, dx = rules.apply(rule, rules.init(rule, x) | {"count": 1}, x, x)
    assert state["count"] == 0
    assert dx is not None
    one = rules.Scheduled(rules.Descent(), eta=schedules.Constant(0.1))
    with pytest.raises(ValueError, match=r"^Scheduled: t must be in \[0, 2\*\*63\), got -1$"):
        rules.apply(one, (-1, None), x, x)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_sixteen_bits_are_computed_in_float32_and_rounded_once(dtype: Any) -> None:
    x = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], dtype, order="F")
    g = np.full_like(x, 0.3)
    rule = rules.OptimiserChain(DecayDescent(), DecayDescent())
    _, dx = rules.apply(rule, (1, 1), x, g)
    assert dx.dtype == np.float32
    state, new = step(rule, (1, 1), x, g)
    assert state == (2, 2)
    assert new.dtype == x.dtype
    assert new.flags.f_contiguous
    want = (x.astype(np.float32) - dx).astype(dtype)
    np.testing.assert_array_equal(new.astype(np.float32), want.astype(np.float32))


@pytest.mark.parametrize("shape", [(), (0,), (5,)])
def test_mixed_precision_around_an_own_rule(shape: tuple[int, ...]) -> None:
    x = np.full(shape, 1.0, np.float16)
    rule = rules.MixedPrecision(DecayDescent(1.0))
    state = rules.init(rule, x)
    assert state[0].dtype == np.float32
    for _ in range(4):  # steps too small for float16, each of them
        state, new = step(rule, state, x, np.full(shape, 2.0**-12, np.float16))
        x = new
    np.testing.assert_allclose(state[0], 1 - 2.0**-12 * sum(i**-0.5 for i in (1, 2, 3, 4)), rtol=1e-6)
    np.testing.assert_array_equal(x, state[0].astype(np.float16))
    assert x.dtype == np.float16
    assert x.shape == shape
    state, dx = rules.apply(rule, state, x, np.zeros(shape, np.float16))
    np.testing.assert_array_equal(dx, np.zeros(shape))


def test_mixed_precision_without_a_step_leaves_the_parameter() -> None:
    rule, x = rules.MixedPrecision(Skip(), "float64"), np.ones(2, np.float32)
    (master, inner), new = step(rule, rules.init(rule, x), x, x)
    np.testing.assert_array_equal(new, x)
    assert inner["calls"] == 1
    np.testing.assert_array_equal(master, x)


def test_mixed_precision_of_complex_numbers() -> None:
    x = np.ones(2, np.complex64)
    assert rules.init(rules.MixedPrecision(DecayDescent(), "float64"), x)[0].dtype == np.complex128
    with pytest.raises(TypeError, match="MixedPrecision has no 16-bit complex type"):
        rules.init(rules.MixedPrecision(DecayDescent(), "float16"), x)
