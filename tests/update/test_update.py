"""`update` and `update_`: purity, layouts, shared memory, all or nothing."""

import copy
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import pytest

import optirs
from optirs import Adam, ClipNorm, Descent, Momentum, OptimiserChain

HALF = Descent(0.5)
RULES = [Descent(0.5), Adam(), OptimiserChain(ClipNorm(1.0), optirs.WeightDecay(), Momentum(0.5)), optirs.AccumGrad(2)]


def arrays(tree):
    """All arrays of a model or a state."""
    if isinstance(tree, np.ndarray):
        return [tree]
    if isinstance(tree, optirs.Leaf):
        return arrays(tree.state)
    children = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return [a for child in children for a in arrays(child)]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_pure_update_changes_and_aliases_no_argument(rule):
    model = {"a": np.ones((2, 3), "f"), "b": [np.ones(2)], "ints": np.arange(2)}
    model |= {"frozen": np.ones(2), "none": np.ones(2)}
    state = optirs.setup(rule, model)
    optirs.freeze_(state["frozen"])
    gradient = {"a": np.ones((2, 3), "f"), "b": [np.ones(2)], "frozen": np.ones(2)}
    before = copy.deepcopy((state, model, gradient))
    new_state, new = optirs.update(state, model, gradient)
    old = arrays([state, model, gradient])
    for fresh in arrays([new_state, {**new, "ints": 0}]):
        assert not any(np.shares_memory(fresh, o) for o in old)
    assert new["ints"] is model["ints"]
    assert new_state["frozen"] is not state["frozen"]
    optirs.update_(new_state, new, gradient)
    new["b"][0][:] = 7
    new["more"] = 1
    optirs.freeze_(new_state)
    assert before[0] == state
    for x, y in zip(arrays(before[1:]), arrays([model, gradient]), strict=True):
        np.testing.assert_array_equal(x, y)
    assert "more" not in model


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_in_place_returns_the_same_objects_and_the_same_bits(rule):
    x = np.random.default_rng(0).normal(size=(2, 50))
    model = {"a": x[0].copy(), "b": x[1].astype("f")}
    gradient = {"a": x[1], "b": x[0].astype("f")}
    state = optirs.setup(rule, model)
    kept = dict(state), dict(model)
    for _ in range(3):
        pure = optirs.update(state, model, gradient)
        out = optirs.update_(state, model, gradient)
        assert out[0] is state
        assert out[1] is model
        assert all(state[k] is kept[0][k] and model[k] is kept[1][k] for k in model)
        assert pure[0] == state
        assert all(pure[1][k].tobytes() == model[k].tobytes() for k in model)


def unaligned(x):
    raw = np.zeros(x.nbytes + 1, np.uint8)
    view = raw[1:].view(x.dtype).reshape(x.shape)
    view[...] = x
    return view


def spread(x):
    out = np.zeros(tuple(2 * n for n in x.shape), x.dtype)[tuple(slice(None, None, 2) for _ in x.shape)]
    out[...] = x
    return out


LAYOUTS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "strided": spread,
    "negative": lambda x: x[::-1].copy()[::-1],
    "permuted": lambda x: np.ascontiguousarray(np.moveaxis(x, 0, 1)).swapaxes(0, 1),
    "unaligned": unaligned,
    "swapped": lambda x: x if x.dtype.type is ml_dtypes.bfloat16 else x.astype(x.dtype.newbyteorder("S")),
}


@pytest.mark.parametrize("of_x", LAYOUTS)
@pytest.mark.parametrize("of_g", LAYOUTS)
@pytest.mark.parametrize("dtype", ["f", "d", "e", "F", "D", ml_dtypes.bfloat16])
def test_layouts(of_x, of_g, dtype):
    rng = np.random.default_rng(1)
    x, g = rng.normal(size=(2, 3, 4, 5)).astype(dtype)
    state, expected = optirs.update(optirs.setup(Adam(0.5), x), x, g)
    model, gradient = LAYOUTS[of_x](x.copy()), LAYOUTS[of_g](g)
    start = optirs.setup(Adam(0.5), model)
    new_state, new = optirs.update(start, model, gradient)
    assert (model == x).all()
    assert (new == expected).all()
    assert new.dtype == model.dtype
    assert (new_state.state["v"] == state.state["v"]).all()
    order = np.argsort(np.abs(model.strides), kind="stable")
    assert (np.argsort(np.abs(new.strides), kind="stable") == order).all()
    optirs.update_(start, model, gradient)
    assert (model == expected).all()
    assert start == new_state


@pytest.mark.parametrize("shape", [(0,), (2, 0), (), (1, 1)])
@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("act", [optirs.update, optirs.update_])
def test_empty_and_0d_arrays(shape, rule, act):
    x = np.ones(shape)
    _, new = act(optirs.setup(rule, {"x": x}), {"x": x}, {"x": np.ones(shape)})
    assert isinstance(new["x"], np.ndarray)
    assert new["x"].shape == shape
    assert x.size == 0 or (new["x"] == x).all() == (act is optirs.update_ or isinstance(rule, optirs.AccumGrad))


def sharing(x, state):
    yield x
    yield x[::-1]
    yield state.state["velocity"]
    yield state.state["velocity"][::-1]
    yield x[:1].repeat(8)
    yield np.broadcast_to(x[3:4], (8,))
    yield np.lib.stride_tricks.as_strided(x, (8,), (0,))


@pytest.mark.parametrize("case", range(7))
@pytest.mark.parametrize("other", [False, True])
def test_gradient_that_shares_memory_is_as_if_copied_first(case, other):
    model = [np.arange(1.0, 9), np.arange(3.0, 11)]
    state = optirs.setup(Momentum(0.5, 0.5), model)
    optirs.update_(state, model, [np.arange(8.0), np.ones(8)])
    g = list(sharing(model[0], state[0]))[case]
    gradient = [model[1] if other else g, g]
    expected = optirs.update(state, model, copy.deepcopy(gradient))
    assert optirs.update(state, model, gradient)[0] == expected[0]
    optirs.update_(state, model, gradient)
    assert state == expected[0]
    np.testing.assert_array_equal(model, expected[1])


def test_read_only():
    x, y = np.ones(2), np.ones(2)
    y.flags.writeable = False
    model = {"a": x, "b": [y]}
    state = optirs.setup(Adam(), model)
    before = copy.deepcopy(state)
    with pytest.raises(ValueError, match=r"parameter at b\[0\] is read-only"):
        optirs.update_(state, model, {"a": x, "b": [x]})
    assert state == before
    assert (x == 1).all()
    _, new = optirs.update(state, model, {"b": [x]})
    assert new["b"][0].flags.writeable
    g = np.ones(2)
    g.flags.writeable = False
    assert (optirs.update_(optirs.setup(HALF, [x]), [x], [g])[1][0] == 0.5).all()
    wide = np.broadcast_to(np.ones(3), (2, 3))
    new = optirs.update(optirs.setup(HALF, wide), wide, np.arange(6.0).reshape(2, 3))[1]
    np.testing.assert_array_equal(new, 1 - np.arange(6.0).reshape(2, 3) / 2)


CLIP = OptimiserChain(Momentum(0.5), optirs.WeightDecay(0.25), ClipNorm(1.0), Adam(), OptimiserChain(ClipNorm(1.0)))


@pytest.mark.parametrize("rule", [ClipNorm(1.0), CLIP, optirs.MixedPrecision(CLIP, "float64")], ids=repr)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("act", [optirs.update, optirs.update_])
def test_a_norm_that_is_not_finite_changes_nothing(rule, bad, act):
    model = {"a": np.ones(5, "f"), "b": [np.ones(5), np.ones(5)]}
    state = optirs.setup(rule, model)
    optirs.update_(state, model, {"a": np.ones(5), "b": [np.ones(5), None]})
    before = copy.deepcopy((state, model))
    with pytest.raises(FloatingPointError, match=r"b\[0\]"):
        act(state, model, {"a": np.ones(5), "b": [[1, 2, bad, 3, 4], np.ones(5)]})
    assert state == before[0]
    for x, y in zip(arrays(model), arrays(before[1]), strict=True):
        assert x.tobytes() == y.tobytes()
    optirs.update_(state, model, {"a": np.ones(5)})
    assert state != before[0] or isinstance(rule, ClipNorm)


def test_clip_norm_without_throw_lets_it_pass():
    x = np.ones(2)
    new = optirs.update(optirs.setup(ClipNorm(1.0, throw=False), x), x, [np.inf, 1])[1]
    assert not np.isfinite(new).all()


@dataclass(frozen=True)
class Raising(optirs.Rule):
    error: type = ZeroDivisionError

    def init(self, x):
        return 0

    def apply(self, state, x, dx):
        if dx[0] >= 3:
            raise self.error("raised")
        return state + 1, dx


@pytest.mark.parametrize("wrap", [lambda r: r, lambda r: OptimiserChain(Momentum(1.0), r), optirs.MixedPrecision])
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_own_rule_that_raises_changes_nothing(wrap, error):
    model = [np.ones(2), np.ones(2, "f"), np.ones((2, 2))[:, 0]]
    own = wrap(Raising(error))
    state = optirs.setup(lambda path, _: Adam() if path == (0,) else own, model)
    optirs.update_(state, model, [np.ones(2)] * 3)
    before = copy.deepcopy((state, model))
    with pytest.raises(error, match="raised"):
        optirs.update_(state, model, [np.ones(2), np.ones(2), [3, 1]])
    assert state == before[0]
    np.testing.assert_array_equal(model, before[1])
    optirs.update_(state, model, [np.ones(2)] * 3)
    assert state != before[0]


@pytest.mark.parametrize(
    "name", [n for n in optirs.RULES if n not in ("OptimiserChain", "MixedPrecision", "AccumGrad")]
)
@pytest.mark.parametrize("size", [0, 3, 5000])
def test_pure_and_in_place_take_turns(name, size):
    model = [np.ones(size, np.float32), {"b": np.zeros(2, np.float32)}]
    gradient = [np.full(size, 0.5, np.float32), {"b": np.ones(2, np.float32)}]
    state = optirs.setup(optirs.RULES[name](), model)
    pure = state, model
    for _ in range(4):
        pure = optirs.update(*pure, gradient)
    for step in (optirs.update, optirs.update_, optirs.update, optirs.update_):
        state, model = step(state, model, gradient)
    assert state == pure[0]
    np.testing.assert_array_equal(model[0], pure[1][0])


def test_arguments_by_name():
    model = {"w": np.ones(2)}
    state = optirs.setup(optirs.Descent(0.5), model)
    for step in (optirs.update, optirs.update_):
        assert step(grad={"w": np.ones(2)}, model=model, state=state)[1]["w"].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("step", [optirs.update, optirs.update_])
def test_bfloat16_in_the_other_byte_order(step):
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    plain = np.array([1.0, 2.0, -3.0], bfloat16)
    swapped = plain.astype(bfloat16.newbyteorder())
    gradient = np.array([0.5, -0.25, 8.0], np.float32)
    _, expected = step(optirs.setup(optirs.Descent(0.5), plain), plain.copy(), gradient)
    _, new = step(optirs.setup(optirs.Descent(0.5), swapped), swapped.copy(), gradient)
    np.testing.assert_array_equal(new.astype(np.float32), expected.astype(np.float32))
