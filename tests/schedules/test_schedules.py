"""`optirs.schedules`: every schedule against its formula in NumPy, and what holds of all of them."""

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from optirs import schedules
from optirs.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    Exponential,
    OneCycle,
    Piecewise,
    Polynomial,
    Schedule,
    Sequence,
    Step,
    Warmup,
)

Array = NDArray[np.float64]
HUGE = 2**63 - 1
TOLERANCE = 16 * 2.0**-52
"""For a dozen roundings, and for another library's cos and pow."""


# --- the oracle: each schedule as its docstring has it, in float64 ----------------------------------------------------


def constant(s: Any, t: Array) -> Array:
    return np.full(t.shape, s.value)


def step(s: Any, t: Array) -> Array:
    return s.start * s.factor ** np.floor(t / s.every)


def exponential(s: Any, t: Array) -> Array:
    values = s.start * s.factor ** (t / s.every)
    if s.limit is None:
        return values
    if s.factor > 1:
        return np.where(np.abs(values) > abs(s.limit), s.limit, values)
    return np.where(np.abs(values) < abs(s.limit), s.limit, values)


def polynomial(s: Any, t: Array) -> Array:
    return s.end + (s.start - s.end) * (1 - np.minimum(t, s.steps) / s.steps) ** s.power


def cosine(s: Any, t: Array) -> Array:
    return s.end + (s.start - s.end) * (1 + np.cos(np.pi * np.minimum(t, s.steps) / s.steps)) / 2


def warmup(s: Any, t: Array) -> Array:
    after = oracle(s.schedule, np.maximum(t - s.steps, 0))
    first = oracle(s.schedule, np.zeros(1))[0]
    return np.where(t < s.steps, s.start + (first - s.start) * t / s.steps, after)


def onecycle(s: Any, t: Array) -> Array:
    top = math.floor(s.pct_start * s.steps)
    first = s.peak / s.div_factor
    last = first / s.final_div_factor
    rising = first + (s.peak - first) * (1 - np.cos(np.pi * t / max(top, 1))) / 2
    falling = last + (s.peak - last) * (1 + np.cos(np.pi * (np.minimum(t, s.steps) - top) / (s.steps - top))) / 2
    return np.where(t < top, rising, falling)


def piecewise(s: Any, t: Array) -> Array:
    return np.array([s.values[sum(u >= b for b in s.boundaries)] for u in t.ravel()]).reshape(t.shape)


def sequence(s: Any, t: Array) -> Array:
    def one(u: float) -> float:
        i = sum(u >= b for b in s.boundaries)
        return float(oracle(s.schedules[i], np.array([u - (0, *s.boundaries)[i]]))[0])

    return np.array([one(u) for u in t.ravel()]).reshape(t.shape)


def oracle(schedule: Schedule, t: Any) -> Array:
    formula: Callable[[Any, Array], Array] = globals()[type(schedule).__name__.lower()]
    return formula(schedule, np.asarray(t, np.float64))


# --- the table -------------------------------------------------------------------------------------------------------

TABLE: dict[str, list[Schedule]] = {
    "Constant": [Constant(0.1), Constant(0.0), Constant(-3.0)],
    "Step": [Step(0.1, 0.5, 30), Step(1.0, 0.9, 1), Step(1e-3, 1.5, 7), Step(-2.0, 0.3, 2)],
    "Exponential": [
        Exponential(0.1, 0.97),
        Exponential(1e-6, 10.0, every=40, limit=1.0),
        Exponential(1.0, 0.5, every=3, limit=0.01),
        Exponential(-1.0, 0.5, limit=-0.25),
        Exponential(0.2, 1.0, limit=0.1),
    ],
    "Polynomial": [Polynomial(0.1, 50), Polynomial(0.1, 50, 0.3, 2.0), Polynomial(1.0, 33, 0.01, 0.5)],
    "Cosine": [Cosine(0.1, 50), Cosine(1e-3, 60, 1e-5), Cosine(0.85, 90, 0.95), Cosine(0.5, 1)],
    "Warmup": [
        Warmup(Cosine(0.1, 50), 10),
        Warmup(Constant(0.1), 1, start=0.01),
        Warmup(Warmup(Step(0.1, 0.5, 10), 5), 5, start=0.2),
    ],
    "OneCycle": [
        OneCycle(0.1, 100),
        OneCycle(1.0, 37, 0.4, 10.0, 100.0),
        OneCycle(0.1, 50, 0.0),
        OneCycle(2.0, 1, 0.99),
    ],
    "Piecewise": [Piecewise((1.0, 0.1, 0.01), (30, 60)), Piecewise((0.5,), ()), Piecewise((0.0, 2.0), (1,))],
    "Sequence": [
        Sequence((Cosine(0.1, 20), Cosine(0.05, 40)), (20,)),
        Sequence((Constant(1.0), Step(0.5, 0.5, 3), Exponential(0.1, 0.9)), (7, 40)),
        Sequence((Polynomial(1.0, 9),), ()),
    ],
}
ALL = [pytest.param(s, id=f"{name}-{i}") for name, many in TABLE.items() for i, s in enumerate(many)]
EACH = pytest.mark.parametrize("schedule", ALL)


def parts(schedule: Schedule) -> set[int]:
    """The steps at which something happens."""
    found = {0}
    for name in ("steps", "every"):
        found |= {getattr(schedule, name, 0)}
    if isinstance(schedule, OneCycle):
        found |= {int(schedule.pct_start * schedule.steps)}
    if isinstance(schedule, Warmup):
        found |= {schedule.steps + t for t in parts(schedule.schedule)}
    for i, b in enumerate(getattr(schedule, "boundaries", ())):
        found |= {b} | ({b + t for t in parts(schedule.schedules[i + 1])} if isinstance(schedule, Sequence) else set())
    return found


def test_the_table_and_the_oracle_hold_every_schedule() -> None:
    assert set(TABLE) == set(SCHEDULES) == {name for name in schedules.__all__ if name not in ("SCHEDULES", "Schedule")}
    assert all(type(s) is SCHEDULES[name] for name, many in TABLE.items() for s in many)


@EACH
def test_formula(schedule: Schedule) -> None:
    t = np.unique([*range(130), *(b + d for b in parts(schedule) for d in (-1, 0, 1) if b + d >= 0)])
    expected = oracle(schedule, t)
    np.testing.assert_allclose(schedule(t), expected, rtol=TOLERANCE, atol=TOLERANCE * np.abs(expected).max())


@EACH
def test_arrays_are_calls_bit_for_bit(schedule: Schedule) -> None:
    t = np.array([*range(120), 10**6, HUGE])
    one_by_one = [schedule(int(u)) for u in t]
    assert all(type(value) is float and math.isfinite(value) for value in one_by_one)
    for kind in ("int64", "uint64"):
        values = schedule(t.astype(kind))
        assert values.dtype == np.float64
        assert values.tobytes() == np.array(one_by_one).tobytes()
    small = t[:120]
    for array in (small.astype("int8"), small.astype(">i4"), small[::-1], small.reshape(4, 30).T):
        assert schedule(array).tobytes() == np.array([schedule(int(u)) for u in array.ravel()]).tobytes()
        assert schedule(array).shape == array.shape
    assert schedule(list(range(5))).tobytes() == np.array(one_by_one[:5]).tobytes()
    assert schedule(np.array(3)).shape == ()
    assert schedule([]).shape == (0,)
    assert schedule(np.int32(3)) == one_by_one[3]


@pytest.mark.parametrize("schedule", [p for p in ALL if isinstance(p.values[0], Polynomial | Cosine | OneCycle)])
def test_the_last_value_is_kept(schedule: Any) -> None:
    last = schedule(schedule.steps)
    expected = (
        schedule.peak / schedule.div_factor / schedule.final_div_factor if hasattr(schedule, "peak") else schedule.end
    )
    assert last == expected
    assert {schedule(t) for t in (schedule.steps + 1, 10**9, HUGE)} == {last}


def test_ends_are_exact() -> None:
    assert Polynomial(0.3, 7, 0.1)(0) == Cosine(0.3, 7, 0.1)(0) == 0.3
    assert Warmup(Constant(0.1), 3, start=0.7)(np.arange(5)).tolist()[:1] == [0.7]
    assert Warmup(Constant(0.1), 3)(3) == 0.1
    assert OneCycle(0.7, 10)(3) == 0.7
    assert Step(0.1, 0.5, 30)(29) == 0.1
    assert Step(0.1, 0.5, 30)(30) == 0.05


def test_growth_ends_at_the_greatest_float_and_decay_at_zero() -> None:
    greatest = float(np.finfo(np.float64).max)
    assert Step(1.0, 2.0, 1)(HUGE) == Exponential(0.5, 3.0)(HUGE) == greatest
    assert Step(-1.0, 2.0, 1)(HUGE) == -greatest
    assert Step(0.0, 2.0, 1)(HUGE) == Step(1.0, 0.5, 1)(HUGE) == Exponential(1.0, 0.5)(HUGE) == 0


@EACH
def test_values_lie_between_the_extremes(schedule: Schedule) -> None:
    low, high = schedules._base.extremes(schedule)
    values = schedule(np.array([*range(500), 10**6, 10**12, HUGE]))
    assert low <= values.min()
    assert values.max() <= high


@given(
    start=st.floats(-1e3, 1e3),
    end=st.floats(-1e3, 1e3),
    steps=st.integers(1, 2**53 - 1),
    t=st.integers(0, HUGE),
    power=st.floats(0.1, 10),
)
@example(start=-1.0, end=5e-324, steps=3, t=3, power=1.0)
def test_what_goes_from_one_value_to_another_stays_between(
    start: float, end: float, steps: int, t: int, power: float
) -> None:
    for schedule in (Cosine(start, steps, end), Polynomial(start, steps, end, power)):
        assert min(start, end) <= schedule(t) <= max(start, end)
        assert schedule(steps) == end
        assert schedule(0) == start


@given(
    peak=st.floats(1e-6, 1e3),
    steps=st.integers(1, 10**6),
    share=st.floats(0, 0.999),
    t=st.integers(0, 2 * 10**6),
)
def test_a_cycle_stays_between_its_ends_and_its_peak(peak: float, steps: int, share: float, t: int) -> None:
    schedule = OneCycle(peak, steps, share)
    assert schedule(steps) <= schedule(t) <= peak
    assert schedule(int(share * steps)) == peak


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5), t=st.integers(0, 120))
def test_a_sequence_gives_each_its_own_steps(lengths: list[int], t: int) -> None:
    each = [Polynomial(float(i + 1), n) for i, n in enumerate(lengths)]
    cuts = np.cumsum(lengths[:-1]).tolist()
    i = int(np.searchsorted(cuts, t, side="right"))
    assert Sequence(each, cuts)(t) == each[i](t - ([0, *cuts][i]))


@EACH
def test_schedules_are_values(schedule: Schedule) -> None:
    again = eval(repr(schedule), {"schedules": schedules})
    assert again == schedule
    assert hash(again) == hash(schedule)
    assert repr(again) == repr(schedule)
    for twin in (pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert twin == schedule
    assert schedule != Constant(12345.0)
    with pytest.raises(AttributeError):
        schedule.start = 1.0  # type: ignore[attr-defined]


def test_fields_are_kept_as_floats_ints_and_tuples() -> None:
    assert repr(Cosine(1, np.int64(10))) == "schedules.Cosine(start=1.0, steps=10, end=0.0)"
    assert (
        repr(Piecewise([1, np.float32(0.5)], np.array([3])))
        == "schedules.Piecewise(values=(1.0, 0.5), boundaries=(3,))"
    )
    assert Sequence([Constant(1.0)], []).schedules == (Constant(1.0),)


BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: Constant("x"), TypeError, r"schedules.Constant: value must be a number, got 'x'"),
    (lambda: Constant(math.inf), ValueError, r"schedules.Constant: value must be finite, got inf"),
    (lambda: Step(0.1, 0.0, 3), ValueError, r"schedules.Step: factor must be > 0, got 0.0"),
    (lambda: Step(0.1, 0.5, 0), ValueError, r"schedules.Step: every must be >= 1, got 0"),
    (lambda: Step(0.1, 0.5, 1.5), TypeError, r"schedules.Step: every must be an int, got 1.5"),
    (lambda: Exponential(1.0, 0.5, limit=2.0), ValueError, r"limit must be between 0 and start .* got 2.0"),
    (lambda: Exponential(1.0, 0.5, limit=-1e-300), ValueError, r"limit must be between 0 and start"),
    (lambda: Exponential(1.0, 2.0, limit=0.5), ValueError, r"limit must be between start and infinity"),
    (lambda: Exponential(1.0, 2.0, limit=math.nan), ValueError, r"limit must be finite, got nan"),
    (lambda: Polynomial(1.0, 3, power=0.0), ValueError, r"schedules.Polynomial: power must be > 0, got 0.0"),
    (lambda: Polynomial(1.0, 3, end=math.nan), ValueError, r"schedules.Polynomial: end must be finite, got nan"),
    (lambda: Cosine(1.0, True), TypeError, r"schedules.Cosine: steps must be an int, got True"),
    (lambda: Cosine(1.0, 2**53), ValueError, r"schedules.Cosine: steps must be < 2\*\*53"),
    (lambda: Warmup(0.1, 3), TypeError, r"schedule must be a schedule, got 0.1: write schedules.Constant\(0.1\)"),
    (lambda: Warmup(Cosine, 3), TypeError, r"got the class: write schedules.Cosine\(...\)"),
    (lambda: Warmup(lambda t: 0.1, 3), TypeError, r"schedules.Warmup: schedule must be a schedule, got <function"),
    (lambda: OneCycle(1.0, 10, 1.0), ValueError, r"schedules.OneCycle: pct_start must be in \[0, 1\), got 1.0"),
    (lambda: OneCycle(1e300, 10, div_factor=1e-300), ValueError, r"does not start and end at finite values"),
    (lambda: Piecewise((1.0, 2.0), ()), ValueError, r"schedules.Piecewise: values: 2 need 1 boundaries, got 0"),
    (lambda: Piecewise((), ()), ValueError, r"values: 0 need -1 boundaries"),
    (lambda: Piecewise((1.0, 2.0), (0,)), ValueError, r"boundaries\[0\] must be >= 1, got 0"),
    (lambda: Piecewise((1, 2, 3), (4, 4)), ValueError, r"boundaries must increase, got \(4, 4\)"),
    (lambda: Piecewise("ab", (1,)), TypeError, r"values must be a list or tuple, got 'ab'"),
    (lambda: Sequence((1.0, Constant(1.0)), (3,)), TypeError, r"schedules\[0\] must be a schedule, got 1.0"),
    (lambda: Constant(1.0)(-1), ValueError, r"a step must be >= 0, got -1"),
    (lambda: Constant(1.0)(2**63), ValueError, r"a step must be < 2\*\*63"),
    (lambda: Constant(1.0)(1.0), TypeError, r"a step must be an int or an array of integers, got 1.0"),
    (lambda: Constant(1.0)(True), TypeError, r"a step must be an int or an array of integers, got True"),
    (lambda: Constant(1.0)(np.arange(3.0)), TypeError, r"got an array of float64"),
    (lambda: Constant(1.0)(np.array([3, -2])), ValueError, r"a step must be >= 0, got -2"),
    (lambda: Constant(1.0)([2**70]), (TypeError, ValueError), r"a step must be"),
    (lambda: Constant(1.0).plot(0), ValueError, r"plot: steps must be >= 1, got 0"),
]


@pytest.mark.parametrize(("make", "error", "text"), BAD)
def test_errors_name_schedule_field_and_value(make: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_a_subclass_is_its_parent() -> None:
    class Mine(Cosine):
        pass

    assert Mine(1.0, 10)(5) == Cosine(1.0, 10)(5)
    assert repr(Mine(1.0, 10)).startswith("schedules.test_a_subclass")


def test_plot_draws_what_a_call_returns() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    axes = figure().subplots()
    for schedule in (Cosine(0.1, 20), Step(0.1, 0.5, 5)):
        assert schedule.plot(30, axes) is axes
        line = axes.get_lines()[-1]
        np.testing.assert_array_equal(line.get_xdata(), np.arange(30))
        np.testing.assert_array_equal(line.get_ydata(), schedule(np.arange(30)))
        assert line.get_label() == repr(schedule)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "value")


def test_plot_makes_axes_of_its_own() -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    pyplot.switch_backend("Agg")
    axes = Constant(1.0).plot(3)
    assert axes.figure in map(pyplot.figure, pyplot.get_fignums())
    pyplot.close("all")
