"""State trees and Leafs."""

import copy
import pickle
from collections import namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

import optirs
from optirs import Adam, Descent, Leaf, Momentum, OptimiserChain, WeightDecay

Pair = namedtuple("Pair", "a b")
CHAIN = OptimiserChain(WeightDecay(), Adam(), OptimiserChain(Descent(), Momentum()))


@optirs.functor(children=("W", "stats", "act"), trainable=("W",))
@dataclass
class Layer:
    W: np.ndarray
    stats: list
    act: object = abs
    note: str = "x"


@dataclass(frozen=True)
class Own(optirs.Rule):
    eta: float = 0.5

    def init(self, x):
        return {"m": np.zeros_like(x), "nan": float("nan"), "o": SimpleNamespace(a=np.ones(2))}

    def apply(self, state, x, dx):
        return {**state, "m": state["m"] + dx}, self.eta * dx


def model():
    return {"layers": [Layer(np.ones((2, 3)), [np.ones(2)])], "t": Pair(np.ones(2, np.float32), "s"), "n": 3}


def gradient():
    return {"layers": [{"W": np.full((2, 3), 2.0)}], "t": Pair(np.ones(2, np.float32), None)}


def leafs(rule):
    state = optirs.setup(rule, model())
    return state["layers"][0].W, state["t"].a


def test_setup_mirrors_the_model():
    state = optirs.setup(Adam(), model())
    assert list(state) == ["layers", "t", "n"]
    layer = state["layers"][0]
    assert type(layer) is Layer
    assert vars(layer).keys() == {"W", "stats", "act", "note"}
    assert isinstance(layer.W, Leaf)
    assert layer.note is None
    assert layer.stats is None
    assert layer.act is None
    assert type(state["t"]) is Pair
    assert isinstance(state["t"].a, Leaf)
    assert state["t"].b is None
    assert state["n"] is None


def test_forms_of_leaf_state():
    assert leafs(Descent())[0].state is None
    state = leafs(Adam())[0].state
    assert list(state) == ["m", "v", "t"]
    assert state["m"].shape == (2, 3)
    assert state["t"] == 0
    assert type(state["t"]) is int
    nested = leafs(CHAIN)[0].state
    assert nested[0] is None
    assert list(nested[1]) == ["m", "v", "t"]
    assert nested[2][0] is None
    assert list(nested[2][1]) == ["velocity"]
    assert leafs(OptimiserChain())[0].state == ()


def test_second_moments_of_complex_parameters_are_real():
    state = optirs.setup(Adam(), np.ones(2, np.complex64)).state
    assert state["m"].dtype == np.complex64
    assert state["v"].dtype == np.float32


@pytest.mark.parametrize("rule", [optirs.ClipGrad(), optirs.Rprop(), OptimiserChain(optirs.ClipGrad(), Adam())])
def test_rules_without_complex_meaning(rule):
    with pytest.raises(TypeError, match=r"z is complex64: (ClipGrad|Rprop)"):
        optirs.setup(rule, {"z": np.ones(2, np.complex64)})


def test_state_arrays_are_live_views():
    tree = model()
    state = optirs.setup(Adam(), tree)
    leaf = state["layers"][0].W
    m = leaf.state["m"]
    assert np.shares_memory(m, leaf.state["m"])
    optirs.update_(state, tree, gradient())
    assert (m == 0.2).all() or np.allclose(m, 0.2)
    assert leaf.state["t"] == 1
    m[...] = 7
    assert (leaf.state["m"] == 7).all()
    del state, leaf
    assert (m == 7).all()


def test_fortran_state_is_shaped_like_the_parameter():
    x = np.asfortranarray(np.ones((2, 3)))
    m = optirs.setup(Adam(), x).state["m"]
    assert m.shape == (2, 3)
    assert m.strides == x.strides


def test_leaves_compare_by_value():
    a, b = leafs(Adam())[0], leafs(Adam())[0]
    assert a == b
    assert a == a
    assert (a != b) is False
    b.state["v"][0, 0] = -0.0
    assert a != b  # bit for bit
    b.state["v"][0, 0] = a.state["m"][0, 0] = np.nan
    assert a == copy.deepcopy(a)
    assert leafs(Adam())[0] != leafs(Adam(0.1))[0]
    assert leafs(Adam())[0] != leafs(Adam())[1]
    assert leafs(Adam())[0] != 3
    frozen = leafs(Adam())[0]
    optirs.freeze_(frozen)
    assert frozen != leafs(Adam())[0]
    assert optirs.setup(Adam(), model()) == optirs.setup(Adam(), model())


@pytest.mark.parametrize("x", [np.ones(3, np.float32), np.ones((3, 1)), np.ones(2), np.ones(3, complex)])
def test_equality_is_by_rule_state_and_flag_not_by_parameter(x):
    mine, theirs = optirs.setup(Descent(), np.ones(3)), optirs.setup(Descent(), x)
    assert mine == theirs
    assert optirs.setup(Descent(0.2), np.ones(3)) != theirs
    assert optirs.freeze_(mine) != theirs
    assert optirs.setup(Momentum(), np.ones(3)) != optirs.setup(Momentum(), x)  # the arrays of the state differ


def test_leaves_with_the_same_state_are_equal_whatever_the_parameters_type():
    half, single = (optirs.setup(Adam(), np.ones(3, t)) for t in (np.float16, np.float32))
    assert half == single  # the moments of both are float32


def test_leaves_are_not_hashable():
    with pytest.raises(TypeError, match="unhashable"):
        hash(leafs(Adam())[0])


def test_repr_is_one_short_line():
    leaf = leafs(Descent(0.5))[0]
    assert repr(leaf) == "Leaf(Descent(eta=0.5), float64 (2, 3))"
    assert repr(optirs.freeze_(leaf)) == "Leaf(Descent(eta=0.5), float64 (2, 3), frozen)"


@pytest.mark.parametrize(
    "rule",
    [
        Descent(),
        Adam(),
        CHAIN,
        optirs.AccumGrad(2),
        Own(),
        optirs.MixedPrecision(Adam()),
        OptimiserChain(Own(), Adam()),
    ],
    ids=repr,
)
@pytest.mark.parametrize("copied", [lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy, optirs.adjust])
def test_copies_are_equal_and_independent(rule, copied):
    tree = model()
    state, tree = optirs.update(optirs.setup(rule, tree), tree, gradient())
    optirs.freeze_(state["t"])
    new = copied(state)
    assert new == state
    assert new["t"].a is not state["t"].a
    assert new["t"].a.frozen
    kept = copy.deepcopy(state)
    optirs.thaw_(new)
    optirs.update_(new, copy.deepcopy(tree), gradient())
    assert state == kept
    assert new != state or rule == Descent()
    # Both go on with the same bits.
    optirs.thaw_(state)
    again = optirs.update(state, tree, gradient())
    np.testing.assert_array_equal(again[1]["t"].a, optirs.update(copied(state), tree, gradient())[1]["t"].a)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 3), (3, 1), (1, 1, 1), (2, 1, 3)])
@pytest.mark.parametrize("order", "CF")
def test_leaves_of_every_shape_pickle(shape, order):
    x = np.ones(shape, order=order)
    state, _ = optirs.update(optirs.setup(Adam(), x), x, np.ones(shape))
    new = pickle.loads(pickle.dumps(state))
    assert new == state
    assert new.state["m"].strides == state.state["m"].strides


def test_adjust_changes_eta_and_keeps_moments():
    tree = model()
    state, _ = optirs.update(optirs.setup(Adam(), tree), tree, gradient())
    kept = copy.deepcopy(state)
    new = optirs.adjust(state, 0.25, beta=(0.5, 0.75))
    assert new["t"].a.rule == Adam(0.25, (0.5, 0.75))
    np.testing.assert_array_equal(new["t"].a.state["m"], state["t"].a.state["m"])
    assert new["t"].a.state["t"] == 1
    assert not np.shares_memory(new["t"].a.state["m"], state["t"].a.state["m"])
    assert state == kept
    assert type(new["layers"][0]) is Layer


def test_adjust_in_place_on_a_subtree():
    state = optirs.setup(Adam(), model())
    leaf = state["t"].a
    assert optirs.adjust_(state["t"], 0.25) is state["t"]
    assert state["t"].a is leaf
    assert leaf.rule.eta == 0.25
    assert state["layers"][0].W.rule.eta == 0.001
    optirs.adjust_(leaf, epsilon=1e-3)
    assert leaf.rule == Adam(0.25, epsilon=1e-3)
    _, new = optirs.update(optirs.adjust(optirs.setup(Descent(1.0), np.ones(1)), 0.25), np.ones(1), [1.0])
    assert new == 0.75


def test_adjust_a_rule():
    assert optirs.adjust(Adam(), 0.25) == Adam(0.25)
    assert optirs.adjust(CHAIN, lambda_=0.25).rules[0] == WeightDecay(0.25)
    assert optirs.adjust(CHAIN, rho=0.25).rules[2].rules[1] == Momentum(rho=0.25)
    assert optirs.adjust(optirs.MixedPrecision(Adam()), 0.5).rule.eta == 0.5
    assert optirs.adjust(Own(), 0.25) == Own(0.25)
    with pytest.raises(TypeError, match=r"^adjust_: a rule does not change: use adjust"):
        optirs.adjust_(Adam(), 0.25)


@pytest.mark.parametrize("act", [optirs.adjust, optirs.adjust_])
def test_errors_of_adjust_say_which_one_was_called(act):
    state = optirs.setup(Adam(), [np.ones(2)])
    with pytest.raises(ValueError, match=f"^{act.__name__}: no rule here has a field 'rho'"):
        act(state, rho=0.5)
    with pytest.raises(TypeError, match=f"^{act.__name__}: eta is given twice$"):
        act(state, 0.5, eta=0.5)
    with pytest.raises(TypeError, match=f"^{act.__name__} takes a state"):
        act([np.ones(2)], 0.5)


def test_adjust_what_some_rules_have():
    x = {"a": np.ones(2), "b": np.ones(2)}
    state = optirs.setup(lambda path, _: Momentum() if path == ("a",) else Descent(), x)
    new = optirs.adjust(state, rho=0.25)
    assert new["a"].rule == Momentum(rho=0.25)
    assert new["b"].rule == Descent()


@pytest.mark.parametrize("adjust", [optirs.adjust, optirs.adjust_])
def test_adjust_errors_change_nothing(adjust):
    state = optirs.setup(CHAIN, model())
    kept = copy.deepcopy(state)
    with pytest.raises(ValueError, match=r"'gamma'.*eta, beta"):
        adjust(state, gamma=1.0)
    with pytest.raises(ValueError, match="eta must be >= 0"):
        adjust(state, -1.0)
    with pytest.raises(TypeError):
        adjust(state, "fast")
    with pytest.raises(TypeError, match="eta is given twice"):
        adjust(state, 0.1, eta=0.2)
    for rule, field in [(optirs.RMSProp(), "centred"), (optirs.MixedPrecision(Adam()), "dtype")]:
        with pytest.raises(ValueError, match=field):
            adjust(optirs.setup(rule, model()), **{field: True})
    with pytest.raises(ValueError, match="'n'"):
        adjust(optirs.setup(optirs.AccumGrad(2), model()), n=3)
    with pytest.raises(TypeError, match="state"):
        adjust(model(), 0.1)
    assert state == kept


def test_freeze_and_thaw():
    tree = model()
    state = optirs.setup(Adam(), tree)
    assert optirs.freeze_(state["layers"]) is state["layers"]
    new, out = optirs.update(state, tree, gradient())
    assert new["layers"][0].W.frozen
    assert new["layers"][0].W.state["t"] == 0
    assert new["t"].a.state["t"] == 1
    assert (out["layers"][0].W == 1).all()
    assert out["layers"][0].W is not tree["layers"][0].W
    optirs.thaw_(new)
    assert optirs.update(new, out, gradient())[0]["layers"][0].W.state["t"] == 1


@pytest.mark.parametrize("act", [optirs.freeze_, optirs.thaw_])
def test_freezing_a_model_is_an_error(act):
    with pytest.raises(TypeError, match="takes a state"):
        act(model())


class Odd(np.ndarray):
    """A subclass."""


BUFFER = np.zeros(32, np.float32)
APART = {
    "affine": optirs.Affine(np.zeros((2, 3), np.float32), np.zeros(2, np.float32)),
    "chain": optirs.Chain(optirs.Affine.random(2, 3), optirs.Chain(optirs.Affine.random(3, 1))),
    "dict": {"a": np.zeros(3), "b": [np.ones((2, 2), np.float16)], "c": (np.ones(1, complex),)},
    "names, numbers, nothing": {"w": np.ones(2), "name": "x", "n": 3, "none": None, "act": abs},
    "0-d": [np.array(1.0), np.array(2.0, np.float32)],
    "views": [BUFFER[:4], BUFFER[4:8], np.asfortranarray(np.ones((2, 3)))],
    "others": [np.ones(2).view(Odd), np.ones(2, ">f4"), np.ones(3)[::-1]],
}
TOGETHER = {
    "tied": [BUFFER[:4], BUFFER[:4]],
    "transposed": [BUFFER[:4].reshape(2, 2), BUFFER[:4].reshape(2, 2).T],
    "interleaved": [BUFFER[::2], BUFFER[1::2]],
    "overlapping": [BUFFER[:4], BUFFER[3:8]],
    "empty": [np.ones(2), np.ones(0)],
    "integers": [np.ones(2), np.ones(2, int)],
    "partly trained": Layer(np.ones((2, 3)), [np.ones(2)]),
    "nothing": {"name": "x"},
}


@pytest.mark.filterwarnings("ignore:setup found no trainable")
@pytest.mark.parametrize("name", [*APART, *TOGETHER])
@pytest.mark.parametrize("rule", [CHAIN, Own(), optirs.Lion()], ids=["chain", "own", "real"])
def test_one_call_makes_what_the_general_road_makes(name, rule):
    model = (APART | TOGETHER)[name]

    def outcome(rule):
        try:
            state = optirs.setup(rule, model)
        except (TypeError, ValueError) as error:
            return type(error), str(error)
        return [(path, leaf if leaf is None else repr(leaf.state)) for path, leaf, _ in optirs.trees.tree.leaves(state)]

    assert outcome(rule) == outcome(lambda path, x: rule)
    if rule is CHAIN and name != "others":
        assert (optirs._core.setup(rule, model) is not None) == (name in APART)


def test_rules_by_a_function():
    seen = []

    def choose(path, array):
        seen.append((path, array.shape))
        return None if array.ndim == 2 else Descent(0.5)

    tree = model()
    state = optirs.setup(choose, tree)
    assert seen == [(("layers", 0, "W"), (2, 3)), (("t", "a"), (2,))]
    assert isinstance(seen[0][0], optirs.KeyPath)
    assert state["layers"][0].W is None
    _, new = optirs.update(state, tree, gradient())
    assert new["layers"][0].W is tree["layers"][0].W
    assert (new["t"].a == 0.5).all()
    with pytest.raises(TypeError, match="rule function returned 3 for layers"):
        optirs.setup(lambda path, x: 3, tree)
