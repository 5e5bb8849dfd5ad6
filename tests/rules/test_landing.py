"""Rules that decide where a parameter lands, `Box`, `Lookahead`, `Ema`, `Swa`, and the models of their averages."""

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import reference
from networks import data, network
from problems import DTYPES, DecayDescent, bits, draw, generator, gradients, recipe
from steps import flat, stepped
from trainings import both

import optirs
from optirs import (
    AccumGrad,
    Adam,
    Box,
    Descent,
    Ema,
    Lookahead,
    MixedPrecision,
    Momentum,
    OptimiserChain,
    Rule,
    Scheduled,
    Swa,
    averaged,
    schedules,
)

UPDATES = pytest.mark.parametrize("update", [optirs.update, optirs.update_])
LANDS = [Box(-1.0, 1.0), Lookahead(2), Ema(0.5), Swa()]
EACH = pytest.mark.parametrize("rule", LANDS, ids=lambda rule: type(rule).__name__)
SHAPES: list[tuple[int, ...]] = [(), (0,), (3, 5), (257,)]


class Halve(Rule):
    """A rule of the user's own."""

    def init(self, x: Any) -> Any:
        return {"calls": 0}

    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        return {"calls": state["calls"] + 1}, dx / 2


# --- where they may stand ---------------------------------------------------------------------------------------------


def behind(rule: Rule, other: Rule) -> Iterator[Callable[[], Rule]]:
    """Chains in which `other` stands behind `rule`."""
    chain = OptimiserChain
    yield lambda: chain(rule, other)
    yield lambda: chain(chain(rule), other)
    yield lambda: chain(rule, chain(chain(), chain(other)))
    yield lambda: chain(chain(Descent(), rule), chain(other))
    yield lambda: chain(rule, Ema(), chain(), other)
    yield lambda: MixedPrecision(chain(rule, other))
    yield lambda: chain(Halve(), rule, other)
    yield lambda: chain(Descent(), rule, Ema()).replace(rules=[rule, other])
    field, follows = ("decay", 0.5) if isinstance(rule, Ema) else ("alpha", 0.5)
    if hasattr(rule, field):
        yield lambda: chain(Scheduled(rule, **{field: schedules.Constant(follows)}), other)
        yield lambda: Scheduled(chain(rule, other), **{field: schedules.Constant(follows)})


OTHERS = [Descent(), optirs.ClipNorm(), optirs.ClipGlobalNorm(), optirs.SkipNonFinite(), AccumGrad(2), Halve()]


@EACH
@pytest.mark.parametrize("other", OTHERS, ids=lambda rule: type(rule).__name__)
def test_behind_one_comes_no_other_kind(rule: Rule, other: Rule) -> None:
    for make in behind(rule, other):
        with pytest.raises(ValueError, match=r"OptimiserChain: .* stands behind") as caught:
            make()
        text = str(caught.value)
        assert repr(other) in text
        assert "decides where the parameter lands" in text
        assert any(f"behind {type(lands).__name__}(" in text for lands in (rule, Ema()))


@EACH
@pytest.mark.parametrize("other", LANDS, ids=lambda rule: type(rule).__name__)
def test_behind_one_come_others_of_the_kind(rule: Rule, other: Rule) -> None:
    for make in behind(rule, other):
        assert make()


def test_a_rule_of_ones_own_made_of_one_does_not_land() -> None:
    class Noted(Ema):
        def apply(self, state: Any, x: Any, dx: Any) -> Any:
            return super().apply(state, x, dx)

    class Renamed(Ema):
        """Lands as its parent does."""

    assert OptimiserChain(Noted(), Descent())
    with pytest.raises(ValueError, match=r"Descent\(eta=0.1\) stands behind .*Renamed\(decay=0.999, warmup=False\)"):
        OptimiserChain(Renamed(), Descent())


def test_the_bounds_of_a_box_follow_schedules_that_never_meet() -> None:
    up = schedules.Polynomial(0.0, 5, 5.0)
    with pytest.raises(
        ValueError, match=r"^Scheduled: Box: lower must be < upper, got lower 5.0 and upper 3.0; .* goes"
    ):
        Scheduled(Box(upper=3.0), lower=up)
    with pytest.raises(ValueError, match=r"^Scheduled: Box: lower must be < upper, got lower 5.0 .*\) go so far$"):
        Scheduled(Box(), lower=up, upper=schedules.Polynomial(9.0, 5, 1.0))
    rule = Scheduled(Box(), lower=up, upper=schedules.Polynomial(9.0, 5, 6.0))
    _, x = stepped(OptimiserChain(Descent(1.0), rule), np.array([-1.0, 9.0]), [np.zeros(2)] * 3)
    np.testing.assert_allclose(x, [2.0, 7.8])
    crossing = OptimiserChain(Descent(1.0), Scheduled(Box(), lower=lambda t: t, upper=lambda t: 1.5))
    state, x = stepped(crossing, np.array([-1.0, 9.0]), [np.zeros(2)] * 2)
    before = bits([state.state, x])
    with pytest.raises(ValueError, match=r"lower must be < upper, got lower 2.0 and upper 1.5"):
        optirs.update_(state, x, np.zeros(2))
    assert bits([state.state, x]) == before


# --- Box --------------------------------------------------------------------------------------------------------------


@UPDATES
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_box_lands_on_the_bounds_as_the_type_has_them(dtype: str, update: Any) -> None:
    kind = DTYPES[dtype]
    start = [np.array([1e4, -1e4, 0.0, 0.05, np.nan, -0.125]).astype(kind), np.array(7.0).astype(kind)]
    grads = [np.array([1.0, 3.0, 0.0, 0.0, 0.0, 0.0]), np.array(np.inf)]
    state, model = stepped(OptimiserChain(Descent(1.0), Box(-0.3, 0.1)), start, [grads], update)
    low, high = np.array(-0.3).astype(kind), np.array(0.1).astype(kind)
    expected = [np.array([high, low, 0.0, 0.05, np.nan, -0.125]).astype(kind), low]
    assert bits(model) == bits(expected)
    assert state[0].state == (None, None)


@UPDATES
def test_box_loses_no_bits_on_the_way(update: Any) -> None:
    x = np.array([1e30, 16777216.0, -1.0], np.float32)
    _, y = stepped(OptimiserChain(Descent(1.0), Box(0.1, 0.7)), x, [np.array([1.0, 1.0, 0.0], np.float32)], update)
    assert bits(y) == bits(np.array([0.7, 0.7, 0.1], np.float32))


def test_box_without_bounds_changes_no_bit() -> None:
    rng = generator("box")
    model = [draw(rng, shape, "float32") for shape in SHAPES]
    grads = [[draw(rng, shape, "float32") for shape in SHAPES] for _ in range(3)]
    assert bits(stepped(OptimiserChain(Adam(0.1), Box()), model, grads)[1]) == bits(stepped(Adam(0.1), model, grads)[1])


def test_box_of_complex_parameters() -> None:
    for rule in (Box(0.0), OptimiserChain(Descent(), Box()), MixedPrecision(OptimiserChain(Descent(), Box()))):
        with pytest.raises(TypeError, match=r"layers\[0\]\.w is complex128: Box has no meaning"):
            optirs.setup(rule, {"layers": [{"w": np.zeros(2, complex)}]})


# --- averages ---------------------------------------------------------------------------------------------------------


@UPDATES
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", [Ema(0.9), Ema(0.9, warmup=True), Swa(1, 2)], ids=repr)
def test_averages_leave_the_steps_as_they_are(rule: Rule, dtype: str, update: Any) -> None:
    rng = generator("averages", dtype)
    model = [draw(rng, shape, dtype) for shape in SHAPES]
    grads = [list(gs) for gs in zip(*(gradients(rng, shape, dtype, 5) for shape in SHAPES), strict=True)]
    plain = stepped(Adam(0.1), model, grads)
    state, with_average = stepped(OptimiserChain(Adam(0.1), rule), model, grads, update)
    assert bits(with_average) == bits(plain[1])
    assert bits([leaf.state[0] for leaf in state]) == bits([leaf.state for leaf in plain[0]])


def test_ema_warms_up() -> None:
    rule = OptimiserChain(Descent(1.0), Ema(0.5, warmup=True))
    x, average = 0.0, 0.0
    state, model = optirs.setup(rule, np.zeros(1)), np.zeros(1)
    for t in range(1, 12):
        state, model = optirs.update(state, model, np.array([-float(t)]))
        x += t
        d = min(0.5, (1 + t) / (10 + t))
        average = d * average + (1 - d) * x
        assert model == x
        np.testing.assert_allclose(state.state[1]["average"], average, rtol=1e-14)
        assert state.state[1]["t"] == t
    first = optirs.update(optirs.setup(rule, np.zeros(1)), np.zeros(1), np.array([-11.0]))[0]
    np.testing.assert_allclose(first.state[1]["average"], 9.0, rtol=1e-14)  # d = 2/11


@pytest.mark.parametrize(
    ("rule", "samples"),
    [(Swa(), [1, 2, 3, 4, 5, 6, 7]), (Swa(3), [4, 5, 6, 7]), (Swa(1, 2), [2, 4, 6]), (Swa(2, 4), [3, 7]), (Swa(9), [])],
    ids=repr,
)
def test_swa_is_the_mean_over_the_steps_that_it_says(rule: Swa, samples: list[int]) -> None:
    state, model = optirs.setup(OptimiserChain(Descent(1.0), rule), np.zeros(2)), np.zeros(2)
    for t in range(1, 8):
        state, model = optirs.update(state, model, np.array([-1.0, 2.0 * t]))
        seen = [s for s in samples if s <= t]
        own = state.state[1]
        assert (own["t"], own["n"]) == (t, len(seen))
        mean = [np.mean(seen), np.mean([-s * (s + 1) for s in seen])] if seen else [float(t), float(-t * (t + 1))]
        np.testing.assert_allclose(averaged(state, model), mean, rtol=1e-14)
        np.testing.assert_allclose(own["average"], mean if seen else [0.0, 0.0], rtol=1e-14)


@UPDATES
@pytest.mark.parametrize("dtype", DTYPES)
def test_lookahead_puts_both_in_one_place(dtype: str, update: Any) -> None:
    kind = DTYPES[dtype]
    x: Any = np.array([0.0, 8.0], kind)
    state = optirs.setup(OptimiserChain(Descent(1.0), Lookahead(3, 0.25)), x)
    slow, fast = np.array([0.0, 8.0]), np.array([0.0, 8.0])
    for t in range(1, 8):
        state, x = update(state, x, np.array([-4.0, 8.0], kind))
        fast = fast + np.array([4.0, -8.0])
        if t % 3 == 0:
            slow = fast = slow + 0.25 * (fast - slow)
        assert (x == fast.astype(kind)).all()
        assert (state.state[1]["slow"] == slow).all()
        assert state.state[1]["t"] == t
    assert not np.shares_memory(state.state[1]["slow"], x)


def test_the_order_is_that_of_the_chain() -> None:
    x, g = np.array([0.0]), np.array([-8.0])
    for rules, landed, kept in (
        ([Box(upper=2.0), Ema(0.5), Lookahead(1, 0.25)], 0.5, 1.0),
        ([Ema(0.5), Box(upper=2.0), Lookahead(1, 0.25)], 0.5, 4.0),
        ([Lookahead(1, 0.25), Ema(0.5), Box(upper=1.5)], 1.5, 1.0),
        ([OptimiserChain(Lookahead(1, 0.25), OptimiserChain(Box(upper=1.5))), Ema(0.5)], 1.5, 0.75),
    ):
        state, y = stepped(OptimiserChain(Descent(1.0), *rules), x, [g])
        assert y == landed
        (average,) = [s["average"] for s in flat(state.state) if "average" in s]
        assert average == kept


def test_where_no_step_is_taken_nothing_lands() -> None:
    x = {"out": np.array([5.0]), "collecting": np.array([5.0])}

    def rule(path: Any, _: Any) -> Rule:
        lands = (Box(upper=1.0), Ema(0.5), Swa(), Lookahead(1, 1.0))
        return OptimiserChain(*([] if path[0] == "out" else [AccumGrad(2)]), Descent(1.0), *lands)

    state, model = stepped(rule, x, [{"collecting": np.zeros(1)}])
    assert model == x
    optirs.freeze_(state["out"])
    state, model = stepped(rule, model, [{"out": np.zeros(1)}], state=state)
    assert model == x
    assert [s["t"] for leaf in state.values() for s in flat(leaf.state) if "t" in s] == [0] * 6
    optirs.thaw_(state)
    state, model = stepped(rule, model, [{"out": np.zeros(1), "collecting": np.zeros(1)}], state=state)
    assert model == {"out": [1.0], "collecting": [1.0]}
    assert [s["t"] for leaf in state.values() for s in flat(leaf.state) if "t" in s] == [1] * 6


def test_averages_start_as_a_copy_of_the_parameter() -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0]], np.float16)
    for rule in (Ema(), Swa(), Lookahead()):
        for layout in (x, np.asfortranarray(x), x[:, ::-1]):
            (kept,) = [s for s in optirs.setup(rule, layout).state.values() if isinstance(s, np.ndarray)]
            assert kept.dtype == np.float32
            assert (kept == layout).all()
            assert not np.shares_memory(kept, layout)
            assert bits(optirs.init(rule, layout)) == bits(optirs.setup(rule, layout).state)
    master, inner = optirs.setup(MixedPrecision(Ema(), "float64"), x).state
    assert inner["average"].dtype == np.float64
    assert not np.shares_memory(inner["average"], master)


# --- 16 bits, and master copies ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@UPDATES
def test_averages_see_more_than_16_bits_hold(dtype: str, update: Any) -> None:
    step = 2.0**-12
    x = np.ones(4, DTYPES[dtype])
    rules = (Ema(0.0), Swa(), Lookahead(3, 1.0))
    state, model = stepped(OptimiserChain(Descent(1.0), *rules), x, [np.full(4, step)], update)
    assert (model == 1).all()
    for own in (state.state[1], state.state[2]):
        assert own["average"].dtype == np.float32
        assert (own["average"] == np.float32(1 - step)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@UPDATES
def test_averages_under_a_master_copy_are_of_the_master(dtype: str, update: Any) -> None:
    step = 2.0**-20
    rule = MixedPrecision(OptimiserChain(Descent(1.0), Ema(0.5), Box(upper=1.0)), "float64")
    state, model = stepped(rule, np.ones(4, DTYPES[dtype]), [np.full(4, step)] * 2, update)
    master, inner = state.state
    assert (master == 1 - 2 * step).all()
    assert (inner[1]["average"] == (1 + (1 - step)) / 4 + (1 - 2 * step) / 2).all()
    assert inner[1]["average"].dtype == np.float64
    assert averaged(state, model).dtype == DTYPES[dtype]


def test_an_average_is_rounded_to_bfloat16_once() -> None:
    tie = 1 + 2.0**-8  # between two bfloat16; float32 would round the number above it to the tie, and that to 1
    x = np.full(2, 2.0).astype(ml_dtypes.bfloat16)
    rule = MixedPrecision(OptimiserChain(Descent(1.0), Ema(0.0)), "float64")
    state, model = stepped(rule, x, [np.array([2.0 - (tie + 2.0**-40), 2.0 - tie])])
    assert averaged(state, model).astype(float).tolist() == [1 + 2.0**-7, 1.0]


# --- kept, copied, changed --------------------------------------------------------------------------------------------

CHAIN = OptimiserChain(Momentum(0.1), Lookahead(2), Box(-2.0, 2.0), Ema(0.5), Swa(1))
ROADS: dict[str, Callable[[Any, Path], Any]] = {
    "deepcopy": lambda state, path: copy.deepcopy(state),
    "pickle": lambda state, path: pickle.loads(pickle.dumps(state)),
    "adjust": lambda state, path: optirs.adjust(state, rho=0.9),
    "pure update": lambda state, path: optirs.update(state, [np.ones(3), np.ones((2, 2))], None)[0],
    "freeze and thaw": lambda state, path: optirs.thaw_(optirs.freeze_(state)),
    "file": lambda state, path: (optirs.save(path, state=state), optirs.load(path, MODEL))[1].state,
}
MODEL = [np.ones(3), np.ones((2, 2))]


@pytest.mark.parametrize(
    "rule",
    [CHAIN, MixedPrecision(CHAIN, "float64"), OptimiserChain(DecayDescent(), *CHAIN.rules)],
    ids=["plain", "mixed", "own"],
)
@pytest.mark.parametrize("road", ROADS)
def test_states_go_on_where_they_were(road: str, rule: Rule, tmp_path: Path) -> None:
    grads = [[draw(generator(i), x.shape, "float64") for x in MODEL] for i in range(5)]
    state, model = stepped(rule, MODEL, grads[:3])
    kept = ROADS[road](state, tmp_path / "state")
    assert kept == state
    first, second = stepped(None, model, grads[3:], state=state), stepped(None, model, grads[3:], state=kept)
    assert bits(first[1]) == bits(second[1])
    assert first[0] == second[0]
    assert bits(averaged(*first)) == bits(averaged(*second))


def test_adjust_keeps_averages() -> None:
    state, model = stepped(OptimiserChain(Descent(1.0), Ema(0.5), Lookahead(5, 0.5), Box()), np.zeros(1), [-np.ones(1)])
    changed = optirs.adjust(state, decay=0.75, alpha=0.25, lower=-3.0, upper=1.5)
    assert changed.rule == OptimiserChain(Descent(1.0), Ema(0.75), Lookahead(5, 0.25), Box(-3.0, 1.5))
    assert bits(changed.state) == bits(state.state)
    state, model = optirs.update(changed, model, -np.ones(1))
    assert model == 1.5
    assert state.state[1]["average"] == 0.5 + 0.25 * (2.0 - 0.5)
    for field in ("k", "start", "every"):
        with pytest.raises(ValueError, match=f"no rule here has a field '{field}'"):
            optirs.adjust(state, **{field: 2})
    with pytest.raises(ValueError, match=r"Box: lower must be < upper, got lower 2.0 and upper 1.5"):
        optirs.adjust_(state, lower=2.0)
    assert state.rule.rules[3] == Box(-3.0, 1.5)


# --- on one array -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("rule", [*LANDS, OptimiserChain(Adam(0.1), *LANDS), OptimiserChain(Halve(), *LANDS)], ids=repr)
def test_apply_returns_x_minus_the_landing(rule: Rule, dtype: str) -> None:
    if dtype == "complex128" and "Box" in repr(rule):
        pytest.skip("complex")
    rng = generator("apply", dtype)
    x = draw(rng, (40,), dtype)
    state, leaf = optirs.init(rule, x), optirs.setup(rule, x)
    eps = np.finfo(x.dtype).eps
    for g in gradients(rng, (40,), dtype, 5):
        before = bits([state, x, g])
        after, dx = optirs.apply(rule, state, x, g)
        assert bits([state, x, g]) == before
        leaf, landed = optirs.update(leaf, x, g)
        np.testing.assert_allclose(x - dx, landed, rtol=4 * eps, atol=4 * eps * float(np.abs(x).max()))
        assert bits(after) == bits(leaf.state)
        state, x = after, landed


# --- rules of one's own -----------------------------------------------------------------------------------------------


@UPDATES
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_behind_a_rule_of_ones_own_they_land_as_exactly(dtype: str, update: Any) -> None:
    rng = generator("own", dtype)
    model = [draw(rng, shape, dtype) for shape in SHAPES]
    grads = [list(gs) for gs in zip(*(gradients(rng, shape, dtype, 5) for shape in SHAPES), strict=True)]
    lands = (Box(-0.3, 0.7), Lookahead(2, 0.3), Ema(0.9), Swa(1))
    expected, there = stepped(OptimiserChain(Descent(0.5), Descent(0.5), *lands), model, grads)
    for rules in (
        (Halve(), Descent(0.5)),
        (Descent(0.5), Halve()),
        (OptimiserChain(Halve()), OptimiserChain(Descent(0.5))),
    ):
        state, mine = stepped(OptimiserChain(*rules, *lands), model, grads, update)
        assert bits(mine) == bits(there)
        for leaf, other in zip(state, expected, strict=True):
            assert bits(leaf.state[2:]) == bits(other.state[2:])
        assert bits(averaged(state, mine)) == bits(averaged(expected, there))


def test_around_a_rule_of_ones_own_with_schedules_and_a_master_copy() -> None:
    lands = (Box(-0.3, 0.7), Scheduled(Ema(0.9), decay=schedules.Polynomial(0.5, 3, 0.9)))
    rules = [OptimiserChain(first, *lands) for first in (Halve(), Descent(0.5))]
    for wrap in (lambda rule: MixedPrecision(rule, "float64"), lambda rule: MixedPrecision(rule, "float32")):
        (state, mine), (other, there) = (
            stepped(wrap(rule), [np.ones(3, np.float16)], [[np.full(3, 0.3)]] * 3) for rule in rules
        )
        assert bits(mine) == bits(there)
        assert bits(state[0].state[1][1:]) == bits(other[0].state[1][1:])
        assert bits(averaged(state, mine)) == bits(averaged(other, there))


# --- in train, and with any number of threads -------------------------------------------------------------------------

TRAINED = [
    OptimiserChain(Adam(0.05), Ema(0.9, warmup=True)),
    OptimiserChain(Momentum(0.05), Lookahead(3), Swa(2, 2)),
    OptimiserChain(optirs.ClipGrad(0.1), AccumGrad(2), Adam(0.05), Box(-0.2, 0.2), Ema(0.5)),
    Scheduled(OptimiserChain(Adam(0.05), Ema()), decay=schedules.Polynomial(0.5, 9, 0.99)),
    MixedPrecision(OptimiserChain(Adam(0.05), Box(-0.2, 0.2), Ema(0.9)), "float64"),
    Ema(0.9),
    Box(-0.2, 0.2),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("rule", TRAINED, ids=lambda rule: repr(rule)[:40])
def test_training_is_compiled_and_has_the_same_bits(started: list[bool], rule: Rule, dtype: str) -> None:
    both(started, "mse", network(DTYPES[dtype]), data("mse", 20), rule, epochs=5, batch_size=7)


def test_the_average_of_a_training() -> None:
    rule = OptimiserChain(Adam(0.05), Ema(0.5))
    gradient = optirs.supervised(optirs.mse)
    seen: list[Any] = []
    training = optirs.train(
        gradient, network(), data("mse", 20), rule, epochs=4, callbacks=[lambda event: seen.append(event.model)]
    )
    mean = network()[0].W.astype(float)
    for model in seen:
        mean += 0.5 * (model[0].W - mean)
    found = averaged(training.state, training.model)
    np.testing.assert_allclose(found[0].W, mean, rtol=1e-5, atol=1e-6)
    assert np.isfinite(gradient(found, *data("mse", 20))[0])


@pytest.mark.parametrize("shapes", [[(150_001,), (3,), (211, 307)], [(30,)] * 1000], ids=["large", "many"])
def test_threads_change_no_bit(shapes: list[tuple[int, ...]]) -> None:
    rng = generator("threads")
    model = [draw(rng, shape, "float32") for shape in shapes]
    grads = [[draw(rng, shape, "float32") for shape in shapes] for _ in range(3)]
    before, answers = optirs.get_num_threads(), []
    try:
        for n in (1, 2):
            optirs.set_num_threads(n)
            for update in (optirs.update, optirs.update_):
                state, new = stepped(CHAIN, model, grads, update)
                answers.append(bits([new, [leaf.state for leaf in state], averaged(state, new)]))
    finally:
        optirs.set_num_threads(before)
    assert all(answer == answers[0] for answer in answers)


# --- against the oracle -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_long_runs_follow_the_oracle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds: list[Callable[[], Rule]] = [
        lambda: Box(-rng.random(), rng.random()),
        lambda: Lookahead(int(rng.integers(1, 5)), rng.random()),
        lambda: Ema(rng.random(), warmup=bool(rng.integers(2))),
        lambda: Swa(int(rng.integers(0, 9)), int(rng.integers(1, 4))),
    ]
    rule = OptimiserChain(Momentum(0.1), *(kinds[i]() for i in rng.integers(0, 4, size=4)))
    x = rng.normal(size=9)
    leaf, oracle, at = optirs.setup(rule, x), reference.start(recipe(rule), x), x
    for _ in range(40):
        g = rng.normal(size=9)
        leaf, x = optirs.update(leaf, x, g)
        oracle, at = reference.step(recipe(rule), oracle, at, g, x.dtype)
        np.testing.assert_allclose(x, at, rtol=1e-11, atol=1e-13)
        for mine, theirs in zip(leaf.state[1:], oracle[1:], strict=True):
            for name in mine or ():
                np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-11, atol=1e-13)


def test_box_bounds_are_infinite_by_default() -> None:
    assert (Box().lower, Box().upper) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(np.float16, 7e4), (ml_dtypes.bfloat16, 3.4e38), (np.float32, 1e39)], ids=str
)
def test_a_bound_that_the_parameter_cannot_hold_is_refused(dtype: Any, bound: float) -> None:
    name = np.dtype(dtype).name
    for rule in (optirs.Box(bound), optirs.Box(upper=bound), optirs.MixedPrecision(optirs.Box(bound), "float64")):
        with pytest.raises(
            ValueError, match=rf"^Box: (lower|upper) = .* is infinite in {name}, the type of the parameter"
        ):
            optirs.setup(rule, {"w": np.ones(2, dtype)})
    optirs.setup(optirs.Box(0.0), {"w": np.ones(2, dtype)})


@pytest.mark.parametrize("rule", [optirs.Ema(0.5), optirs.MixedPrecision(optirs.Descent())], ids=repr)
def test_what_apply_makes_of_0_d_arrays_is_an_array(rule: Any) -> None:
    x = np.array(1.5)
    _, dx = optirs.apply(rule, optirs.init(rule, x), x, np.array(2.0))
    assert isinstance(dx, np.ndarray)
    assert dx.shape == ()
