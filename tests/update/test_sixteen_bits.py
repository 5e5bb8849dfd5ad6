"""Gradients of 16-bit parameters: converted to float32, in which the step computes, and rounded when it is stored."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from problems import DTYPES, VARIANTS, make

import optirs
from optirs import MixedPrecision, OptimiserChain, rules

NARROW = [DTYPES["float16"], DTYPES["bfloat16"]]
CASES = [(name, i) for name in rules.RULES for i in range(len(VARIANTS[name]))]
SHAPE = (7, 5)
RNG = np.random.default_rng(5)
# Beyond float16 at either end, and with digits that no type of 16 bits holds.
SCALES = np.array([1e6, 1.0, 1e-3, 1e-9, 1e9])
GRADIENTS = [RNG.normal(size=SHAPE) * SCALES for _ in range(4)]
X = RNG.normal(size=SHAPE)

narrow = pytest.mark.parametrize("dtype", NARROW, ids=lambda d: d.name)
of_gradient = pytest.mark.parametrize("given", [np.float32, np.float64])
in_any_way = pytest.mark.parametrize("act", [optirs.update, optirs.update_])


def rounded(x: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def lands_somewhere(rule: optirs.Rule) -> bool:
    """Whether the rule, or one in its chain, decides where the parameter lands."""
    return any(map(rules.lands, rules.flattened(rule)))


def oracle(rule: optirs.Rule, x: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """The parameter after steps of float32 on float32: rounded from the copy if there is one, else after each step."""
    mixed = isinstance(rule, MixedPrecision)
    inner = rule.rule if mixed else rule
    wide = np.dtype(rule.dtype if mixed else "float32")
    master = x.astype(wide)
    state = optirs.init(inner, master)
    if lands_somewhere(inner):  # `apply` only tells where to rounding
        leaf = optirs.setup(inner, master)
        for g in gradients:
            leaf, master = optirs.update(leaf, master, g.astype(wide))
            x = rounded(master, x.dtype)
            master = master if mixed else x.astype(wide)
        return x
    for g in gradients:
        state, dx = optirs.apply(inner, state, master, g.astype(wide))
        if dx is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                x = rounded(master - dx, x.dtype)
                master = master - dx if mixed else x.astype(wide)
    return x


def stepped(act: Any, rule: optirs.Rule, x: np.ndarray, gradients: list[Any]) -> np.ndarray:
    tree = [x.copy("K")]
    state = optirs.setup(rule, tree)
    for g in gradients:
        state, tree = act(state, tree, [g])
    new: np.ndarray = tree[0]
    return new


def same(a: np.ndarray, b: np.ndarray) -> None:
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a.view(np.uint16), b.view(np.uint16))


@pytest.mark.parametrize(("name", "variant"), CASES)
@narrow
def test_every_rule(dtype: np.dtype[Any], name: str, variant: int) -> None:
    rule, x = make(name, VARIANTS[name][variant]), X.astype(dtype)
    for given in (np.float32, np.float64):
        gradients = [g.astype(given) for g in GRADIENTS]
        expected = oracle(rule, x, gradients)
        same(stepped(optirs.update, rule, x, gradients), expected)
        same(stepped(optirs.update_, rule, x, gradients), expected)


@narrow
def test_a_gradient_of_16_bits_is_the_same_number_in_32(dtype: np.dtype[Any]) -> None:
    x = X.astype(dtype)
    for given in NARROW:
        gradients = [rounded(g, given) for g in GRADIENTS]
        for rule in (optirs.Adam(0.1), MixedPrecision(optirs.Adam(0.1)), MixedPrecision(optirs.Momentum(), "float16")):
            wide = stepped(optirs.update, rule, x, [g.astype(np.float32) for g in gradients])
            same(stepped(optirs.update, rule, x, gradients), wide)
            swapped = [g.astype(given.newbyteorder()) for g in gradients]
            same(stepped(optirs.update_, rule, x, swapped), wide)
            backwards = [np.asfortranarray(g)[::-1][::-1] for g in gradients]
            same(stepped(optirs.update_, rule, x, backwards), wide)


@narrow
def test_whatever_is_a_gradient(dtype: np.dtype[Any]) -> None:
    x, g = np.array([1.0, 2.0], dtype), np.array([3e5, -2e-9])
    expected = oracle(optirs.Adam(0.01), x, [g])
    for given in (list(g), tuple(g), g.astype(">f4"), g[::-1].copy()[::-1], g.astype("g")):
        same(stepped(optirs.update, optirs.Adam(0.01), x, [given]), expected)
    ints = np.array([300000, -70000])
    expected = stepped(optirs.update, optirs.Descent(1e-5), x, [ints.astype(float)])
    assert expected.astype(float).tolist() == rounded(x.astype(np.float32) - [3, -0.7], dtype).astype(float).tolist()
    for given in (ints, ints.tolist(), ints.astype(np.uint32).view(np.int32)):
        same(stepped(optirs.update, optirs.Descent(1e-5), x, [given]), expected)
    same(stepped(optirs.update, optirs.Descent(1.0), np.array(1, dtype), [2.0**-20]), np.array(1, dtype))


def swapped(x: np.ndarray) -> np.ndarray:
    return x.astype(x.dtype.newbyteorder())


def unaligned(x: np.ndarray) -> np.ndarray:
    room = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    room[...] = x
    return room


LAYOUTS = {
    "C": lambda x: x.copy("C"),
    "Fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
    "backwards": lambda x: x[::-1].copy()[::-1],
    "swapped": swapped,
    "unaligned": unaligned,
}


@pytest.mark.parametrize("of_parameter", LAYOUTS)
@narrow
@in_any_way
def test_layouts(act: Any, dtype: np.dtype[Any], of_parameter: str) -> None:
    x, gradients = X.astype(dtype), [g.astype(np.float32) for g in GRADIENTS]
    for rule in (optirs.Adam(0.1), OptimiserChain(optirs.ClipNorm(1.0), optirs.Momentum()), Passing()):
        expected = stepped(act, rule, x, gradients)
        for laid_out in LAYOUTS.values():
            tree = [LAYOUTS[of_parameter](x)]
            state = optirs.setup(rule, tree)
            for g in gradients:
                state, tree = act(state, tree, [laid_out(g)])
            same(tree[0].astype(dtype), expected)


@narrow
@in_any_way
def test_shapes_and_broadcast_gradients(act: Any, dtype: np.dtype[Any]) -> None:
    for shape in ((), (0,), (1,), (3, 0), (1030,)):
        x, g = np.ones(shape, dtype), np.full(shape, 1e-9, np.float32)
        new = stepped(act, MixedPrecision(optirs.Adam(0.5, epsilon=0.0)), x, [g])
        same(new, np.full(shape, 0.5, dtype))
        new = stepped(act, optirs.Descent(2e8), x, [np.broadcast_to(np.float32(1e-9), shape)])
        same(new, rounded(np.ones(shape, np.float32) - np.float32(2e8) * np.float32(1e-9), dtype))


@narrow
def test_the_parameter_as_its_gradient(dtype: np.dtype[Any]) -> None:
    for rule in (optirs.Momentum(0.3), Passing(), OptimiserChain(optirs.ClipNorm(1.0), optirs.Descent(0.5))):
        x = X.astype(dtype)
        expected = stepped(optirs.update, rule, x, [x.copy()])
        tree = [x]
        optirs.update_(optirs.setup(rule, tree), tree, [x])
        same(x, expected)
        assert not np.array_equal(x, X.astype(dtype))


@narrow
@in_any_way
def test_ties_are_summed_in_float32(act: Any, dtype: np.dtype[Any]) -> None:
    x = X.astype(dtype)
    parts = [g.astype(np.float32) for g in GRADIENTS[:3]]
    parts[1][:, 0] = -parts[0][:, 0] + 3  # what is left of two numbers beyond float16
    total = parts[0] + parts[1] + parts[2]
    for rule in (
        optirs.Adam(0.1),
        MixedPrecision(optirs.Descent(0.1)),
        Passing(),
        MixedPrecision(Passing(), "float64"),
    ):
        for given in (parts, [g.astype(float) for g in parts], [parts[0], parts[1].tolist(), parts[2]]):
            tree = {"a": x.copy(), "b": None, "c": None}
            tree["b"], tree["c"] = tree["a"], tree["a"].T
            state = optirs.setup(rule, tree)
            gradient = {"a": given[0], "b": given[1], "c": np.asarray(given[2]).T}
            _, new = act(state, tree, gradient)
            same(new["a"], stepped(act, rule, x, [total]))
            assert np.shares_memory(new["a"], new["c"])


@dataclass(frozen=True)
class Passing(optirs.Rule):
    """Passes the gradient on, and remembers what it was."""

    def init(self, x: np.ndarray) -> Any:
        return None

    def apply(self, state: Any, x: np.ndarray, dx: np.ndarray) -> tuple[Any, Any]:
        return (x.dtype, dx.dtype, dx.copy()), dx


@narrow
@of_gradient
@in_any_way
def test_own_rules_get_float32(act: Any, given: Any, dtype: np.dtype[Any]) -> None:
    x, g = X.astype(dtype), GRADIENTS[0].astype(given)
    state, tree = act(optirs.setup(Passing(), [x.copy()]), [x.copy()], [g])
    of_x, of_dx, dx = state[0].state
    assert (of_x, of_dx) == (np.float32, np.float32)
    np.testing.assert_array_equal(dx, g.astype(np.float32))
    with np.errstate(over="ignore"):
        same(tree[0], rounded(x.astype(np.float32) - dx, dtype))
    (_, _, again), step = optirs.apply(Passing(), None, x, g)
    assert step.dtype == np.float32
    np.testing.assert_array_equal(again, dx)


@pytest.mark.parametrize("given", ["float32", "float64"])
@pytest.mark.parametrize("master", ["float16", "bfloat16", "float32", "float64"])
@narrow
def test_own_rules_under_mixed_precision(dtype: np.dtype[Any], master: str, given: str) -> None:
    x, g, rule = X.astype(dtype), GRADIENTS[0].astype(given), MixedPrecision(Passing(), master)
    state, _ = optirs.update(optirs.setup(rule, x), x, g)
    _, (_, of_dx, dx) = state.state
    expected = np.dtype("float64" if master == "float64" else "float32")
    assert of_dx == expected
    np.testing.assert_array_equal(dx, g.astype(expected))
    (_, (_, _, again)), _ = optirs.apply(rule, optirs.init(rule, x), x, g)
    np.testing.assert_array_equal(again, dx)


@pytest.mark.parametrize(("name", "variant"), [case for case in CASES if case[0] != "MixedPrecision"])
@narrow
def test_own_rules_among_built_in_ones(dtype: np.dtype[Any], name: str, variant: int) -> None:
    rule, x = make(name, VARIANTS[name][variant]), X.astype(dtype)
    gradients = [(g * 1e-6).astype(np.float32) for g in GRADIENTS]  # what becomes infinite is refused by a norm
    decay, descent = optirs.WeightDecay(0.1), optirs.Descent(0.5)
    if lands_somewhere(rule):
        expected = stepped(optirs.update, OptimiserChain(decay, descent, rule), x, gradients)
        many = [OptimiserChain(decay, Passing(), descent, rule), OptimiserChain(decay, descent, Passing(), rule)]
    else:
        expected = stepped(optirs.update, OptimiserChain(decay, rule, descent), x, gradients)
        many = [
            OptimiserChain(decay, Passing(), rule, descent),
            OptimiserChain(OptimiserChain(Passing(), decay, rule), Passing(), descent, Passing()),
        ]
    for own in many:
        same(stepped(optirs.update, own, x, gradients), expected)
        same(stepped(optirs.update_, own, x, gradients), expected)


@pytest.mark.parametrize("rule", [optirs.Momentum(0.01), Passing()])
@narrow
def test_a_float64_copy_takes_all_digits_of_a_float64_gradient(dtype: np.dtype[Any], rule: optirs.Rule) -> None:
    x, g = np.ones(5, dtype), np.full(5, 2.0**-10 / 3)
    mixed = MixedPrecision(rule, "float64")
    eta = 0.01 if isinstance(rule, optirs.Momentum) else 1.0
    expected = 1 - eta * g
    for scheduled in (False, True):
        around = optirs.Scheduled(mixed, eta=lambda t: 0.01) if scheduled and eta != 1.0 else mixed
        for act in (optirs.update, optirs.update_):
            state, _ = act(optirs.setup(around, [x.copy()]), [x.copy()], [g])
            held = state[0].state[1] if around is not mixed else state[0].state
            np.testing.assert_array_equal(held[0], expected)
        state, dx = optirs.apply(around, optirs.init(around, x), x, g)
        held = state[1] if around is not mixed else state
        np.testing.assert_array_equal(held[0], expected)
        assert dx.dtype == np.float32


@narrow
@in_any_way
def test_the_store_rounds_once(act: Any, dtype: np.dtype[Any]) -> None:
    # Beside a tie of the type by less than float32 can tell: float32 on the way would round it to even.
    tie = 1 + 2.0 ** (-11 if dtype == np.float16 else -8)
    for by, expected in ((2.0**-40, 2 * tie - 1), (-(2.0**-40), 1.0)):
        x, g = np.zeros(3, dtype), np.full(3, -tie - by)
        for rule in (optirs.Descent(1.0), Passing()):
            new = stepped(act, MixedPrecision(rule, "float64"), x, [g])
            assert new.astype(float).tolist() == [expected] * 3


@narrow
def test_wrappers(dtype: np.dtype[Any]) -> None:
    x, gradients = X.astype(dtype), [g.astype(np.float32) for g in GRADIENTS]
    collected = optirs.setup(optirs.AccumGrad(3), [x])
    for g in gradients[:2]:
        collected, _ = optirs.update(collected, [x], [g])
    expected = (gradients[0].astype(float) + gradients[1]) / 3
    assert (
        np.abs(collected[0].state["accum"] - expected) <= 2e-7 * (np.abs(gradients[0]) + np.abs(gradients[1]))
    ).all()
    clipped = stepped(optirs.update, optirs.ClipNorm(1.0), x, gradients[:1])
    norm = np.linalg.norm(gradients[0].astype(float))
    expected = rounded(x.astype(np.float32) - gradients[0] / np.float32(norm), dtype).astype(float)
    np.testing.assert_allclose(clipped.astype(float), expected, rtol=1e-2)
    scheduled = optirs.Scheduled(optirs.Adam(), eta=optirs.schedules.Constant(0.1))
    same(stepped(optirs.update_, scheduled, x, gradients), stepped(optirs.update, optirs.Adam(0.1), x, gradients))
    asked = optirs.Scheduled(optirs.Adam(), eta=lambda t: 0.1)
    same(stepped(optirs.update_, asked, x, gradients), stepped(optirs.update, optirs.Adam(0.1), x, gradients))


@pytest.mark.parametrize(("name", "variant"), [case for case in CASES if case[0] != "MixedPrecision"])
@narrow
def test_apply(dtype: np.dtype[Any], name: str, variant: int) -> None:
    rule, x = make(name, VARIANTS[name][variant]), X.astype(dtype)
    state, wide = optirs.init(rule, x), optirs.init(rule, x.astype(np.float32))
    for g in GRADIENTS:
        for apply in (optirs.apply, lambda rule, *rest: rule.apply(*rest)):
            state_, dx = apply(rule, state, x, g.astype(np.float32))
            wide_, expected = optirs.apply(rule, wide, x.astype(np.float32), g.astype(np.float32))
            assert (dx is None) == (expected is None)
            if dx is not None:
                assert dx.dtype == np.float32
                np.testing.assert_array_equal(dx, expected)
        state, wide = state_, wide_


@narrow
def test_flat_gradients(dtype: np.dtype[Any]) -> None:
    tree = {"half": np.zeros(2, dtype), "tied": None, "double": np.zeros(1)}
    tree["tied"] = tree["half"]
    _, restructure = optirs.destructure(tree)
    flat = restructure.gradient({"half": [3e5, 1e-9], "tied": np.array([3.0, 0.0]), "double": [1 / 3]})
    assert flat.dtype == np.float64
    assert flat.tolist() == [3e5 + 3, np.float32(1e-9), 1 / 3]
    _, restructure = optirs.destructure([np.zeros(2, dtype)])
    flat = restructure.gradient([[3e5, 1e-9]])
    assert flat.dtype == np.float32
    assert flat.tolist() == [3e5, np.float32(1e-9)]


def test_a_complex_parameter_takes_complex128_and_rounds_it_to_complex64() -> None:
    x, g = np.ones(3, np.complex64), np.full(3, 1 / 3 + 1j / 7)
    for rule in (optirs.Descent(1.0), Passing()):
        new = optirs.update(optirs.setup(rule, [x]), [x], [g])[1][0]
        np.testing.assert_array_equal(new, x - g.astype(np.complex64))


def test_what_is_beyond_float32_is_infinite() -> None:
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32):
        new = stepped(optirs.update, optirs.Descent(1.0), np.zeros(2, dtype), [np.array([1e300, -1.0])])
        assert new.astype(float).tolist() == [-np.inf, 1.0]


@narrow
def test_errors_name_the_type_of_the_parameter(dtype: np.dtype[Any]) -> None:
    for rule in (optirs.Adam(), Passing(), MixedPrecision(optirs.Adam())):
        state = optirs.setup(rule, [np.zeros(2, dtype)])
        with pytest.raises(TypeError, match=rf"gradient at \[0\] has type complex128, the parameter is {dtype.name}"):
            optirs.update(state, [np.zeros(2, dtype)], [np.zeros(2, complex)])


def test_gradients_of_autograd_are_not_rounded() -> None:
    anp = pytest.importorskip("autograd.numpy")
    for dtype in NARROW:
        model = {"w": np.ones(2, dtype)}
        x = np.array([3e5, 1e-9])
        _, gradient = optirs.with_autograd(lambda m, x: anp.sum(m["w"] * x))(model, x)
        assert gradient["w"].dtype == np.float32
        np.testing.assert_allclose(gradient["w"], x, rtol=1e-6)
