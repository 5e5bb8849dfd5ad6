"""What stands at several places of a model as one object does so in all that is rebuilt."""

import copy
import pickle
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import optirs

HALF = optirs.Descent(0.5)
Pair = namedtuple("Pair", "w rest")


@optirs.functor(children=("w",))
class Layer:
    def __init__(self, w):
        self.w, self.calls = w, 0


@optirs.functor
@dataclass(frozen=True, slots=True)
class Slotted:
    w: Any


class Table(dict):
    """A class derived from `dict`."""


@optirs.functor(trainable=("a",))
@dataclass
class Half:
    a: Any
    b: Any


CONTAINERS = {
    "class": Layer,
    "slots": Slotted,
    "dict": lambda w: {"w": w},
    "list": lambda w: [w],
    "tuple": lambda w: (w, "x"),
    "named tuple": lambda w: Pair(w, None),
    "ordered": lambda w: OrderedDict(w=w),
    "derived": lambda w: Table(w=w),
}


def inside(node):
    if isinstance(node, dict):
        return node["w"]
    return node.w if hasattr(node, "w") else node[0]


def in_file(state, model, tmp_path):
    optirs.save(tmp_path / "f", model=model, state=state)
    found = optirs.load(tmp_path / "f", like=model)
    return found.state, found.model


ROADS = {
    "update": lambda state, model, _: optirs.update(state, model, None),
    "load": in_file,
    "restructure": lambda state, model, _: (state, optirs.destructure(model)[1](optirs.destructure(model)[0])),
    "train": lambda state, model, _: rebuilt_by_train(state, model),
    "pickle": lambda state, model, _: pickle.loads(pickle.dumps((state, model))),
    "deepcopy": lambda state, model, _: copy.deepcopy((state, model)),
    "adjust": lambda state, model, _: (optirs.adjust(state, 0.25), model),
}


def rebuilt_by_train(state, model):
    result = optirs.train(lambda m, x: (1.0, None), model, (np.ones(1),), state=state)
    return result.state, result.model


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("kind", CONTAINERS)
def test_one_object_stays_one(kind, road, tmp_path):
    shared = CONTAINERS[kind](np.ones(2))
    model = {"encoder": shared, "more": [shared, 3], "own": CONTAINERS[kind](np.ones(2)), "decoder": {"of": shared}}
    state, new = ROADS[road](optirs.setup(optirs.Momentum(0.5), model), model, tmp_path)
    for tree in (state, new):
        assert tree["encoder"] is tree["more"][0] is tree["decoder"]["of"]
        assert tree["own"] is not tree["encoder"]
    if road == "adjust":
        return
    assert type(new["encoder"]) is type(shared)
    assert new["encoder"] is not shared
    assert inside(new["encoder"]) is not inside(shared)
    grad = {"encoder": copy.copy(shared), "decoder": {"of": copy.copy(shared)}}
    after = optirs.update(state, new, grad)[1]
    assert inside(after["decoder"]["of"]).tolist() == [0, 0]  # the gradients at its places are summed
    assert after["encoder"] is after["decoder"]["of"]


def test_attributes_are_kept_and_in_place_nothing_is_made():
    shared = Layer(np.ones(1))
    shared.calls = 7
    model = [shared, shared]
    state = optirs.setup(HALF, model)
    _, pure = optirs.update(state, model, [{"w": [1.0]}, None])
    assert pure[0] is pure[1] is not shared
    assert (pure[0].calls, pure[0].w) == (7, 0.5)
    _, same = optirs.update_(state, model, [{"w": [1.0]}, {"w": [1.0]}])
    assert same[0] is same[1] is shared
    assert shared.w == 0


def test_the_step_goes_on_for_many_updates():
    shared = [np.ones(2), {"deep": np.ones(3)}]
    model = {"a": shared, "b": shared}
    apart = {"a": [np.ones(2), {"deep": np.ones(3)}]}
    state, other = optirs.setup(optirs.Adam(0.1), model), optirs.setup(optirs.Adam(0.1), apart)
    for i in range(5):
        g = [np.full(2, float(i)), {"deep": np.full(3, -1.0)}]
        state, model = optirs.update(state, model, {"a": g, "b": None} if i % 2 else {"a": None, "b": g})
        other, apart = optirs.update(other, apart, {"a": g})
        assert model["a"] is model["b"]
        assert state["a"] is state["b"]
    assert (model["a"][0] == apart["a"][0]).all()
    assert state["a"] == other["a"]


def test_what_is_shared_below_what_is_shared():
    inner = {"w": np.ones(1)}
    outer = (inner, [inner], np.ones(1))
    model = [outer, {"in": inner, "out": outer}]
    for road in ("update", "restructure"):
        _, new = ROADS[road](optirs.setup(HALF, model), model, None)
        assert new[0] is new[1]["out"]
        assert new[0][0] is new[0][1][0] is new[1]["in"]
        assert new[0][0] is not inner


@pytest.mark.parametrize("empty", [[], {}, (), OrderedDict(), [3, "x"], {"n": None}], ids=repr)
@pytest.mark.parametrize("road", ["update", "load", "restructure"])
def test_containers_without_parameters(empty, road, tmp_path):
    model = {"a": empty, "b": [empty], "w": np.ones(1)}
    state, new = ROADS[road](optirs.setup(HALF, model), model, tmp_path)
    assert new["a"] is new["b"][0]
    assert new["a"] == empty
    assert optirs.update(state, new, {"w": [1.0]})[1]["w"] == 0.5


@pytest.mark.parametrize("road", ["update", "load", "restructure"])
@pytest.mark.parametrize("shared", [[np.ones(2)], [np.ones(2, int)], [], {"deep": [np.ones(2)]}], ids=repr)
def test_trained_here_and_not_there(shared, road, tmp_path):
    for model in (
        {"one": shared, "other": Half(np.ones(1), shared)},
        {"one": Half(np.ones(1), shared), "other": shared},
        {"one": Half(np.ones(1), {"of": (shared, shared)}), "other": shared},
    ):
        state, new = ROADS[road](optirs.setup(HALF, model), model, tmp_path)
        found = [new["one"], new["other"]]
        found = [x.b if isinstance(x, Half) else x for x in found]
        found = [x["of"][0] if isinstance(x, dict) and "of" in x else x for x in found]
        assert found[0] is found[1]
        assert optirs.update(state, new, None)[1] is not new


def test_untrained_children_alone():
    shared = [np.ones(2), np.ones(1)]
    model = [Half(np.ones(1), shared), Half(shared[1], shared)]
    state = optirs.setup(HALF, model)
    _, new = optirs.update(state, model, [None, {"a": [1.0]}])
    assert new[0].b is new[1].b
    assert new[0].b[0] is shared[0]
    assert new[0].b[1] is new[1].a
    assert new[1].a == 0.5
    model = [Half(np.ones(1), shared), Half(np.ones(1), shared)]
    _, new = optirs.update(optirs.setup(HALF, model), model, None)
    assert new[0].b is new[1].b is shared


def test_a_frozen_leaf_and_one_that_has_none():
    shared = {"w": np.ones(1), "base": np.ones(1)}
    model = [shared, shared]
    state = optirs.setup(lambda path, _: HALF if path[-1] == "w" else None, model)
    optirs.freeze_(state[0]["w"])
    _, new = optirs.update(state, model, [{"w": [1.0]}, None])
    assert new[0] is new[1] is not shared
    assert new[0]["base"] is shared["base"]
    assert new[0]["w"] is not shared["w"]
    assert new[0]["w"] == 1


def test_transposes_in_what_is_shared(tmp_path):
    W = np.arange(6.0).reshape(2, 3)
    shared = Layer(W.T)
    model = [W, shared, shared]
    for road in ("update", "load", "restructure"):
        _, new = ROADS[road](optirs.setup(HALF, model), model, tmp_path)
        assert new[1] is new[2]
        assert np.shares_memory(new[0], new[1].w)


def test_a_model_that_stands_in_its_own_state_is_not_needed():
    """A state whose containers are apart, as one from before, steps the same model."""
    shared = Layer(np.ones(1))
    model = [shared, shared]
    leaf = optirs.setup(HALF, shared).w
    state = [optirs.setup(HALF, shared), optirs.setup(HALF, shared)]
    state[0].w = state[1].w = leaf
    state, new = optirs.update(state, model, [{"w": [1.0]}, None])
    assert new[0] is new[1]
    assert state[0] is not state[1]
    assert new[0].w == 0.5


def test_gradients_of_shared_layers_differ_from_place_to_place():
    layer = optirs.Dense.glorot(2, 2, "tanh", rng=optirs.Xoshiro(1))
    model = optirs.Chain(layer, layer)
    x, y = np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)
    _, grad = optirs.supervised(optirs.mse)(model, x, y)
    assert grad[0] is not grad[1]
    assert (grad[0].W != grad[1].W).any()
    result = optirs.train(optirs.supervised(optirs.mse), model, (x, y), optirs.Descent(0.1), epochs=3)
    by_hand = model
    state = optirs.setup(optirs.Descent(0.1), model)
    for _ in range(3):
        state, by_hand = optirs.update(state, by_hand, optirs.supervised(optirs.mse)(by_hand, x, y)[1])
    assert result.model[0] is result.model[1]
    assert result.state[0] is result.state[1]
    assert result.model == by_hand


def test_a_bridge_hands_out_one_object_and_one_gradient():
    shared = Layer(np.ones(2))
    seen = []

    def f(model, x):
        seen.append(model)
        return (model["a"].w * model["b"].w * x).sum()

    _, grad = optirs.with_autograd(f)({"a": shared, "b": shared}, np.ones(2))
    assert seen[0]["a"] is seen[0]["b"]
    assert grad["a"].w.tolist() == [2, 2]
    assert grad["b"].w is None


def test_objects_that_live_only_while_they_are_looked_at():
    """A property makes its child anew: another child may get the address of one that is gone."""

    @optirs.functor(children=("part",))
    class Lazy:
        def __init__(self, w):
            self.w = w

        @property
        def part(self):
            return {"w": self.w}

        @part.setter
        def part(self, part):
            self.w = part["w"]

    model = [Lazy(np.full(1, float(i))) for i in range(50)]
    state = optirs.setup(HALF, [SimpleNamespace.__new__(SimpleNamespace), *model])[1:]
    _, new = optirs.update(state, model, None)
    assert [float(layer.w[0]) for layer in new] == list(range(50))
