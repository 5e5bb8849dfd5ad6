"""Rules that look at all parameters of a step together, `ClipGlobalNorm` and `SkipNonFinite`, and `metrics`."""

import copy
import logging
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from networks import data, network
from numpy.typing import NDArray
from problems import DTYPES, LAYOUTS, DecayDescent, Skip, bits, draw, generator, recipe
from steps import flat, stepped
from trainings import both

import optirs
from optirs import (
    AccumGrad,
    Adam,
    ClipGlobalNorm,
    ClipNorm,
    Descent,
    Ema,
    MixedPrecision,
    Momentum,
    OptimiserChain,
    Rule,
    Scheduled,
    SkipNonFinite,
    metrics,
    schedules,
)

Array = NDArray[Any]
UPDATES = pytest.mark.parametrize("update", [optirs.update, optirs.update_])
BAD = pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])


def clipped(*rules: Rule, omega: float = 1.0, **fields: Any) -> OptimiserChain:
    """Descent by the whole gradient, clipped, behind some rules."""
    return OptimiserChain(*rules, ClipGlobalNorm(omega, **fields), Descent(1.0))


def states(state: Any) -> list[Any]:
    """What the Leafs of a dict or list remember."""
    return [leaf.state for leaf in (state.values() if isinstance(state, dict) else state)]


def norm_of(leaf: Any) -> float:
    """The norm that a Leaf remembers."""
    (norm,) = [own["norm"] for own in flat(leaf.state) if "norm" in own]
    return float(norm)


def counts(leaf: Any) -> tuple[int, int]:
    """How many steps a Leaf has skipped: all, and in a row."""
    ((skipped, consecutive),) = [(s["skipped"], s["consecutive"]) for s in flat(leaf.state) if "skipped" in s]
    return skipped, consecutive


@pytest.fixture
def threads() -> Iterator[None]:
    before = optirs.get_num_threads()
    yield
    optirs.set_num_threads(before)


# --- construction -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [ClipGlobalNorm(2.0), SkipNonFinite(3, name="a")], ids=["norm", "skip"])
def test_an_equal_one_twice_in_a_chain_is_an_error(rule: Any) -> None:
    chain, twin = OptimiserChain, rule.replace()
    makes: list[Callable[[], Rule]] = [
        lambda: chain(rule, rule),
        lambda: chain(rule, twin),
        lambda: chain(rule, Adam(), twin),
        lambda: chain(chain(rule), Adam(), chain(chain(twin))),
        lambda: MixedPrecision(chain(AccumGrad(2), rule, chain(twin))),
        lambda: chain(rule, DecayDescent(), twin),
        lambda: chain(rule, Adam()).replace(rules=[rule, twin]),
    ]
    if hasattr(rule, "omega"):
        makes += [
            lambda: chain(rule, Scheduled(twin, omega=schedules.Constant(2.0))),
            lambda: Scheduled(chain(rule, ClipGlobalNorm(9.0)), omega=schedules.Constant(2.0)),
        ]
    for make in makes:
        with pytest.raises(ValueError, match=r"are equal, and each looks at the whole step: .* another name") as caught:
            make()
        assert str(caught.value).count(repr(rule)) == 2
    assert chain(rule, rule.replace(name="other"))
    assert chain(ClipGlobalNorm(1.0), ClipGlobalNorm(1.0, throw=False), SkipNonFinite(1), SkipNonFinite())
    assert chain(ClipNorm(1.0), ClipNorm(1.0))


def test_rules_that_adjust_would_make_equal() -> None:
    state = optirs.setup(OptimiserChain(ClipGlobalNorm(1.0), Adam(), ClipGlobalNorm(2.0)), [np.ones(2)])
    for adjust in (optirs.adjust, optirs.adjust_):
        with pytest.raises(ValueError, match="are equal, and each looks at the whole step"):
            adjust(state, omega=3.0)
    assert state[0].rule.rules[2] == ClipGlobalNorm(2.0)
    following = OptimiserChain(ClipGlobalNorm(1.0), Scheduled(ClipGlobalNorm(), omega=lambda t: 3.0 - t), Descent(1.0))
    state, model = stepped(following, [np.ones(2)], [[np.ones(2)]] * 2)
    before = bits([model, states(state)])
    with pytest.raises(ValueError, match="are equal, and each looks at the whole step"):
        optirs.update_(state, model, [np.ones(2)])
    assert bits([model, states(state)]) == before


def test_names_and_counts_stay() -> None:
    state = optirs.setup(OptimiserChain(SkipNonFinite(name="a"), ClipGlobalNorm(name="b"), Descent()), [np.ones(2)])
    with pytest.raises(ValueError, match="no rule here has a field 'name' that can be adjusted"):
        optirs.adjust(state, name="c")
    state, _ = stepped(None, [np.ones(2)], [[np.array([np.nan, 1])]], state=state)
    changed = optirs.adjust(state, omega=7, throw=False, limit=5)
    rule = OptimiserChain(SkipNonFinite(5, name="a"), ClipGlobalNorm(7, name="b", throw=False), Descent())
    assert changed[0].rule == rule
    assert counts(changed[0]) == (1, 1)
    assert optirs.adjust(changed, limit=None)[0].rule.rules[0] == SkipNonFinite(name="a")
    for field in ("limit", "name", "throw"):
        with pytest.raises(ValueError, match=f"no field '{field}' that can be scheduled"):
            Scheduled(rule, **{field: schedules.Constant(2)})


# --- ClipGlobalNorm ---------------------------------------------------------------------------------------------------


@UPDATES
def test_one_norm_over_all_arrays(update: Any) -> None:
    model = {"a": np.zeros(2), "b": [np.zeros((1, 2), np.float32), np.zeros((), np.complex64)], "c": np.zeros(1, "e")}
    grad = {"a": [1.0, 2.0], "b": [[[2.0, 4.0]], 4 + 4j], "c": [8.0]}
    norm = math.sqrt(1 + 4 + 4 + 16 + 32 + 64)
    state, new = stepped(clipped(omega=norm / 2), model, [grad], update)
    assert new["a"].tolist() == [-0.5, -1.0]
    assert new["b"][0].tolist() == [[-1.0, -2.0]]
    assert new["b"][1] == -2 - 2j
    assert new["c"] == -4
    assert new["c"].dtype == np.float16
    for leaf in (state["a"], *state["b"], state["c"]):
        assert norm_of(leaf) == norm
    assert metrics(state) == {"ClipGlobalNorm.norm": norm}


def test_the_norm_is_exact_to_rounding_where_squares_are_not() -> None:
    for scale in (3e200, 3e-170):
        state, model = stepped(clipped(omega=scale), [np.zeros(1), np.zeros(1)], [[[scale], [4 / 3 * scale]]])
        np.testing.assert_allclose(norm_of(state[0]), 5 / 3 * scale, rtol=1e-15)
        np.testing.assert_allclose(model, [[-0.6 * scale], [-0.8 * scale]], rtol=1e-15)


@UPDATES
@pytest.mark.parametrize("dtype", DTYPES)
def test_within_omega_every_bit_passes(dtype: str, update: Any) -> None:
    rng = generator("within", dtype)
    model = [np.zeros(shape, DTYPES[dtype]) for shape in [(7,), (3, 5), (), (0,), (300,)]]
    grad = [draw(rng, x.shape, dtype) for x in model]
    grad[0][:3] = [-0.0, 0.0, 1e-40 if dtype == "float32" else -0.0]
    norm = math.sqrt(sum(float((np.abs(reference.wide(g)) ** 2).sum()) for g in grad))
    for omega in (math.inf, norm * 1.001):
        state, new = stepped(clipped(omega=omega), model, [grad], update)
        assert bits(new) == bits(stepped(Descent(1.0), model, [grad])[1])
        np.testing.assert_allclose(norm_of(state[0]), norm, rtol=1e-14)
    exact = stepped(clipped(omega=5.0), [np.zeros(1), np.zeros(1)], [[[3.0], [-4.0]]])[1]
    assert exact == [-3.0, 4.0]


def test_of_one_array_it_is_a_norm_of_the_array() -> None:
    rng = generator("one")
    x, g = draw(rng, (1030,), "float32"), draw(rng, (1030,), "float32")
    mine, theirs = (stepped(OptimiserChain(rule(0.5), Adam()), [x], [[g]])[1] for rule in (ClipGlobalNorm, ClipNorm))
    assert bits(mine) == bits(theirs)


def test_an_empty_group_and_empty_arrays() -> None:
    state, model = stepped(clipped(), [np.zeros(0), np.ones(2)], [[np.zeros(0), None]])
    assert [norm_of(leaf) for leaf in state] == [0.0, 0.0]
    state, model = stepped(None, model, [[None, None], [np.zeros(0), [3.0, 4.0]]], state=state)
    assert [norm_of(leaf) for leaf in state] == [5.0, 5.0]


# --- who belongs to a group -------------------------------------------------------------------------------------------


@UPDATES
def test_frozen_leafs_and_those_without_a_gradient_are_outside(update: Any) -> None:
    model = {name: np.zeros(1) for name in ("in", "also", "frozen", "none", "no leaf")}
    state = optirs.setup(lambda path, _: None if path[0] == "no leaf" else clipped(omega=1.0), model)
    optirs.freeze_(state["frozen"])
    grad = {"in": [3.0], "also": [4.0], "frozen": [100.0], "none": None, "no leaf": [100.0]}
    state, model = update(state, model, grad)
    np.testing.assert_allclose([model["in"], model["also"]], [[-0.6], [-0.8]], rtol=1e-15)
    assert [model[name] for name in ("frozen", "none", "no leaf")] == [0, 0, 0]
    assert [norm_of(state[name]) for name in ("in", "also", "frozen", "none")] == [5.0, 5.0, 0.0, 0.0]
    assert metrics(state) == {"ClipGlobalNorm.norm": 5.0}


@UPDATES
def test_groups_are_told_apart_by_value_and_by_name(update: Any) -> None:
    rules = {
        "a": clipped(omega=1.0),
        "b": OptimiserChain(OptimiserChain(ClipGlobalNorm(1.0)), Descent(1.0)),  # in another chain, the same group
        "c": clipped(omega=1.0, name="mine"),
        "d": clipped(omega=2.0),
        "e": clipped(omega=1.0, throw=False),
        "f": Descent(1.0),
    }
    model = {name: np.zeros(1) for name in rules}
    grads = {"a": [3.0], "b": [4.0], "c": [10.0], "d": [100.0], "e": [1000.0], "f": [5.0]}
    state, new = stepped(lambda path, _: rules[path[0]], model, [grads], update)
    np.testing.assert_allclose([*new.values()], [[-0.6], [-0.8], [-1], [-2], [-1], [-5]], rtol=1e-15)
    assert [norm_of(state[name]) for name in "abcde"] == [5.0, 5.0, 10.0, 100.0, 1000.0]


@UPDATES
def test_an_accumgrad_holds_a_leaf_back(update: Any) -> None:
    model = {"each": np.zeros(1), "second": np.zeros(1)}
    state = optirs.setup(lambda path, _: clipped(*([AccumGrad(2)] if path[0] == "second" else [])), model)
    state, model = update(state, model, {"each": [3.0], "second": [8.0]})
    assert (model["each"], model["second"]) == (-1.0, 0.0)
    assert [norm_of(leaf) for leaf in state.values()] == [3.0, 0.0]
    state, model = update(state, model, {"each": [3.0], "second": [0.0]})
    np.testing.assert_allclose([*model.values()], [[-1.6], [-0.8]], rtol=1e-15)
    assert [norm_of(leaf) for leaf in state.values()] == [5.0, 5.0]


@UPDATES
def test_a_tied_parameter_counts_once_by_its_summed_gradient(update: Any) -> None:
    W = np.zeros((1, 2))
    model = {"e": W, "d": W.T, "b": np.zeros(1)}
    state = optirs.setup(clipped(omega=6.5), model)
    state, model = update(state, model, {"e": [[3.0, 1.0]], "d": [[0.0], [3.0]], "b": [12.0]})
    assert metrics(state) == {"ClipGlobalNorm.norm": 13.0}
    assert model["e"].tolist() == [[-1.5, -2.0]]
    assert model["d"].tolist() == [[-1.5], [-2.0]]
    assert model["b"] == -6.0


def test_under_schedules_rules_are_compared_as_they_are_at_the_step() -> None:
    falling = Scheduled(ClipGlobalNorm(), omega=schedules.Piecewise((2.0, 1.0), boundaries=(1,)))
    rules = {"a": OptimiserChain(falling, Descent(1.0)), "b": clipped(omega=1.0)}
    grad = {"a": [3.0], "b": [4.0]}
    for wrap in (lambda rule: rule, lambda rule: Scheduled(rule, eta=lambda t: 1.0)):
        model = {"a": np.zeros(1), "b": np.zeros(1)}
        state, model = stepped(lambda path, _, wrap=wrap: wrap(rules[path[0]]), model, [grad])
        assert (model["a"], model["b"]) == (-2.0, -1.0)
        state, model = stepped(None, model, [grad], state=state)
        np.testing.assert_allclose([*model.values()], [[-2.6], [-1.8]], rtol=1e-15)


@pytest.mark.parametrize("wrap", [lambda rule: rule, lambda rule: MixedPrecision(rule, "float64")], ids=["", "mixed"])
def test_master_copies_and_16_bits_are_in_the_group(wrap: Any) -> None:
    model = {"half": np.zeros(1, np.float16), "single": np.zeros(1, np.float32), "double": np.zeros(1)}
    rules = {"half": wrap(clipped(omega=1.0)), "single": clipped(omega=1.0), "double": wrap(clipped(omega=1.0))}
    grad = {"half": np.array([2e5]), "single": np.array([3e5]), "double": np.array([6e5])}
    state, new = stepped(lambda path, _: rules[path[0]], model, [grad])
    assert metrics(state) == {"ClipGlobalNorm.norm": 7e5}  # not rounded to 16 bits, where it would be infinite
    np.testing.assert_allclose([float(x[0]) for x in new.values()], [-2 / 7, -3 / 7, -6 / 7], rtol=1e-3)


def test_orders_that_one_order_serves() -> None:
    a, b, c = (ClipGlobalNorm(10.0**i, name=name) for i, name in enumerate("abc"))
    rules: dict[str, Rule] = {
        "ab": OptimiserChain(a, b, Descent(1.0)),
        "b": OptimiserChain(b, Descent(1.0)),
        "bc": OptimiserChain(b, Momentum(1.0), c, Descent(1.0)),
        "ac": OptimiserChain(a, OptimiserChain(c), Descent(1.0)),
    }
    model = {name: np.zeros(1) for name in rules}
    state, _ = stepped(lambda path, _: rules[path[0]], model, [{name: [30.0] for name in model}])
    a_norm = math.sqrt(2) * 30
    b_norm = math.sqrt((30 / a_norm) ** 2 + 2 * 900)
    found = metrics(state)
    np.testing.assert_allclose(found["ClipGlobalNorm[a].norm"], a_norm, rtol=1e-15)
    np.testing.assert_allclose(found["ClipGlobalNorm[b].norm"], b_norm, rtol=1e-15)
    np.testing.assert_allclose(found["ClipGlobalNorm[c].norm"], math.hypot(300 / b_norm, 30 / a_norm), rtol=1e-15)


@UPDATES
def test_orders_that_none_serves(update: Any) -> None:
    a, b, c = (ClipGlobalNorm(name=name) for name in "abc")
    skip = SkipNonFinite()
    for many in (
        ((a, b), (b, a)),
        ((skip, a), (a, skip)),
        ((a, b), (b, c), (c, a)),
        ((a, Momentum(), b), (c,), (OptimiserChain(b), OptimiserChain(Adam(), a))),
    ):
        model = {"layers": [np.ones(2) for _ in many]}
        state = optirs.setup(lambda path, _, many=many: OptimiserChain(*many[path[1]], Descent()), model)
        before = bits([model, states(state["layers"])])
        with pytest.raises(ValueError, match=r"layers\[\d\]") as caught:
            update(state, model, {"layers": [np.ones(2)] * len(many)})
        assert sum(f"layers[{i}]" in str(caught.value) for i in range(len(many))) >= 2
        assert bits([model, states(state["layers"])]) == before


# --- norms that are not finite ----------------------------------------------------------------------------------------


def spoilt(bad: float) -> tuple[Any, Any]:
    """A model, and a gradient that is not finite at `layers[1]` and behind it."""
    model = {"layers": [np.ones(3), np.ones((2, 2)), np.ones(1)]}
    return model, {"layers": [np.ones(3), np.array([[1.0, bad], [1.0, 1.0]]), np.array([bad])]}


@BAD
@UPDATES
@pytest.mark.parametrize(
    "around",
    [
        lambda rule: rule,
        lambda rule: OptimiserChain(Momentum(0.5), optirs.WeightDecay(0.1), rule, Adam(), Ema(0.5)),
        lambda rule: MixedPrecision(OptimiserChain(rule, Adam()), "float64"),
        lambda rule: OptimiserChain(DecayDescent(), rule, Skip()),
        lambda rule: OptimiserChain(Adam(), rule, DecayDescent()),
    ],
    ids=["alone", "chain", "mixed", "own before", "own behind"],
)
def test_a_norm_that_is_not_finite_is_an_error_that_writes_nothing(around: Any, update: Any, bad: float) -> None:
    model, grad = spoilt(bad)
    state = optirs.setup(around(ClipGlobalNorm()), model)
    state, model = optirs.update(state, model, {"layers": [np.ones(3), np.ones((2, 2)), np.ones(1)]})
    before = bits([model, states(state["layers"])])
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"ClipGlobalNorm.*layers\[1\]") as caught:
        update(state, model, grad)
    assert "layers[2]" not in str(caught.value)
    assert bits([model, states(state["layers"])]) == before


@BAD
@UPDATES
def test_without_throw_all_of_the_group_becomes_nan(update: Any, bad: float) -> None:
    model, grad = spoilt(bad)
    model["outside"] = np.ones(1)
    grad["outside"] = np.ones(1)
    rule = clipped(throw=False)
    state, new = stepped(lambda path, _: Descent(1.0) if path[0] == "outside" else rule, model, [grad], update)
    assert all(np.isnan(x).all() for x in new["layers"])
    assert new["outside"] == 0
    assert not math.isfinite(metrics(state)["ClipGlobalNorm.norm"])


def test_elements_that_are_finite_with_a_norm_that_is_not() -> None:
    model = {"a": np.ones(2), "b": np.ones(1)}
    with pytest.raises(FloatingPointError, match="ClipGlobalNorm"):
        stepped(clipped(), model, [{"a": np.full(2, 1.7e308), "b": [1.0]}])
    state, _ = stepped(OptimiserChain(SkipNonFinite(), Descent(0.0)), model, [{"a": np.full(2, 1.7e308), "b": [1.0]}])
    assert [counts(leaf) for leaf in state.values()] == [(0, 0), (0, 0)]


# --- SkipNonFinite ----------------------------------------------------------------------------------------------------


@BAD
@UPDATES
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_skipped_step_changes_the_counts_alone(dtype: str, update: Any, bad: float) -> None:
    rng = generator("skip", dtype)
    shapes = [(7,), (3, 5), (), (300,)]
    model = [draw(rng, shape, dtype) for shape in shapes]
    rule = OptimiserChain(SkipNonFinite(), ClipGlobalNorm(1.0), Adam(0.1), Ema(0.5))
    grad = [draw(rng, shape, dtype) for shape in shapes]
    state, model = stepped(rule, model, [grad])
    ill = [g.copy() for g in grad]
    ill[1][2, 3] = bad
    before = bits([model, [s[1:] for s in states(state)], metrics(state)["ClipGlobalNorm.norm"]])
    state, model = update(state, model, ill)
    assert bits([model, [s[1:] for s in states(state)], metrics(state)["ClipGlobalNorm.norm"]]) == before
    assert [counts(leaf) for leaf in state] == [(1, 1)] * 4
    state, model = update(state, model, ill)
    assert [counts(leaf) for leaf in state] == [(2, 2)] * 4
    state, model = update(state, model, grad)
    assert [counts(leaf) for leaf in state] == [(2, 0)] * 4
    assert [s[2]["t"] for s in states(state)] == [2] * 4
    assert metrics(state)["SkipNonFinite.skipped"] == 2.0
    assert metrics(state)["SkipNonFinite.consecutive"] == 0.0


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_either_part_of_a_complex_element_counts(dtype: str) -> None:
    for bad in (complex(math.nan, 0), complex(0, math.inf)):
        state, model = stepped(OptimiserChain(SkipNonFinite(), Descent()), [np.ones(2, dtype)], [[np.array([1, bad])]])
        assert (model[0] == 1).all()
        assert counts(state[0]) == (1, 1)


def test_gradients_too_large_for_16_bits_are_finite() -> None:
    state, model = stepped(OptimiserChain(SkipNonFinite(), Descent(1e-6)), np.zeros(1, np.float16), [np.array([1e6])])
    assert model == -1
    assert counts(state) == (0, 0)


@UPDATES
def test_what_reaches_it_counts(update: Any) -> None:
    """A rule before it may mend a gradient, or spoil it."""
    x = [np.zeros(2)]
    mended = OptimiserChain(optirs.ClipGrad(1.0), SkipNonFinite(), Descent(1.0))
    state, model = stepped(mended, x, [[[np.inf, 1]]], update)
    assert model[0].tolist() == [-1, -1]
    assert counts(state[0]) == (0, 0)
    ill = OptimiserChain(Descent(1e200), SkipNonFinite(), Descent(1.0))
    state, model = stepped(ill, x, [[[1e200, 1]]], update)
    assert model[0].tolist() == [0, 0]
    assert counts(state[0]) == (1, 1)
    rule = OptimiserChain(Momentum(0.5), optirs.WeightDecay(0.1), SkipNonFinite(), Descent(1.0))
    state, model = stepped(rule, x, [[np.ones(2)]])
    before = bits([model, state[0].state[0]])
    state, model = update(state, model, [[np.nan, 1.0]])
    assert bits([model, state[0].state[0]]) == before  # what ran before it is undone
    clip = OptimiserChain(ClipGlobalNorm(1.0, throw=False), SkipNonFinite(), Descent(1.0))
    state, model = stepped(clip, x, [[[3.0, 4.0]], [[np.nan, 1.0]]], update)
    np.testing.assert_allclose(model[0], [-0.6, -0.8], rtol=1e-15)
    assert norm_of(state[0]) == 5.0  # a norm's state stays
    assert counts(state[0]) == (1, 1)


@BAD
@UPDATES
def test_a_norm_behind_it_is_not_asked(update: Any, bad: float) -> None:
    model, grad = spoilt(bad)
    for norm in (ClipGlobalNorm(1.0), ClipNorm(1.0), OptimiserChain(ClipNorm(2.0), ClipGlobalNorm(1.0))):
        rule = OptimiserChain(SkipNonFinite(), norm, Adam())
        state, new = stepped(rule, model, [grad], update)
        assert bits(new) == bits(model)
        assert [counts(leaf) for leaf in state["layers"]] == [(1, 1)] * 3


@UPDATES
def test_an_accumgrad_before_it_is_emptied(update: Any) -> None:
    model = {"two": np.zeros(2), "each": np.zeros(1)}

    def rule(path: Any, _: Any) -> Rule:
        return OptimiserChain(*([AccumGrad(2)] if path[0] == "two" else []), SkipNonFinite(), Descent(1.0))

    state, model = stepped(rule, model, [{"two": [np.nan, 2.0], "each": [1.0]}], update)
    assert (counts(state["two"]), counts(state["each"])) == ((0, 0), (0, 0))  # the NaN has not come out yet
    assert model["each"] == -1
    state, model = update(state, model, {"two": [2.0, 2.0], "each": [1.0]})
    assert (counts(state["two"]), counts(state["each"])) == ((1, 1), (1, 1))
    assert (model["two"].tolist(), model["each"]) == ([0, 0], -1)
    assert state["two"].state[0]["count"] == 0
    assert (state["two"].state[0]["accum"] == 0).all()
    state, model = update(state, model, {"two": [2.0, 2.0], "each": [np.nan]})  # the other one is held back
    assert (counts(state["two"]), counts(state["each"])) == ((1, 1), (2, 2))
    assert state["two"].state[0]["count"] == 1
    assert (state["two"].state[0]["accum"] == 1).all()
    state, model = update(state, model, {"two": [4.0, 4.0], "each": [1.0]})
    assert (model["two"].tolist(), model["each"]) == ([-3, -3], -2)
    assert (counts(state["two"]), counts(state["each"])) == ((1, 0), (2, 0))


def test_an_accumgrad_behind_it_keeps_what_it_has() -> None:
    rule = OptimiserChain(SkipNonFinite(), AccumGrad(2), Descent(1.0))
    state, x = stepped(rule, np.zeros(1), [[2.0], [np.nan]])
    assert state.state[1]["count"] == 1
    assert x == 0
    state, x = stepped(None, x, [[4.0]], state=state)
    assert x == -3


@UPDATES
def test_leafs_outside_the_group_step(update: Any) -> None:
    names = ("ill", "in", "other name", "other limit", "none", "plain")
    model = {name: np.zeros(1) for name in names}
    rules = {"other name": SkipNonFinite(name="b"), "other limit": SkipNonFinite(9)}

    def rule(path: Any, _: Any) -> Rule:
        first = [] if path[0] == "plain" else [rules.get(path[0], SkipNonFinite())]
        return OptimiserChain(*first, Descent(1.0))

    grad: dict[str, Any] = {name: [1.0] for name in names} | {"ill": [np.nan], "none": None}
    state, new = stepped(rule, model, [grad], update)
    assert {name: float(x[0]) for name, x in new.items()} == {
        "ill": 0, "in": 0, "other name": -1, "other limit": -1, "none": 0, "plain": -1,
    }  # fmt: skip
    assert [counts(state[name]) for name in names[:5]] == [(1, 1), (1, 1), (0, 0), (0, 0), (0, 0)]


@UPDATES
def test_two_of_them_in_a_chain(update: Any) -> None:
    rule = OptimiserChain(SkipNonFinite(name="a"), Descent(1e300), SkipNonFinite(name="b"), Descent(1.0))
    x = np.zeros(1)
    state, x = stepped(rule, x, [[np.nan], [1e300]], update)
    assert x == 0
    assert state.state[0] == {"skipped": 1, "consecutive": 1}
    assert state.state[2] == {"skipped": 1, "consecutive": 1}
    state, x = update(state, x, [0.0])
    assert state.state[0] == {"skipped": 1, "consecutive": 0}
    assert state.state[2] == {"skipped": 1, "consecutive": 0}


# --- limit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, 1, 3])
@UPDATES
def test_more_than_limit_in_a_row_is_an_error(update: Any, limit: int) -> None:
    model = {"layers": [np.ones(2), np.ones((2, 3))]}
    state = optirs.setup(OptimiserChain(AccumGrad(1), SkipNonFinite(limit), Momentum(0.1)), model)
    well = {"layers": [np.ones(2), np.ones((2, 3))]}
    ill = copy.deepcopy(well)
    ill["layers"][1][1, 2] = np.nan
    for _ in range(2):
        for _ in range(limit):
            state, model = update(state, model, ill)
        before = bits([model, states(state["layers"])])
        with pytest.raises(FloatingPointError, match=r"SkipNonFinite.*\(1, 2\).*layers\[1\]"):
            update(state, model, ill)
        assert bits([model, states(state["layers"])]) == before
        state, model = update(state, model, well)
    assert [counts(leaf) for leaf in state["layers"]] == [(2 * limit, 0)] * 2


def test_the_limit_is_that_of_the_member_that_skipped_most() -> None:
    model = {"a": np.zeros(1), "b": np.zeros(1)}
    rule = OptimiserChain(SkipNonFinite(2), Descent(1.0))
    state, model = stepped(rule, model, [{"a": [np.nan]}] * 2)
    assert (counts(state["a"]), counts(state["b"])) == ((2, 2), (0, 0))
    with pytest.raises(FloatingPointError, match="SkipNonFinite"):
        optirs.update(state, model, {"a": [1.0], "b": [np.nan]})
    state, model = optirs.update(state, model, {"b": [np.nan]})  # by itself it may
    assert (counts(state["a"]), counts(state["b"])) == ((2, 2), (1, 1))
    assert metrics(state) == {"SkipNonFinite.skipped": 2.0, "SkipNonFinite.consecutive": 2.0}


# --- the log ----------------------------------------------------------------------------------------------------------


@UPDATES
def test_a_skipped_step_is_told_of(update: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = {"layers": [np.ones(2), np.ones((2, 3))]}
    rule = OptimiserChain(SkipNonFinite(name="mine"), Descent())
    ill = {"layers": [np.ones(2), np.array([[1, 1, 1], [1, 1, np.inf]])]}
    with caplog.at_level(logging.WARNING, logger="optirs"):
        state, model = stepped(rule, model, [ill, ill], update)
        stepped(None, model, [{"layers": [np.ones(2), None]}], update, copy.deepcopy(state))
    assert [(r.name, r.levelname) for r in caplog.records] == [("optirs", "WARNING")] * 2
    for count, text in zip("12", caplog.messages, strict=True):
        assert count in text
        assert "layers[1]" in text
        assert "(1, 2)" in text
        assert "SkipNonFinite" in text


@UPDATES
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_index_is_that_of_the_element_in_the_parameter(
    layout: str, update: Any, caplog: pytest.LogCaptureFixture
) -> None:
    x = LAYOUTS[layout](np.ones((4, 3, 5)))
    for of_gradient in LAYOUTS.values():
        g = of_gradient(np.ones((4, 3, 5)))
        g[2, 1, 3] = np.nan
        for many in (SkipNonFinite(0), OptimiserChain(Momentum(), SkipNonFinite(0))):
            with pytest.raises(FloatingPointError, match=r"element \(2, 1, 3\) .* at w$"):
                stepped(many, {"w": x}, [{"w": g}], update)
        caplog.clear()
        stepped(SkipNonFinite(), {"w": x}, [{"w": g}], update)
        assert "element (2, 1, 3) of the gradient at w " in caplog.text
    W = LAYOUTS[layout](np.ones((4, 3)))
    g = np.ones((3, 4))
    g[1, 2] = np.inf
    state = optirs.setup(SkipNonFinite(0), {"w": W, "t": W.T})
    with pytest.raises(FloatingPointError, match=r"element \(2, 1\) .* at w$"):
        update(state, {"w": W, "t": W.T}, {"t": g})


@UPDATES
def test_the_log_comes_after_the_step(update: Any) -> None:
    model = {"a": np.ones(2), "b": np.ones(2), "c": np.ones(2)}
    state = optirs.setup(lambda path, _: Descent(1.0) if path == ("c",) else SkipNonFinite(), model)
    seen: list[Any] = []

    class Looks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((states(state)[:2], model["c"].tolist()))
            optirs.update_(state, model, {"c": np.ones(2)})  # the state is free

    handler = Looks(logging.WARNING)
    logging.getLogger("optirs").addHandler(handler)
    try:
        new = update(state, model, {"a": [np.nan, 1], "b": [1, 1], "c": [1, 1]})[1]
    finally:
        logging.getLogger("optirs").removeHandler(handler)
    in_place = update is optirs.update_
    ones = {"skipped": int(in_place), "consecutive": int(in_place)}
    assert seen == [([ones, ones], [0.0, 0.0] if in_place else [1.0, 1.0])]
    assert new["c"].tolist() == ([-1.0, -1.0] if in_place else [0.0, 0.0])


def test_no_log_without_a_skip_or_with_an_error(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="optirs"):
        stepped(OptimiserChain(SkipNonFinite(), Descent()), [np.ones(2)], [[np.ones(2)]])
        with pytest.raises(FloatingPointError):
            stepped(OptimiserChain(SkipNonFinite(0), Descent()), [np.ones(2)], [[np.array([np.nan, 1])]])
        model = {"a": np.ones(1), "b": np.ones(1)}
        rules = {"a": SkipNonFinite(), "b": ClipGlobalNorm()}
        with pytest.raises(FloatingPointError, match="ClipGlobalNorm"):  # nothing is committed
            stepped(lambda path, _: rules[path[0]], model, [{"a": [np.nan], "b": [np.nan]}])
    assert caplog.messages == []


# --- on one array -----------------------------------------------------------------------------------------------------


def test_apply_takes_its_array_for_the_whole_step() -> None:
    x, g = np.zeros(2), np.array([3.0, -4.0])
    rule = ClipGlobalNorm(1.0)
    assert optirs.init(rule, x) == {"norm": 0.0}
    state, dx = optirs.apply(rule, {"norm": 7.0}, x, g)
    assert state == {"norm": 5.0}
    np.testing.assert_allclose(dx, [0.6, -0.8], rtol=1e-15)
    with pytest.raises(FloatingPointError, match="ClipGlobalNorm"):
        optirs.apply(rule, state, x, g * np.inf)
    state, dx = optirs.apply(rule.replace(throw=False), state, x, g * np.inf)
    assert np.isnan(dx).all()
    assert not math.isfinite(state["norm"])

    rule = SkipNonFinite(1)
    assert optirs.init(rule, x) == {"skipped": 0, "consecutive": 0}
    old = {"skipped": 4, "consecutive": 0}
    state, dx = optirs.apply(rule, old, x, np.array([1.0, np.nan]))
    assert (state, dx) == ({"skipped": 5, "consecutive": 1}, None)
    assert old == {"skipped": 4, "consecutive": 0}
    with pytest.raises(FloatingPointError, match="SkipNonFinite"):
        optirs.apply(rule, state, x, np.array([1.0, np.nan]))
    state, dx = optirs.apply(rule, state, x, g)
    assert state == {"skipped": 5, "consecutive": 0}
    assert bits(dx) == bits(g)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ((AccumGrad(2), SkipNonFinite(), Adam()), (1, 0)),
        # A NaN that was not skipped at once stays in the velocity.
        (
            (Momentum(), AccumGrad(2), OptimiserChain(ClipGlobalNorm(throw=False), SkipNonFinite()), Adam(), Ema()),
            (2, 2),
        ),
        ((Scheduled(OptimiserChain(Momentum(), AccumGrad(2)), rho=lambda t: 0.5), SkipNonFinite(), Adam()), (2, 2)),
    ],
    ids=["accum", "momentum", "scheduled"],
)
@pytest.mark.parametrize("own", [None, "first", "last but one"])
def test_apply_of_a_chain_that_skips(rules: tuple[Rule, ...], expected: tuple[int, int], own: str | None) -> None:
    """Also around a rule of one's own, where segments of a chain run by themselves."""
    if own is not None:
        rules = (DecayDescent(), *rules) if own == "first" else (*rules[:-1], DecayDescent(), *rules[-1:])
    rule, x = OptimiserChain(*rules), np.zeros(2)
    leaf, state = optirs.setup(rule, x), optirs.init(rule, x)
    at = x
    for g in ([1.0, 2.0], [3.0, 4.0], [1.0, np.nan], [1.0, 1.0], [1.0, 2.0], [0.0, 1.0]):
        leaf, x = optirs.update(leaf, x, np.array(g))
        state, dx = optirs.apply(rule, state, at, np.array(g))
        at = at if dx is None else at - dx
        np.testing.assert_allclose(at, x, rtol=1e-14)
        assert bits(state) == bits(leaf.state)
    assert counts(leaf) == expected


# --- rules of one's own -----------------------------------------------------------------------------------------------


@UPDATES
@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_rule_of_ones_own_before_between_and_behind(place: int, update: Any) -> None:
    """The group is that of all Leafs, with an own rule in some of them."""

    @dataclass(frozen=True)
    class Same(Rule):
        def init(self, x: Any) -> Any:
            return 0

        def apply(self, state: Any, x: Any, dx: Any) -> Any:
            return state + 1, dx

    plain = [SkipNonFinite(), ClipGlobalNorm(1.0), Adam(0.1)]
    own = [*plain[:place], Same(), *plain[place:]]
    model = {"own": np.ones(2), "plain": np.ones(3), "mixed": np.ones(2, np.float32)}
    rules = {
        "own": OptimiserChain(*own),
        "plain": OptimiserChain(*plain),
        "mixed": MixedPrecision(OptimiserChain(*own), "float64"),
    }
    grads = [
        {"own": [3.0, 4.0], "plain": [1.0, 2.0, 2.0], "mixed": [1.0, 1.0]},
        {"own": [3.0, np.nan], "plain": [1.0, 2.0, 2.0], "mixed": [1.0, 1.0]},
        {"own": [3.0, 4.0], "plain": [1.0, 2.0, np.inf], "mixed": [1.0, 1.0]},
        {"own": [3.0, 4.0], "plain": None, "mixed": [1.0, 1.0]},
    ]
    state, mine = stepped(lambda path, _: rules[path[0]], model, grads, update)
    compiled = {**rules, "own": OptimiserChain(*plain), "mixed": MixedPrecision(OptimiserChain(*plain), "float64")}
    other, theirs = stepped(lambda path, _: compiled[path[0]], model, grads, update)
    assert bits(mine) == bits(theirs)
    assert [counts(leaf) for leaf in state.values()] == [(2, 0), (2, 2), (2, 0)]
    expected = {"SkipNonFinite.skipped": 2.0, "SkipNonFinite.consecutive": 2.0}  # of the one without a gradient since
    assert metrics(state) == metrics(other) == {**expected, "ClipGlobalNorm.norm": math.sqrt(27.0)}
    kept = [part for i, part in enumerate(state["own"].state) if i != place]
    assert bits(kept) == bits([*other["own"].state])
    assert state["own"].state[place] == 2  # its counts of skipped steps are undone, too


@UPDATES
def test_a_rule_of_ones_own_that_holds_a_leaf_back_or_fails(update: Any) -> None:
    class Fails(Rule):
        def init(self, x: Any) -> Any:
            return None

        def apply(self, state: Any, x: Any, dx: Any) -> Any:
            if dx[0] > 1e3:
                raise OSError("too much")
            return state, None if dx[0] < 0 else dx

    model = {"own": np.zeros(1), "plain": np.zeros(1)}
    state = optirs.setup(lambda path, _: clipped(*([Fails()] if path == ("own",) else [])), model)
    state, model = update(state, model, {"own": [-3.0], "plain": [4.0]})
    assert [norm_of(leaf) for leaf in state.values()] == [0.0, 4.0]
    assert (model["own"], model["plain"]) == (0.0, -1.0)
    before = bits([model, states(state)])
    with pytest.raises(OSError, match="too much"):
        update(state, model, {"own": [1e4], "plain": [4.0]})
    assert bits([model, states(state)]) == before


# --- kept, copied, trained --------------------------------------------------------------------------------------------

STEP = ClipGlobalNorm(0.3, name="step")
WHOLE = OptimiserChain(SkipNonFinite(), OptimiserChain(ClipGlobalNorm(0.5)), Adam(0.1), STEP)
ROADS: dict[str, Callable[[Any, Any, Path], Any]] = {
    "deepcopy": lambda state, model, path: copy.deepcopy(state),
    "pickle": lambda state, model, path: pickle.loads(pickle.dumps(state)),
    "adjust": lambda state, model, path: optirs.adjust(state, 0.1),
    "pure update": lambda state, model, path: optirs.update(state, model, None)[0],
    "freeze and thaw": lambda state, model, path: optirs.thaw_(optirs.freeze_(state)),
    "file": lambda state, model, path: (optirs.save(path, state=state), optirs.load(path, model))[1].state,
}


@pytest.mark.parametrize(
    "rule",
    [
        WHOLE,
        MixedPrecision(WHOLE),
        Scheduled(WHOLE, eta=schedules.Constant(0.1)),
        OptimiserChain(*WHOLE.rules, DecayDescent()),
    ],
    ids=["plain", "mixed", "scheduled", "own"],
)
@pytest.mark.parametrize("road", ROADS)
def test_states_go_on_where_they_were(road: str, rule: Rule, tmp_path: Path) -> None:
    model = [np.ones(3, np.float32), np.ones((2, 2), np.float32)]
    grads: list[Any] = [[draw(generator(i), x.shape, "float32") for x in model] for i in range(6)]
    grads[2][0][1] = np.nan
    if road == "adjust" and isinstance(rule, Scheduled):
        pytest.skip("eta is scheduled")
    state, model = stepped(rule, model, grads[:4])
    if road == "adjust" and "DecayDescent" in repr(rule):
        state = optirs.adjust(state, 0.1)
    kept = ROADS[road](state, model, tmp_path / "state")
    assert kept == state
    assert metrics(kept) == metrics(state)
    first, second = stepped(None, model, grads[4:], state=state), stepped(None, model, grads[4:], state=kept)
    assert bits(first[1]) == bits(second[1])
    assert first[0] == second[0]
    assert metrics(first[0]) == metrics(second[0])


TRAINED = [
    clipped(omega=0.1),
    OptimiserChain(SkipNonFinite(), ClipGlobalNorm(0.5), optirs.AdamW(0.05, lambda_=0.01), Ema(0.9)),
    OptimiserChain(optirs.WeightDecay(0.1), AccumGrad(2), ClipGlobalNorm(0.1), Momentum(0.1), ClipGlobalNorm(0.01)),
    Scheduled(clipped(), omega=schedules.Exponential(0.5, 0.8, limit=0.1)),
    MixedPrecision(OptimiserChain(SkipNonFinite(), ClipGlobalNorm(0.1), Adam(0.05)), "float64"),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rule", TRAINED, ids=lambda rule: repr(rule)[:40])
def test_training_is_compiled_and_has_the_same_bits(started: list[bool], rule: Rule, dtype: str) -> None:
    both(started, "mse", network(DTYPES[dtype]), data("mse", 20), rule, epochs=5, batch_size=7)


def test_training_with_a_rule_for_each_parameter(started: list[bool]) -> None:
    def rule(path: Any, _: Any) -> Rule:
        omega = {"W": 0.1, "b": 0.05}[path[-1]]
        return OptimiserChain(SkipNonFinite(), ClipGlobalNorm(omega, name=path[-1]), Adam(0.05))

    both(started, "mse", network(), data("mse", 20), rule, epochs=5, batch_size=7)


def too_large() -> tuple[Array, Array]:
    """Data of which one row makes a loss that is finite, and gradients that are not."""
    x, y = data("mse", 20)
    x, y = x.copy(), y.copy()
    x[9] *= 1e20
    y[9] = 1e19
    return x, y


def test_training_skips_and_goes_on(started: list[bool], caplog: pytest.LogCaptureFixture) -> None:
    rule = OptimiserChain(SkipNonFinite(), ClipGlobalNorm(0.1), Adam(0.05))
    model = optirs.Affine(np.full((3, 4), 0.5, "f"), np.zeros(3, "f"))
    with caplog.at_level(logging.WARNING, logger="optirs"):
        both(started, "mse", model, too_large(), rule, epochs=3, batch_size=5)
    assert len(caplog.messages) == 6  # three in either loop
    assert all("SkipNonFinite" in text for text in caplog.messages)
    limited = OptimiserChain(SkipNonFinite(0), Adam(0.05))
    text = both(started, "mse", model, too_large(), limited, epochs=3, batch_size=5)
    assert "SkipNonFinite" in text


def test_a_loss_that_is_not_finite_stays_an_error() -> None:
    x, y = data("mse", 20)
    y = y.copy()
    y[3] = np.nan
    with pytest.raises(optirs.NonFiniteLossError):
        optirs.train(optirs.supervised(optirs.mse), network(), (x, y), OptimiserChain(SkipNonFinite(), Adam()))


# --- many arrays, many threads, the oracle ----------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", [[(150_001,), (3,), (211, 307)], [(30,)] * 1000], ids=["large", "many"])
@pytest.mark.parametrize("ill", [False, True])
def test_threads_and_places_change_no_bit(shapes: list[tuple[int, ...]], ill: bool, threads: None) -> None:
    rng = generator("threads")
    model = [draw(rng, shape, "float32") for shape in shapes]
    grads = [[draw(rng, shape, "float32") for shape in shapes] for _ in range(3)]
    if ill:
        grads[1][-1].flat[-1] = np.inf
    answers = []
    for n in (1, 2):
        optirs.set_num_threads(n)
        for update in (optirs.update, optirs.update_):
            state, new = stepped(WHOLE, model, grads, update)
            answers.append(bits([new, states(state), metrics(state)]))
    assert all(answer == answers[0] for answer in answers)
    assert metrics(state)["SkipNonFinite.skipped"] == ill
    last = math.sqrt(sum(float((g.astype(float) ** 2).sum()) for g in grads[2]))
    np.testing.assert_allclose(metrics(state)["ClipGlobalNorm.norm"], last, rtol=1e-14)


RULES: list[Callable[[Any], Rule]] = [
    lambda rng: ClipGlobalNorm(rng.choice([0.5, 3.0]), name="a"),
    lambda rng: AccumGrad(int(rng.integers(1, 4))),
    lambda rng: Momentum(0.5),
    lambda rng: SkipNonFinite(name="b"),
    lambda rng: optirs.WeightDecay(0.1),
    lambda rng: ClipGlobalNorm(2.0, name="c", throw=False),
    lambda rng: Adam(0.1),
    lambda rng: Ema(0.7),
]
"""In an order that serves all; a chain takes some of them."""


@pytest.mark.parametrize("seed", range(40))
def test_steps_follow_the_oracle(seed: int) -> None:
    rng = np.random.default_rng(seed)

    def some(path: Any, _: Any) -> Rule:
        rule: Rule = OptimiserChain(*(make(rng) for make in RULES if rng.random() < 0.6))
        return MixedPrecision(rule, "float64") if rng.random() < 0.2 else rule

    shapes = [(3,), (2, 2), (), (40,), (1,)]
    model = [rng.normal(size=shape) for shape in shapes]
    state = optirs.setup(some, model)
    specs = [recipe(leaf.rule) for leaf in state]
    oracle = [reference.start(spec, x) for spec, x in zip(specs, model, strict=True)]
    at = model
    for _ in range(12):
        frozen = rng.random(5) < 0.1
        grad: list[Any] = [None if rng.random() < 0.1 else rng.normal(size=shape) for shape in shapes]
        for g in grad:
            if g is not None and rng.random() < 0.05:
                g[...] = rng.choice([np.nan, np.inf])
        for leaf, is_frozen in zip(state, frozen, strict=True):
            (optirs.freeze_ if is_frozen else optirs.thaw_)(leaf)
        given = [None if is_frozen else g for is_frozen, g in zip(frozen, grad, strict=True)]
        try:
            results = reference.steps(specs, oracle, at, given, [x.dtype for x in at])
        except FloatingPointError:
            before = bits([model, states(state)])
            with pytest.raises(FloatingPointError, match="ClipGlobalNorm"):
                optirs.update_(state, model, grad)
            assert bits([model, states(state)]) == before
            continue
        oracle, at = [one for one, _ in results], [x for _, x in results]
        state, model = optirs.update(state, model, grad)
        for x, expected, leaf, theirs in zip(model, at, state, oracle, strict=True):
            np.testing.assert_allclose(x, expected, rtol=1e-10, atol=1e-12)
            for mine, other in zip(flat(leaf.state), flat(theirs), strict=True):
                assert mine.keys() == other.keys()
                for name in mine:
                    np.testing.assert_allclose(mine[name], other[name], rtol=1e-10, atol=1e-12)
