"""AccumGrad, MixedPrecision and rules of one's own on trees."""

from dataclasses import dataclass

import numpy as np
import pytest

import optirs
from optirs import Descent


@pytest.mark.parametrize("step", [optirs.update, optirs.update_])
def test_accumgrad_collects_then_steps(step):
    tree = {"w": np.ones(2), "b": np.ones(1)}
    state = optirs.setup(optirs.OptimiserChain(optirs.AccumGrad(2), Descent(1.0), optirs.Momentum(1.0, 0.5)), tree)
    state, tree = step(state, tree, {"w": np.ones(2), "b": np.ones(1)})
    assert (tree["w"] == 1).all()
    accum, _, momentum = state["w"].state
    assert accum["count"] == 1
    assert (accum["accum"] == 0.5).all()
    assert (momentum["velocity"] == 0).all()
    state, tree = step(state, tree, {"w": np.full(2, 3.0), "b": None})
    assert (tree["w"] == -1).all()
    assert (tree["b"] == 1).all()
    assert state["w"].state[0]["count"] == 0
    assert state["b"].state[0]["count"] == 1


@pytest.mark.parametrize("step", [optirs.update, optirs.update_])
def test_mixed_precision_steps_a_master_copy(step):
    x = np.ones(4, np.float16)
    state, x = step(optirs.setup(optirs.MixedPrecision(Descent(1.0)), x), x, np.full(4, 2.0**-13))
    master, inner = state.state
    assert inner is None
    assert master.dtype == np.float32
    assert (master == 1 - 2.0**-13).all()
    assert x.dtype == np.float16
    assert (x == 1).all()
    for _ in range(3):
        state, x = step(state, x, np.full(4, 2.0**-13))
    assert (x == np.float16(1 - 2.0**-11)).all()
    with pytest.raises(ValueError, match="MixedPrecision"):
        optirs.OptimiserChain(optirs.MixedPrecision(Descent()))


@dataclass(frozen=True)
class Keeper(optirs.Rule):
    """Keeps the arrays that it is shown."""

    def init(self, x):
        return x, [x]

    def apply(self, state, x, dx):
        return (x, {"dx": dx}), dx


def test_what_an_own_rule_keeps_does_not_change_with_model_or_gradient():
    x, g = np.ones(2), np.ones(2)
    state = optirs.setup(Keeper(), x)
    x[:] = 5
    assert (state.state[0] == 1).all()
    assert (state.state[1][0] == 1).all()
    optirs.update_(state, x, g)
    g[:] = 9
    assert (x == 4).all()
    assert (state.state[0] == 5).all()
    assert (state.state[1]["dx"] == 1).all()


def test_own_rule_may_not_write():
    @dataclass(frozen=True)
    class Writer(Keeper):
        def apply(self, state, x, dx):
            dx *= 2
            return state, dx

    x, g = np.ones(2), np.ones(2)
    state = optirs.setup(Writer(), x)
    with pytest.raises(ValueError, match="read-only"):
        optirs.update(state, x, g)
    assert (g == 1).all()


@pytest.mark.parametrize(
    "bad", [np.ones(3), "x", 1j * np.ones(2), object()], ids=["shape", "text", "complex", "object"]
)
@pytest.mark.parametrize("step", [optirs.update, optirs.update_])
def test_what_an_own_rule_returns_is_checked(bad, step):
    @dataclass(frozen=True)
    class Bad(Keeper):
        def apply(self, state, x, dx):
            return "new", bad

    x = [np.ones(2), np.ones(2)]
    state = optirs.setup(lambda path, _: Descent() if path == (0,) else Bad(), x)
    with pytest.raises((TypeError, ValueError), match="Bad"):
        step(state, x, [np.ones(2), np.ones(2)])
    assert (x[0] == 1).all()
    assert state[1].state != "new"


def test_built_in_rules_around_an_own_one_are_as_each_by_itself():
    class Halve(optirs.Rule):
        def init(self, x):
            return None

        def apply(self, state, x, dx):
            return None, dx / 2

    before = (optirs.WeightDecay(0.1), optirs.Momentum(0.1), optirs.ClipNorm(1.0))
    after = (optirs.SignDecay(0.1), optirs.Adam())
    chain = optirs.OptimiserChain(*before, Halve(), *after)
    x, dx = np.linspace(-1, 1, 9), np.ones(9)
    state = optirs.init(chain, x)
    got = optirs.apply(chain, state, x, dx)
    states, step = [], dx
    for rule in chain.rules:
        new, step = optirs.apply(rule, optirs.init(rule, x), x, step)
        states.append(new)
    assert (got[1] == step).all()
    assert (got[0][1]["velocity"] == states[1]["velocity"]).all()
    assert (got[0][5]["v"] == states[5]["v"]).all()
