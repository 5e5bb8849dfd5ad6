"""Structures that try to crash the walk: endless, deep, or with attributes that raise."""

import threading

import numpy as np
import pytest
from at_once import run_all

import optirs


@optirs.functor(children=("child",))
class Node:
    def __init__(self, child=None):
        self.child = child


def endless():
    loop = []
    loop += [loop, loop]
    table = {}
    table["me"] = table
    node = Node()
    node.child = (node, node)
    deep, wrapped = np.ones(1), np.ones(1)
    for _ in range(100_000):
        deep, wrapped = [deep], Node(wrapped)
    return [loop, table, node, deep, wrapped]


@pytest.mark.parametrize("case", range(5))
def test_endless_structures_are_errors(case, tmp_path):
    tree = endless()[case]
    keys = ((0, "me", "child", 0, "child")[case],) * 100_000
    if case == 2:
        keys = ("child", 0) * 50_000
    x = [np.ones(1)]
    state = optirs.setup(optirs.Descent(), x)
    for act in (
        lambda: optirs.setup(optirs.Descent(), tree),
        lambda: optirs.trainables(tree),
        lambda: optirs.destructure(tree),
        lambda: optirs.getkeypath(tree, keys),
        lambda: optirs.adjust(tree, 0.1),
        lambda: optirs.adjust_(tree, 0.1),
        lambda: optirs.freeze_(tree),
        lambda: optirs.thaw_(tree),
        lambda: optirs.save(tmp_path / "tree", model=tree),
        lambda: optirs.save(tmp_path / "tree", state=tree),
        lambda: optirs.train(lambda model, x: (1.0, tree), x, (np.ones(1),), optirs.Descent(), state=tree),
        lambda: optirs.update(tree, tree, tree),
        lambda: optirs.update_(tree, tree, None),
    ):
        with pytest.raises(RecursionError, match="nests deeper than 1000 levels, or contains itself"):
            act()
    for arguments in ((state, tree, x), (state, x, tree), (state, x, [tree])):
        with pytest.raises((TypeError, ValueError, RecursionError)):
            optirs.update_(*arguments)
    assert x[0] == 1
    while isinstance(tree, Node) and isinstance(tree.child, Node):  # else Python takes it apart recursively
        tree = tree.child


def nested(wrap, depth, leaf):
    for _ in range(depth):
        leaf = wrap(leaf)
    return leaf


@pytest.mark.unsanitized("frames are larger")
@pytest.mark.parametrize("wrap", [lambda x: [x], lambda x: {"k": x}, Node], ids=["list", "dict", "class"])
@pytest.mark.parametrize("depth", [200, 990, 3000])
def test_a_thread_with_a_small_stack(wrap, depth, tmp_path):
    model = nested(wrap, depth, np.ones(1))
    leaf = optirs.setup(optirs.Momentum(0.5), np.ones(1))
    state = nested(wrap, depth, leaf)
    acts = [
        lambda: optirs.setup(optirs.Descent(), model),
        lambda: optirs.trainables(model),
        lambda: optirs.destructure(model)[1](np.ones(1)),
        lambda: optirs.adjust(state, 0.1),
        lambda: optirs.adjust_(state, 0.5),
        lambda: optirs.freeze_(state),
        lambda: optirs.thaw_(state),
        lambda: optirs.update(state, model, model),
        lambda: optirs.update_(state, model, model),
        lambda: optirs.update([leaf, None], [np.ones(1), model], None),
        lambda: optirs.save(tmp_path / "deep", model=model, state=state),
    ]
    outcomes = []

    def run():
        for act in acts:
            try:
                act()
            except RecursionError as error:
                outcomes.append(str(error))
            else:
                outcomes.append("done")

    threading.stack_size(512 << 10)
    try:
        run_all(run)
    finally:
        threading.stack_size(0)
    assert len(outcomes) == len(acts)
    assert all(text == "done" or "nests deeper than" in text for text in outcomes)
    if depth == 200:
        assert set(outcomes) == {"done"}
    if depth == 3000:
        assert "done" not in outcomes
    for tree in (model, state):  # else Python takes them apart recursively
        while isinstance(tree, Node) and isinstance(tree.child, Node):
            tree = tree.child


def test_900_levels_are_fine():
    tree = np.ones(1)
    for _ in range(900):
        tree = [tree]
    state, _ = optirs.update_(optirs.setup(optirs.Descent(), tree), tree, tree)
    assert "Leaf" in repr(optirs.getkeypath(state, (0,) * 900))


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, KeyboardInterrupt])
def test_attributes_that_raise(error):
    @optirs.functor(children=("child",))
    class Raising:
        @property
        def child(self):
            raise error("raised")

    expected = error if error is KeyboardInterrupt else ValueError
    with pytest.raises(expected, match="raised") as caught:
        optirs.setup(optirs.Descent(), {"x": Raising()})
    if expected is ValueError:
        assert "Raising at x has no readable attribute child" in str(caught.value)


def test_attributes_that_change_the_tree():
    @optirs.functor(children=("child",))
    class Changing:
        armed = False

        def __init__(self):
            self._child = np.ones(1)

        @property
        def child(self):
            if Changing.armed:
                state.update(new=None)
                model.pop("y", None)
            return self._child

        @child.setter
        def child(self, value):
            self._child = value

    model = {"x": Changing(), "y": np.ones(1), "z": np.ones(1)}
    state = optirs.setup(optirs.Descent(), model)
    Changing.armed = True
    with pytest.raises((ValueError, KeyError, RuntimeError)):
        optirs.update_(state, model, {"x": {"child": [1]}, "z": [1]})
    assert model["z"] == 1
