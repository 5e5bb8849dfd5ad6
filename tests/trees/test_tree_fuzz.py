"""Mutated trees: `update_` succeeds, or raises what it documents and changes nothing."""

import os
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import optirs

EXAMPLES = int(os.environ.get("OPTIRS_FUZZ_EXAMPLES", "200"))
DOCUMENTED = (TypeError, ValueError, FloatingPointError, KeyError, RecursionError, UserWarning)
Pair = namedtuple("Pair", "a b")


@optirs.functor(trainable=("W",))
@dataclass
class Layer:
    W: Any
    b: Any


@dataclass(frozen=True)
class Own(optirs.Rule):
    def init(self, x):
        return np.zeros_like(x)

    def apply(self, state, x, dx):
        if dx.size and not np.isfinite(dx).all():
            raise FloatingPointError("own")
        return state + abs(dx), 0.5 * dx


RULES = [
    optirs.Descent(0.5),
    optirs.Adam(0.5),
    optirs.OptimiserChain(optirs.Momentum(0.5), optirs.ClipNorm(1.0), optirs.Adam()),
    optirs.OptimiserChain(optirs.AccumGrad(2), optirs.AdamW(lambda_=0.5)),
    optirs.MixedPrecision(optirs.OptimiserChain(optirs.ClipNorm(1.0), optirs.Lion())),
    optirs.OptimiserChain(optirs.Adam(), Own()),
    Own(),
]
SHAPES = [(), (0,), (3,), (2, 3), (3, 2), (1, 1, 4), (2, 2)]
DTYPES = ["f4", "f8", "f2", "c8", "i4", ">f4"]


def array(shape: tuple[int, ...], dtype: str, layout: int) -> np.ndarray:
    x = np.linspace(-1, 2, max(1, int(np.prod(shape))))[: int(np.prod(shape))].reshape(shape).astype(dtype)
    if layout == 1:
        return np.asfortranarray(x)
    if layout == 2 and x.ndim:
        return x[::-1]
    if layout == 3:
        x.flags.writeable = False
    if layout == 4 and x.ndim:
        return np.repeat(x, 2, axis=0)[::2]
    return x


arrays = st.builds(array, st.sampled_from(SHAPES), st.sampled_from(DTYPES), st.sampled_from([0, 0, 0, 1, 2, 4]))
atoms = arrays | arrays | arrays | st.sampled_from([None, 3, "text", abs])
models = st.recursive(
    atoms,
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "x y", 1]), children, max_size=3)
        | st.tuples(children, children)
        | st.builds(Pair, children, children)
        | st.builds(Layer, children, children)
    ),
    max_leaves=8,
)
odd = st.sampled_from([None, 1, 1.5, 1j, "text", [], {}, (), [1.0, 2.0], [[1]], float("nan"), object(), np.float32(2)])


def rebuilt(tree, change):
    """A copy of `tree` in which every node and leaf has been through `change`, leaves first."""
    if isinstance(tree, dict):
        tree = {key: rebuilt(child, change) for key, child in tree.items()}
    elif isinstance(tree, Pair):
        tree = Pair(*(rebuilt(child, change) for child in tree))
    elif isinstance(tree, (list, tuple)):
        tree = type(tree)(rebuilt(child, change) for child in tree)
    elif isinstance(tree, Layer):
        tree = Layer(rebuilt(tree.W, change), rebuilt(tree.b, change))
    return change(tree)


def as_gradient(leaf):
    if isinstance(leaf, int):
        return 0  # of another gradient a warning is an error
    return leaf * 0.5 if isinstance(leaf, np.ndarray) else leaf


def snapshot(tree):
    """Everything that may not change, as comparable values, with the identity of every object in the tree."""
    if isinstance(tree, optirs.Leaf):
        return id(tree), repr(tree), bits(tree.state)
    if isinstance(tree, np.ndarray):
        return id(tree), tree.dtype.str, tree.shape, tree.strides, tree.tobytes()
    if isinstance(tree, dict):
        return "dict", [(key, snapshot(child)) for key, child in tree.items()]
    if isinstance(tree, (list, tuple)):
        return type(tree), [snapshot(child) for child in tree]
    if isinstance(tree, Layer):
        return id(tree), snapshot(vars(tree))
    return repr(tree)


def mutate(data, tree):
    """`tree` with one random node replaced, removed, repeated or damaged."""
    count = [0]
    rebuilt(tree, lambda node: count.__setitem__(0, count[0] + 1))
    at = data.draw(st.integers(0, max(count[0] - 1, 0)))
    what = data.draw(st.integers(0, 7))
    other, fresh = data.draw(odd), data.draw(arrays)
    seen: list = []

    def change(node):
        seen.append(node)
        if len(seen) - 1 != at:
            return node
        if what == 0:
            return other
        if what == 1:
            return fresh
        if what == 2:
            return seen[len(seen) // 2]  # the same object at two places: a tie, or a Leaf twice
        if what == 3 and isinstance(node, dict):
            return {**node, "new": other} if len(node) % 2 else dict(list(node.items())[1:])
        if what == 3 and type(node) in (list, tuple):
            return node[:-1] if len(node) % 2 else node + type(node)([other])
        if what == 4 and isinstance(node, np.ndarray):
            node = node.copy()
            node.flags.writeable = False
            return node
        if what == 5 and isinstance(node, np.ndarray) and node.size and node.dtype.kind in "fc":
            node = node.copy()
            node.flat[-1] = np.nan if at % 2 else np.inf
            return node
        if what == 6 and isinstance(node, np.ndarray):
            return node.T if at % 2 else node.reshape(-1)[1:]
        if what == 7 and isinstance(node, Layer):
            return {"W": node.W} if at % 2 else Pair(node.W, node.b)
        return node

    return rebuilt(tree, change)


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), model=models, rule=st.sampled_from(RULES))
def test_update_in_place_is_all_or_nothing(data, model, rule):
    try:
        state = optirs.setup(lambda path, x: optirs.Adam() if x.dtype.kind == "c" else rule, [model, np.ones(2)])
    except TypeError:
        return
    tree = [model, np.ones(2)]
    gradient = rebuilt(tree, as_gradient)
    for _ in range(data.draw(st.integers(0, 2))):
        which = data.draw(st.integers(0, 2))
        if which == 0:
            state = mutate(data, state)
        elif which == 1:
            tree = mutate(data, tree)
        else:
            gradient = mutate(data, gradient)
    before = snapshot([state, tree])
    given_gradient = snapshot(gradient)
    pure: Any
    try:
        pure = bits(optirs.update(state, tree, gradient))  # now: what it shares may change in place below
    except DOCUMENTED as error:
        pure = error
    assert snapshot([state, tree]) == before, "update changed its arguments"
    try:
        result = optirs.update_(state, tree, gradient)
    except DOCUMENTED as error:
        refusal: Exception | None = error
    else:
        refusal = None
    if refusal is not None:
        assert snapshot([state, tree]) == before, f"{refusal!r} left a change behind"
        assert isinstance(pure, Exception) or "read-only" in str(refusal)
        return
    assert not isinstance(pure, Exception), f"update raised {pure!r}, update_ did not"
    assert result[0] is state
    assert result[1] is tree
    assert pure == bits(result)
    if which_arrays(gradient).isdisjoint(which_arrays([tree, state])):
        assert snapshot(gradient) == given_gradient


def which_arrays(tree) -> set:
    """The ids of all arrays in a tree."""
    found: set = set()
    rebuilt(tree, lambda node: found.add(id(node)) if isinstance(node, np.ndarray) else None)
    return found


def bits(tree):
    """The values of all arrays in a tree, without identity or layout."""
    if isinstance(tree, optirs.Leaf):
        return repr(tree), bits(tree.state)
    if isinstance(tree, np.ndarray):
        return tree.dtype.str, tree.shape, tree.tobytes()
    if isinstance(tree, dict):
        return [(key, bits(child)) for key, child in tree.items()]
    if isinstance(tree, (list, tuple)):
        return [bits(child) for child in tree]
    return bits(vars(tree)) if isinstance(tree, Layer) else repr(tree)
