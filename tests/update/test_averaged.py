"""`averaged`: a model with the averages in the place of its parameters."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from problems import DTYPES, LAYOUTS, bits, draw, generator
from steps import stepped

import optirs
from optirs import (
    Adam,
    Box,
    Descent,
    Ema,
    Lookahead,
    OptimiserChain,
    Rule,
    Swa,
    averaged,
)

AVERAGES = pytest.mark.parametrize("rule", [Ema(0.5), Swa(), Lookahead(3)], ids=lambda rule: type(rule).__name__)
SHAPES: list[tuple[int, ...]] = [(), (0,), (3, 5), (257,)]


@AVERAGES
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_averaged_arrays_are_like_those_of_update(rule: Rule, layout: str, dtype: str) -> None:
    if layout == "swapped" and dtype == "bfloat16":
        pytest.skip("has no other byte order")
    rng = generator("layout", dtype)
    model: Any = [LAYOUTS[layout](draw(rng, shape, dtype)) for shape in [*SHAPES, (2, 3, 4)]]
    state = optirs.setup(OptimiserChain(Descent(0.5), rule), model)
    grad = [draw(rng, x.shape, dtype) for x in model]
    state, stepped_model = optirs.update(state, model, grad)
    for of in (model, stepped_model):
        found = averaged(state, of)
        like = optirs.update(state, of, None)[1]
        for new, x, like_update, leaf in zip(found, of, like, state, strict=True):
            own = leaf.state[1]
            expected = own["slow"] if isinstance(rule, Lookahead) else own["average"]
            assert (new.dtype, new.shape) == (x.dtype, x.shape)
            assert new.size == 0 or new.strides == like_update.strides
            assert new.flags.writeable
            np.testing.assert_array_equal(new, expected.astype(DTYPES[dtype]))
            assert not any(np.shares_memory(new, other) for other in (x, expected))


def test_averaged_changes_nothing_and_is_apart() -> None:
    model = {"w": np.ones(3), "n": 3, "f": abs}
    state, model = stepped(OptimiserChain(Adam(0.1), Ema(0.5)), model, [{"w": np.ones(3)}])
    before = bits([state["w"].state, model["w"]])
    first, second = averaged(state, model), averaged(state, model)
    first["w"][:] = 7
    assert bits([state["w"].state, model["w"]]) == before
    assert (second["w"] != 7).all()
    assert (first["n"], first["f"]) == (3, abs)
    assert first is not model


def test_what_has_no_average_is_shared() -> None:
    model = {"average": np.ones(2), "plain": np.ones(2), "none": np.ones(2), "ints": np.ones(2, int)}

    def rule(path: Any, _: Any) -> Rule | None:
        return {"average": OptimiserChain(Descent(1.0), Ema(0.5)), "plain": Descent(1.0)}.get(path[0])

    state, model = stepped(rule, model, [{"average": np.ones(2), "plain": np.ones(2)}])
    found = averaged(state, model)
    assert (found["average"] == 0.5).all()
    assert all(found[name] is model[name] for name in ("plain", "none", "ints"))
    part = averaged({**state, "plain": None}, model)
    assert part["plain"] is model["plain"]
    assert averaged(state["average"], model["average"]).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("model", [{"w": np.ones(2)}, {}, {"n": 3}])
def test_no_average_at_all_is_an_error(model: Any) -> None:
    for rule in (Adam(), OptimiserChain(Descent(), Box()), lambda path, x: None):
        if model.get("w") is None and not callable(rule):
            continue
        state = optirs.setup(rule, model) if "w" in model else dict.fromkeys(model)
        with pytest.raises(
            ValueError, match=r"^averaged: no rule in this state keeps an average; Ema, Swa and Lookahead"
        ):
            averaged(state, model)


def test_of_several_averages_the_last_counts() -> None:
    x, grads = np.zeros(1), [np.array([-4.0])] * 2
    for rules, expected in (
        ((Ema(0.5), Swa()), 6.0),
        ((Swa(), Ema(0.5)), 5.0),
        ((Swa(), Lookahead(9), Box()), 0.0),
        ((OptimiserChain(Ema(0.5)), OptimiserChain(OptimiserChain(Swa()), Box())), 6.0),
        ((Ema(0.5), Swa(5)), 8.0),  # no sample yet: the parameter
    ):
        state, model = stepped(OptimiserChain(Descent(1.0), *rules), x, grads)
        found = averaged(state, model)
        assert found == expected
        assert not np.shares_memory(found, model)


def test_swa_before_its_first_sample_copies_every_bit() -> None:
    x = np.array([np.nan, -0.0, 1e-45, np.inf], np.float32)
    x.view(np.uint32)[0] = 0x7FC12345
    state = optirs.setup(Swa(3), {"w": np.asfortranarray(x)})
    found = averaged(state, {"w": x})["w"]
    assert found.tobytes() == x.tobytes()
    assert found is not x


def test_frozen_leafs_have_their_averages() -> None:
    state, model = stepped(OptimiserChain(Descent(1.0), Ema(0.5)), [np.zeros(1), np.zeros(1)], [[-np.ones(1)] * 2])
    optirs.freeze_(state[0])
    state, model = stepped(None, model, [[-np.ones(1)] * 2], state=state)
    assert averaged(state, model) == [0.5, 1.25]


@pytest.mark.parametrize("order", "CF")
def test_ties_and_transposes_are_kept(order: Any) -> None:
    W = np.asarray(np.arange(6.0).reshape(2, 3), order=order)
    model: Any = {"e": W, "d": W.T, "again": [W, W.T], "other": np.ones(2)}
    state = optirs.setup(OptimiserChain(Descent(1.0), Ema(0.5)), model)
    state, model = optirs.update(state, model, {"e": np.ones((2, 3)), "other": np.ones(2)})
    found = averaged(state, model)
    assert found["again"][0] is found["e"]
    assert found["again"][1] is found["d"]
    assert np.shares_memory(found["e"], found["d"])
    assert found["d"].T.strides == found["e"].strides == model["e"].strides
    np.testing.assert_array_equal(found["e"], np.arange(6.0).reshape(2, 3) - 0.5)
    assert len(optirs.trainables(found)) == 2
    np.testing.assert_array_equal(averaged({**state, "d": None}, model)["d"], found["d"])
    _, next_model = optirs.update(state, found, None)  # the state fits the averages, too
    np.testing.assert_array_equal(next_model["e"], found["e"])


def test_a_leaf_at_the_transposed_place_alone() -> None:
    W = np.arange(6.0).reshape(2, 3)
    state = {"e": None, "d": optirs.setup(OptimiserChain(Descent(1.0), Ema(0.5)), W.T.copy())}
    model: Any = {"e": W, "d": W.T}
    state, model = optirs.update(state, model, {"d": np.ones((3, 2))})
    found = averaged(state, model)
    np.testing.assert_array_equal(found["e"], np.arange(6.0).reshape(2, 3) - 0.5)
    assert np.shares_memory(found["e"], found["d"])


@optirs.functor(trainable=("w",))
@dataclass
class Scale:
    w: Any
    shown: Any
    name: str = "scale"


def test_classes_twins_and_places_that_are_not_trained() -> None:
    w = np.zeros(2)
    layer = Scale(w, [w, w[::-1].copy()])
    model: Any = {"a": layer, "b": layer, "list": [layer]}
    state, model = stepped(OptimiserChain(Descent(1.0), Ema(0.5)), model, [{"a": {"w": -np.ones(2)}}])
    found = averaged(state, model)
    assert isinstance(found["a"], Scale)
    assert found["a"] is found["b"] is found["list"][0]
    assert found["a"].name == "scale"
    assert found["a"].shown[0] is found["a"].w
    assert found["a"].shown[1] is model["a"].shown[1]
    assert (found["a"].w == 0.5).all()


def test_subclasses_of_arrays_give_plain_ones() -> None:
    class Loud(np.ndarray):
        def __setitem__(self, key: Any, value: Any) -> None:
            raise AssertionError

    x = np.zeros(2).view(Loud)
    for rule in (Ema(0.5), Swa(5)):
        state = optirs.setup(OptimiserChain(Descent(1.0), rule), [x])
        assert type(averaged(state, [x])[0]) is np.ndarray


# --- what `averaged` refuses ------------------------------------------------------------------------------------------


def test_arguments_in_another_order() -> None:
    model = {"w": np.ones(2)}
    rule = Ema()
    state = optirs.setup(rule, model)
    for arguments, text in (
        ((model, state), r"^averaged takes \(state, model\) in this order; the second is the state here"),
        ((state, state), r"^averaged takes \(state, model\), but the second argument is a state, too"),
        (
            (rule, model),
            r"^averaged takes \(state, model\), and the first is the rule Ema\(.*optirs.setup\(rule, model\)",
        ),
        ((rule, state), r"^averaged takes \(state, model\), and the first is the rule Ema\("),
        ((model, model), "^averaged takes a state, as setup returns it; this dict holds no Leaf"),
        ((3, model), "^averaged takes a state, as setup returns it; this int holds no Leaf"),
    ):
        with pytest.raises(TypeError, match=text):
            averaged(*arguments)


def test_state_and_model_that_do_not_agree() -> None:
    W = np.ones((2, 3))
    model = {"layers": [{"W": W, "b": np.ones(2)}]}
    state = optirs.setup(Ema(), model)
    for other, error, text in (
        ({"layers": [{"W": W}]}, ValueError, r"state at layers\[0\] has 'b', which the model lacks"),
        ({"layers": [{"W": W[:1], "b": np.ones(2)}]}, ValueError, r"layers\[0\].W has shape \(1, 3\), .*\(2, 3\)"),
        ({"layers": [{"W": W.astype("f"), "b": np.ones(2)}]}, TypeError, r"layers\[0\].W is float32, .* float64"),
        ({"layers": [{"W": W, "b": 3}]}, (TypeError, ValueError), r"layers\[0\].b"),
        ({"layers": []}, ValueError, "at layers has length 0, the state has 1"),
    ):
        with pytest.raises(error, match=text):  # type: ignore[arg-type]
            averaged(state, other)
    apart = {"e": W, "d": W.T.copy()}
    tied = {"e": W, "d": W.T}
    for mine, theirs, text in (
        (apart, tied, "^e and d are one parameter in the model, but two in the state: "),
        (tied, apart, "^e and d are one parameter in the state, but different arrays in the model"),
    ):
        with pytest.raises(ValueError, match=text):
            averaged(optirs.setup(Ema(), mine), theirs)
    memory = np.ones(4)
    with pytest.raises(ValueError, match=r"^a and b share memory without being the same array"):
        averaged(optirs.setup(Ema(), {"a": np.ones(3), "b": np.ones(3)}), {"a": memory[:3], "b": memory[1:]})
