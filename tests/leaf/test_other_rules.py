"""A rule whose `replace` returns another one: its Leaf's state must be fit for it, in place as elsewhere."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import optirs
from optirs import _core


class Switch(optirs.Momentum):
    """Becomes whatever `other` is."""

    other: Any = None

    def replace(self, **changes: Any) -> Any:
        return type(self).other


@dataclasses.dataclass(frozen=True)
class Own(optirs.Rule):
    eta: float = 0.5

    def init(self, x: Any) -> Any:
        return {"velocity": np.zeros_like(x)}

    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        return state, dx * self.eta

    def replace(self, **changes: Any) -> Any:
        return optirs.Momentum(**changes)


def becoming(other: Any) -> optirs.Rule:
    rule: optirs.Rule = type("Becoming", (Switch,), {"other": other})()
    return rule


def adjusted(state: Any) -> Any:
    return optirs.adjust(state, 0.5)


def adjusted_in_place(state: Any) -> Any:
    return optirs.adjust_(state, 0.5)


EACH_WAY = pytest.mark.parametrize("adjust", [adjusted, adjusted_in_place])
UNFIT = {
    "other slots": optirs.Adam(),
    "other names": optirs.AdaGrad(),
    "none": optirs.Descent(),
    "a chain": optirs.OptimiserChain(optirs.Momentum()),
    "a longer chain": optirs.OptimiserChain(optirs.Momentum(), optirs.Momentum()),
    "a master copy": optirs.MixedPrecision(optirs.Momentum()),
    "a schedule": optirs.Scheduled(optirs.Momentum(), eta=optirs.schedules.Constant(0.5)),
    "a counter": optirs.AccumGrad(2),
}


@EACH_WAY
@pytest.mark.parametrize("other", UNFIT.values(), ids=UNFIT)
def test_a_rule_for_which_the_state_is_unfit_is_refused(adjust: Callable[[Any], Any], other: optirs.Rule) -> None:
    model = {"a": np.ones(300), "b": [np.ones(300)]}
    state = optirs.setup(lambda path, _: optirs.Descent() if path == ("a",) else becoming(other), model)
    before = state["b"][0].rule
    with pytest.raises(ValueError, match="the state does not fit the rule") as caught:
        adjust(state)
    assert str(caught.value).endswith(", for the parameter at b[0]")
    assert state["a"].rule == optirs.Descent()
    assert state["b"][0].rule is before
    optirs.update_(state, model, model)
    with pytest.raises(ValueError, match="the state does not fit the rule"):
        _core.set_rules([state["b"][0]], [other])
    with pytest.raises(ValueError, match="the state does not fit the rule"):
        state["b"][0]._with_rule(other)


@EACH_WAY
def test_a_rule_for_which_it_is_fit_goes_on_from_there(adjust: Callable[[Any], Any]) -> None:
    x = np.ones(3)
    state = optirs.setup(becoming(optirs.Nesterov(0.25)), x)
    optirs.update_(state, x, np.full(3, 2.0))
    velocity = state.state["velocity"].copy()
    state = adjust(state)
    assert state.rule == optirs.Nesterov(0.25)
    assert np.array_equal(state.state["velocity"], velocity)
    expected = optirs.apply(optirs.Nesterov(0.25), {"velocity": velocity}, x, x)[1]
    before = x.copy()
    optirs.update_(state, x, x)
    assert np.array_equal(x, before - expected)


@EACH_WAY
def test_rules_in_python_become_compiled_ones_and_back(adjust: Callable[[Any], Any]) -> None:
    x = np.ones(3)
    state = adjust(optirs.setup(Own(), x))
    assert state.rule == optirs.Momentum(0.5)
    optirs.update_(state, x, np.full(3, 2.0))
    assert np.array_equal(x, np.zeros(3))
    assert np.array_equal(state.state["velocity"], np.ones(3))
    state = adjust(optirs.setup(becoming(Own()), x))
    assert isinstance(state.rule, Own)
    optirs.update_(state, x, np.full(3, 2.0))
    assert np.array_equal(x, -np.ones(3))


@EACH_WAY
def test_complex_parameters_and_counts_are_checked(adjust: Callable[[Any], Any]) -> None:
    class Stateless(optirs.Descent):
        def replace(self, **changes: Any) -> Any:
            return optirs.ClipGrad()

    with pytest.raises(TypeError, match="the parameter at w is complex128: ClipGrad has no meaning"):
        adjust(optirs.setup(Stateless(), {"w": np.ones(2, complex)}))

    class Fewer(optirs.AccumGrad):
        def _adjustable(self) -> list[str]:
            return ["eta"]

        def replace(self, **changes: Any) -> Any:
            return optirs.AccumGrad(2)

    x = np.ones(2)
    state = optirs.setup(Fewer(5), x)
    for _ in range(4):
        optirs.update_(state, x, x)
    with pytest.raises(ValueError, match="AccumGrad: count must be less than n, got 4"):
        adjust(state)


def test_set_rules_takes_a_rule_for_each_leaf() -> None:
    state = optirs.setup(optirs.Descent(), [np.ones(2), np.ones(2)])
    with pytest.raises(ValueError, match="1 rules for 2 leaves"):
        _core.set_rules(state, [optirs.Descent(0.5)])
    with pytest.raises(RuntimeError, match="in use"):
        _core.set_rules([state[0], state[0]], [optirs.Descent(0.5)] * 2)
    assert state[0].rule == state[1].rule == optirs.Descent()
