"""Whatever a user sets, passes or hands in: an ordinary exception or a result, never a panic of the compiled module."""

import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from problems import ONE_EACH

import optirs
from optirs import _core, schedules

NONSENSE: list[Any] = [
    None, "text", "", True, 0, -1, 2**70, -(2**70), 10**400, math.nan, math.inf, -1.0, 1e308, 1j, (), (1.0,),
    (1.0, 2.0, 3.0),
    (math.nan, math.nan), (None, None), [1.0, 2.0], {}, object(), np.float32(1), np.zeros(3), optirs.Adam(),
    schedules.Constant(1.0),
]  # fmt: skip
EVERY_RULE = [*ONE_EACH, pytest.param(optirs.Scheduled(optirs.Adam(), eta=schedules.Cosine(0.1, 5)), id="Scheduled")]
EVERY_SCHEDULE: list[Any] = [
    schedules.Constant(0.1),
    schedules.Step(0.1, 0.5, 3),
    schedules.Exponential(0.1, 0.9, 2, 0.01),
    schedules.Polynomial(0.1, 5),
    schedules.Cosine(0.1, 5),
    schedules.Warmup(schedules.Constant(0.1), 3),
    schedules.OneCycle(0.1, 10),
    schedules.Piecewise([0.1, 0.2], [3]),
    schedules.Sequence([schedules.Constant(0.1), schedules.Step(0.1, 0.5, 3)], [3]),
]


def fresh(value: Any) -> Any:
    """A copy to which nothing compiled belongs."""
    return pickle.loads(pickle.dumps(value))


def survives(*calls: Callable[[], object]) -> None:
    """Each call returns, or raises an ordinary exception; a panic is none."""
    for call in calls:
        try:
            call()
        except SystemError:
            raise
        except Exception:
            continue


def use(rule: Any) -> None:
    """Every road that reads a rule."""
    model = {"a": np.ones(3), "b": np.ones((2, 2), np.float16)}
    survives(
        lambda: optirs.setup(rule, model),
        lambda: optirs.init(rule, model["a"]),
        lambda: optirs.apply(rule, None, model["a"], np.ones(3)),
        lambda: optirs.apply(rule, {"m": np.ones(3), "v": np.ones(3), "t": 3}, model["a"], np.ones(3)),
        lambda: optirs.adjust(rule, 0.5),
        lambda: optirs.OptimiserChain(rule, rule),
        lambda: optirs.Scheduled(rule, eta=schedules.Step(1.0, 0.5, 2)),
        lambda: optirs.update(*_stepped(rule, model)),
        lambda: optirs.digest(optirs.setup(rule, model), model),
        lambda: (repr(rule), hash(rule), rule == rule),
    )


def _stepped(rule: Any, model: Any) -> Any:
    state = optirs.setup(rule, model)
    return *optirs.update_(state, {k: x.copy() for k, x in model.items()}, model), model


@pytest.mark.parametrize("rule", EVERY_RULE)
@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: repr(value)[:20])
def test_a_frozen_rule_whose_fields_are_set_past_their_checks(rule: Any, value: Any) -> None:
    for name in vars(rule):
        changed = fresh(rule)
        object.__setattr__(changed, name, value)
        use(changed)
        used = fresh(rule)
        model = {"a": np.ones(3)}
        state = optirs.setup(used, model)
        object.__setattr__(used, name, value)
        survives(
            lambda state=state, model=model: optirs.update(state, model, model),
            lambda state=state, model=model: optirs.update_(state, {"a": np.ones(3)}, model),
            lambda state=state: optirs.adjust(state, 0.5),
            lambda state=state: optirs.adjust_(state, 0.5),
            lambda state=state: fresh(state),
        )


@pytest.mark.parametrize(
    "around", [lambda r: optirs.OptimiserChain(optirs.Descent(), r), optirs.MixedPrecision], ids=["chain", "mixed"]
)
@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: repr(value)[:20])
def test_the_same_inside_another_rule(around: Any, value: Any) -> None:
    for rule in (optirs.Adam(), optirs.Rprop(), optirs.AccumGrad(2), optirs.ClipNorm(), optirs.RMSProp(centred=True)):
        for name in vars(rule):
            inner = fresh(rule)
            whole = around(inner)
            object.__setattr__(inner, name, value)
            use(whole)


@pytest.mark.parametrize("schedule", EVERY_SCHEDULE, ids=lambda schedule: type(schedule).__name__)
@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: repr(value)[:20])
def test_a_schedule_whose_fields_are_set_past_their_checks(schedule: Any, value: Any) -> None:
    names = list(vars(schedule))
    for some in (*([name] for name in names), names):
        changed = fresh(schedule)
        for name in some:
            object.__setattr__(changed, name, value)
        survives(
            lambda changed=changed: changed(3),
            lambda changed=changed: changed(np.arange(9)),
            lambda changed=changed: use(optirs.Scheduled(optirs.Adam(), eta=changed)),
        )
        inner = fresh(schedule)
        rule = optirs.Scheduled(optirs.Adam(), eta=inner)
        for name in some:
            object.__setattr__(inner, name, value)
        use(rule)


def test_intervals_that_go_backwards() -> None:
    schedule = schedules.Sequence([schedules.Step(0.1, 0.5, 3)] * 3, [3, 9])
    object.__setattr__(schedule, "boundaries", (9, 3))
    survives(lambda: schedule(np.arange(20)))


def test_a_master_copy_of_complex_numbers_is_refused() -> None:
    rule = optirs.MixedPrecision(optirs.Momentum())
    object.__setattr__(rule, "dtype", "complex64")
    with pytest.raises(ValueError, match='MixedPrecision: dtype is "complex64"'):
        optirs.setup(rule, np.ones(3, np.float32))


def test_the_error_names_the_field_that_was_set() -> None:
    rule = optirs.Adam()
    object.__setattr__(rule, "eta", None)
    with pytest.raises(TypeError, match="Adam: eta must be a number, a switch or two numbers, got None"):
        optirs.setup(rule, np.ones(3))


NESTED = """
import sys, threading
import numpy as np, optirs
from optirs import schedules

def of_itself():
    rule = optirs.Adam()
    object.__setattr__(rule, "extra", (rule,))
    return rule

def chain_of_itself():
    rule = optirs.OptimiserChain(optirs.Adam())
    object.__setattr__(rule, "rules", (rule,))
    return rule

def deep(levels):
    rule = optirs.Descent()
    for _ in range(levels):
        rule = optirs.OptimiserChain(rule)
    return rule

def deep_schedule(levels):
    schedule, rule = schedules.Constant(0.1), optirs.Scheduled(optirs.Adam(), eta=schedules.Constant(0.1))
    for _ in range(levels):
        schedule = schedules.Sequence([schedule, schedule], [3]) if levels < 0 else schedules.Warmup(schedule, 2)
    object.__setattr__(rule, "schedules", (("eta", schedule),))
    return rule

def act():
    sys.setrecursionlimit(10**6)
    for make in (of_itself, chain_of_itself, lambda: deep(LEVELS), lambda: deep_schedule(LEVELS)):
        try:
            rule = make()
            optirs.update_(optirs.setup(rule, np.ones(3)), np.ones(3), np.ones(3))
        except (RecursionError, MemoryError):
            pass

threading.stack_size(SIZE)
thread = threading.Thread(target=act)
thread.start()
thread.join()
print("alive")
"""


@pytest.mark.parametrize(("levels", "size"), [(200, 1 << 20), (600, 64 << 20)])
def test_rules_that_nest_deep_or_hold_themselves(levels: int, size: int) -> None:
    text = NESTED.replace("LEVELS", str(levels)).replace("SIZE", str(size))
    text = text.replace("sys.setrecursionlimit(10**6)", "sys.setrecursionlimit(3000)")
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert (run.stdout, run.returncode) == ("alive\n", 0), run.stderr[-2000:]


@pytest.mark.parametrize("value", NONSENSE, ids=lambda value: repr(value)[:20])
def test_states_that_are_made_by_hand(value: Any) -> None:
    x = np.ones(3)
    for rule in (p.values[0] for p in EVERY_RULE):
        survives(lambda rule=rule: optirs.apply(rule, value, x, x))
        leaf = optirs.setup(rule, x)
        function, parts = leaf.__reduce__()
        for i in range(len(parts)):
            changed = (*parts[:i], value, *parts[i + 1 :])
            survives(lambda function=function, changed=changed: function(*changed).state)
        for state in _with_one_changed(optirs.init(rule, x), value):
            survives(lambda rule=rule, state=state: optirs.apply(rule, state, x, x))
            survives(lambda function=function, parts=parts, state=state: function(*parts[:4], state, False))


def _with_one_changed(state: Any, value: Any) -> list[Any]:
    """Copies of a state, each with one of its parts replaced by `value`."""
    if isinstance(state, dict):
        return [{**state, key: value} for key in state]
    if isinstance(state, tuple):
        parts = [(i, part) for i, old in enumerate(state) for part in (value, *_with_one_changed(old, value))]
        return [(*state[:i], part, *state[i + 1 :]) for i, part in parts]
    return []


@pytest.mark.parametrize(
    "value", [*NONSENSE, (1, 2, 3), (0, 0, 0, 0), (1, 2, 3, 2**64), (1, 2, 3, -1), (1, 2, 3, "4")], ids=repr
)
def test_a_generator_that_is_given_nonsense(value: Any) -> None:
    rng = optirs.Xoshiro(1)

    def set_state() -> None:
        rng.state = value

    survives(set_state, lambda: rng.__setstate__(value), lambda: optirs.Xoshiro(value))  # type: ignore[attr-defined]
    if not isinstance(value, int) or abs(value) > 2**40:
        survives(lambda: rng.rand(value), lambda: rng.rand(2, value), lambda: rng.rand(2, dtype=value))
    assert rng.rand(3).shape == (3,)


def test_a_dict_that_changes_while_it_is_written(tmp_path: Any) -> None:
    layer = optirs.Dense(np.ones((2, 2), np.float32), np.ones(2, np.float32), "relu")

    class Name(str):
        def __eq__(self, other: object) -> bool:
            vars(layer)[f"more {len(vars(layer))}"] = None
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    vars(layer)[Name("note")] = "text"
    survives(lambda: optirs.save(tmp_path / "file", model=layer), lambda: optirs.digest(None, layer))


def test_a_training_with_no_end_in_sight() -> None:
    model = optirs.Affine(np.ones((1, 1), np.float32), np.ones(1, np.float32))
    pairs = [(optirs.setup(optirs.Descent(), m), m) for m in (model, optirs.Affine(model.W.copy(), model.b.copy()))]
    x = np.ones((4, 1), np.float32)
    fit = _core.Fit.start("mse", pairs, x, x, 2)
    assert isinstance(fit, _core.Fit)
    survives(lambda: fit.run(1, None, 1e18), lambda: fit.run(2, None, 1e300), lambda: fit.run(2, None, math.nan))
    assert fit.epoch == 1


def test_a_training_is_refused_sets_that_differ() -> None:
    model = optirs.Affine(np.ones((1, 1), np.float32), np.ones(1, np.float32))
    other = optirs.Affine(model.W.copy(), model.b.copy())
    x = np.ones((4, 1), np.float32)
    for first, second in ((optirs.Adam(), optirs.Descent()), (optirs.Descent(), optirs.Adam())):
        pairs = [(optirs.setup(first, model), model), (optirs.setup(second, other), other)]
        assert _core.Fit.start("mse", pairs, x, x, 2) == "the two states at W differ"


@pytest.mark.parametrize("shape", [(0, 2**30, 2**30), (2**30, 2**30, 0), (2**20, 0, 2**40)])
def test_empty_arrays_with_long_axes(shape: Any) -> None:
    try:
        x = np.empty(shape, np.float32)
    except ValueError:
        return  # NumPy has none
    state = optirs.setup(optirs.Adam(), {"x": x, "y": np.ones(2)})
    state, model = optirs.update(state, {"x": x, "y": np.ones(2)}, {"x": x, "y": np.ones(2)})
    optirs.update_(state, model, {"x": x.T.T, "y": np.ones(2)})
    assert model["x"].shape == shape


@pytest.mark.parametrize("number", [-(2**63), 2**63 - 1, -(2**63) - 1, 2**53, -(2**53)])
def test_numbers_at_the_ends_of_their_types_are_kept(number: int, tmp_path: Any) -> None:
    model = {"x": np.ones(2), "n": number}
    optirs.save(tmp_path / "file", model=model)
    assert optirs.load(tmp_path / "file").model["n"] == number
    assert optirs.digest(None, model) != optirs.digest(None, {**model, "n": number + 1})
