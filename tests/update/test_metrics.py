"""`metrics`: what the rules for the whole step say of the last one."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changing import Late
from problems import DecayDescent
from steps import stepped

import optirs
from optirs import (
    Adam,
    ClipGlobalNorm,
    Descent,
    Ema,
    MixedPrecision,
    OptimiserChain,
    Rule,
    Scheduled,
    SkipNonFinite,
    metrics,
    schedules,
)


def clipped(*rules: Rule, omega: float = 1.0, **fields: Any) -> OptimiserChain:
    """Descent by the whole gradient, clipped, behind some rules."""
    return OptimiserChain(*rules, ClipGlobalNorm(omega, **fields), Descent(1.0))


def test_metrics_by_name() -> None:
    rule = OptimiserChain(SkipNonFinite(), ClipGlobalNorm(name="b"), Descent(), ClipGlobalNorm(9.0))
    state, _ = stepped(rule, {"w": np.ones(2)}, [{"w": [3.0, 4.0]}])
    found = metrics(state)
    assert found == {
        "SkipNonFinite.skipped": 0.0,
        "SkipNonFinite.consecutive": 0.0,
        "ClipGlobalNorm[b].norm": 5.0,
        "ClipGlobalNorm.norm": pytest.approx(0.1),
    }
    assert all(type(value) is float for value in found.values())
    named = optirs.setup(SkipNonFinite(name="a b"), np.ones(2))
    assert metrics(named) == {"SkipNonFinite[a b].skipped": 0.0, "SkipNonFinite[a b].consecutive": 0.0}


def test_no_such_rules_no_metrics() -> None:
    assert metrics(optirs.setup(Adam(), {"w": np.ones(2)})) == {}
    assert metrics(optirs.setup(DecayDescent(), {"w": np.ones(2)})) == {}
    assert metrics({"w": None}) == {}
    assert metrics(None) == {}
    for nonsense in ({"w": np.ones(2)}, ClipGlobalNorm(), 3):
        with pytest.raises(TypeError, match=r"^metrics takes a state, as setup returns it"):
            metrics(nonsense)


def test_of_norms_that_disagree_the_last_one_counts() -> None:
    model = {"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1)}
    for last in model:
        others = {name: [9.0] for name in model if name != last}
        for update in (optirs.update, optirs.update_):
            state, new = stepped(clipped(), model, [others, {last: [2.0]}], update)
            assert metrics(state) == {"ClipGlobalNorm.norm": 2.0}
            assert metrics(copy.deepcopy(state)) == {"ClipGlobalNorm.norm": 2.0}
            state, _ = update(state, new, others)
            assert metrics(state)["ClipGlobalNorm.norm"] == pytest.approx(9 * math.sqrt(2))
            optirs.freeze_(state[last])
            assert metrics(state)["ClipGlobalNorm.norm"] == pytest.approx(9 * math.sqrt(2))
    assert metrics({"c": state["c"], "none": None}) == {"ClipGlobalNorm.norm": 2.0}  # the part says what it knows


def test_after_loading_leafs_that_are_not_frozen_count_first(tmp_path: Path) -> None:
    model = {"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1)}
    state, model = stepped(clipped(), model, [{"a": [9.0]}, {"b": [2.0], "c": [0.0]}])
    optirs.save(tmp_path / "state", model=model, state=state)
    found = optirs.load(tmp_path / "state").state
    assert found == state
    assert metrics(found) == {"ClipGlobalNorm.norm": 9.0}
    optirs.freeze_(found["a"])
    assert metrics(found) == {"ClipGlobalNorm.norm": 2.0}
    optirs.freeze_(found)
    assert metrics(found) == {"ClipGlobalNorm.norm": 9.0}
    optirs.thaw_(found)
    found, _ = optirs.update(found, model, {"c": [4.0]})
    assert metrics(found) == {"ClipGlobalNorm.norm": 4.0}


def test_metrics_and_averages_are_never_those_of_half_a_step() -> None:
    model = {"a": np.zeros(4), "b": np.zeros(4)}
    state = optirs.setup(OptimiserChain(ClipGlobalNorm(), Descent(), Ema()), model)
    refused: list[str] = []

    def ask() -> None:
        for question in (lambda: metrics(state), lambda: optirs.averaged(state, model)):
            with pytest.raises(RuntimeError, match="in use by another update") as caught:
                question()
            refused.append(str(caught.value))

    optirs.update_(state, model, {"a": np.ones(4), "b": Late(np.ones(4), ask)})
    assert len(refused) == 2
    assert metrics(state) == {"ClipGlobalNorm.norm": math.sqrt(8)}


def test_two_groups_of_one_name() -> None:
    for first, second, text in (
        (ClipGlobalNorm(1.0), ClipGlobalNorm(2.0), "ClipGlobalNorm"),
        (ClipGlobalNorm(1.0, name="x"), ClipGlobalNorm(1.0, name="x", throw=False), "ClipGlobalNorm"),
        (SkipNonFinite(), SkipNonFinite(3), "SkipNonFinite"),
    ):
        model = {"layers": [np.ones(1), np.ones(1), np.ones(1)]}
        rules = [Adam(), OptimiserChain(first, Descent()), MixedPrecision(OptimiserChain(Descent(), second))]
        state = optirs.setup(lambda path, _, rules=rules: rules[path[1]], model)
        with pytest.raises(ValueError, match=r"^metrics: .* are two groups of one name: .* another name") as caught:
            metrics(state)
        for words in (repr(first), repr(second), "layers[1]", "layers[2]", f"{text}(..., name="):
            assert words in str(caught.value)
        assert metrics(state["layers"][1])
    within = optirs.setup(OptimiserChain(ClipGlobalNorm(1.0), Descent(), ClipGlobalNorm(2.0)), np.ones(2))
    with pytest.raises(ValueError, match="are two groups of one name"):
        metrics(within)


def test_groups_that_follow_schedules() -> None:
    rule = OptimiserChain(Scheduled(ClipGlobalNorm(), omega=schedules.Polynomial(1.0, 10, 11.0)), Descent(1.0))
    model = {"a": np.zeros(1), "b": np.zeros(1)}
    state, model = stepped(rule, model, [{"a": [3.0], "b": [4.0]}, {"a": [7.0]}])
    assert metrics(state) == {"ClipGlobalNorm.norm": 7.0}  # one rule, though at different steps of its schedule
    values = [1.0, 2.0]
    rules = {
        "a": Scheduled(clipped(), omega=lambda t: values[t]),  # which ends with the training
        "b": clipped(omega=2.0),
    }
    state = optirs.setup(lambda path, _: rules[path[0]], {"a": np.zeros(1), "b": np.zeros(1)})
    with pytest.raises(ValueError, match="are two groups of one name"):
        metrics(state)
    state, _ = stepped(None, {"a": np.zeros(1), "b": np.zeros(1)}, [{"a": [3.0], "b": [4.0]}] * 2, state=state)
    assert metrics(state) == {"ClipGlobalNorm.norm": 5.0}
    state = optirs.setup(Scheduled(clipped(), eta=lambda t: 1 / (1 - t)), {"a": np.zeros(1)})
    assert metrics(optirs.update(state, {"a": np.zeros(1)}, {"a": [3.0]})[0]) == {"ClipGlobalNorm.norm": 3.0}


def test_what_a_subclass_of_ones_own_is() -> None:
    class Renamed(ClipGlobalNorm):
        """One of the group of its parent."""

    class Doubled(ClipGlobalNorm):
        def apply(self, state: Any, x: Any, dx: Any) -> Any:
            state, dx = super().apply(state, x, dx)
            return state, 2 * dx

    model = {"a": np.zeros(1), "b": np.zeros(1), "c": np.zeros(1)}
    rules = {"a": OptimiserChain(Renamed(), Descent(1.0)), "b": clipped(), "c": OptimiserChain(Doubled(), Descent(1.0))}
    state, new = stepped(lambda path, _: rules[path[0]], model, [{"a": [3.0], "b": [4.0], "c": [9.0]}])
    np.testing.assert_allclose([*new.values()], [[-0.6], [-0.8], [-2.0]], rtol=1e-15)
    assert metrics(state) == {"ClipGlobalNorm.norm": 5.0}
