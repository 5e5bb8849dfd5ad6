"""What holds of every rule, bit for bit: however it is run, the answer is the same."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from problems import DTYPES, ONE_EACH, RULES, SHAPES, bits, draw, fits, generator, gradients

import optirs
from optirs import _core

Array = NDArray[Any]
STEPS = 5
LARGE = 150_001
"""Enough for several threads, and for neither a vector's nor a tile's length."""

FAR_BYTES, PERIOD = 24 << 20, 65_537
"""An array of so many bytes that with it no rule fits into the caches, and after how many numbers it repeats itself."""

REDUCING = ("ClipNorm", "ClipGlobalNorm", "SkipNonFinite")
ALL_DTYPES = pytest.mark.parametrize("dtype", DTYPES)
ALL_RULES = pytest.mark.parametrize("rule", RULES)
EACH_RULE = pytest.mark.parametrize("rule", ONE_EACH)


def problem(rule: optirs.Rule, dtype: str, shapes: Any) -> tuple[Any, list[Any]]:
    """A model with an array of every shape, and gradients for some steps."""
    rng = generator("property", repr(rule), dtype, shapes)
    model = [draw(rng, shape, dtype) for shape in shapes]
    return model, [list(gs) for gs in zip(*(gradients(rng, s, dtype, STEPS) for s in shapes), strict=True)]


def states(state: Any) -> Any:
    """What a list of Leafs remembers."""
    return [leaf.state for leaf in state]


def run(rule: optirs.Rule, model: Any, grads: list[Any], in_place: bool = False) -> Any:
    """The bits of model and state after all steps."""
    model = [x.copy(order="K") for x in model]
    state = optirs.setup(rule, model)
    for grad in grads:
        state, model = (optirs.update_ if in_place else optirs.update)(state, model, grad)
    return bits([model, states(state)])


def reduces(rule: optirs.Rule) -> bool:
    """Whether an element depends on the others of its array."""
    return any(name in repr(rule) for name in REDUCING)


@pytest.fixture
def threads() -> Iterator[None]:
    before = optirs.get_num_threads()
    yield
    optirs.set_num_threads(before)


@pytest.fixture
def simd() -> Iterator[list[str]]:
    levels = _core.simd_levels()
    yield levels
    _core.set_simd(levels[-1])


@ALL_DTYPES
@ALL_RULES
def test_pure_and_in_place(rule: optirs.Rule, dtype: str) -> None:
    if not fits(rule, dtype):
        pytest.skip("complex")
    model, grads = problem(rule, dtype, SHAPES)
    before = bits([model, grads])
    pure = run(rule, model, grads)
    assert run(rule, model, grads, in_place=True) == pure
    assert bits([model, grads]) == before


@ALL_DTYPES
@EACH_RULE
def test_alone_and_in_chains(rule: optirs.Rule, dtype: str) -> None:
    if not fits(rule, dtype) or isinstance(rule, optirs.MixedPrecision):
        pytest.skip("complex, or never in a chain")
    model, grads = problem(rule, dtype, SHAPES)
    state, alone = optirs.setup(rule, model), model
    for grad in grads:
        state, alone = optirs.update(state, alone, grad)
    chain, identity = optirs.OptimiserChain, optirs.OptimiserChain()
    for nested, place in (
        (chain(rule), (0,)),
        (chain(identity, rule), (1,)),
        (chain(rule, identity), (0,)),
        (chain(chain(chain(rule)), identity), (0, 0, 0)),
        (chain(optirs.AccumGrad(1), rule), (1,)),
    ):
        other, result = optirs.setup(nested, model), model
        for grad in grads:
            other, result = optirs.update(other, result, grad)
        if place == (1,) and nested.rules[0] != identity:  # 0 + g/1 turns -0.0 into 0.0
            np.testing.assert_array_equal(
                np.concatenate([a.ravel() for a in result]).astype(np.complex128),
                np.concatenate([a.ravel() for a in alone]).astype(np.complex128),
            )
            continue
        assert bits(result) == bits(alone)
        for leaf, inner in zip(state, other, strict=True):
            found = inner.state
            for i in place:
                found = found[i]
            assert bits(found) == bits(leaf.state)


@EACH_RULE
def test_threads(rule: optirs.Rule, threads: None) -> None:
    model, grads = problem(rule, "float32", ((LARGE,), (3,), (211, 307), ()))
    answers = []
    for n in (1, 2, 3, 7):
        optirs.set_num_threads(n)
        answers += [run(rule, model, grads[:2]), run(rule, model, grads[:2], in_place=True)]
    assert all(answer == answers[0] for answer in answers)


@EACH_RULE
def test_beyond_the_caches(rule: optirs.Rule, threads: None) -> None:
    check_far(rule, "float32")


@pytest.mark.parametrize("dtype", [name for name in DTYPES if name != "float32"])
@pytest.mark.parametrize("rule", [p for p in ONE_EACH if p.id in ("Adam", "OptimiserChain", "MixedPrecision")])
def test_beyond_the_caches_in_other_types(rule: optirs.Rule, dtype: str, threads: None) -> None:
    check_far(rule, dtype)


def check_far(rule: optirs.Rule, dtype: str) -> None:
    """What lies beyond the caches takes other loops: the bits are those of a small array that is repeated."""
    (small,), grads = problem(rule, dtype, ((PERIOD,),))
    n = FAR_BYTES // small.itemsize + 37
    large, long = np.resize(small, n), [np.resize(g, n) for (g,) in grads[1:3]]
    answers = []
    for count in (1, 3):
        optirs.set_num_threads(count)
        for step in (optirs.update, optirs.update_):
            model: Any = [large.copy()]
            state = optirs.setup(rule, model)
            for g in long:
                state, model = step(state, model, [g])
            answers.append([model[0], *flat(state[0].state)])
    for answer in answers[1:]:
        assert all(same(a, b) for a, b in zip(answer, answers[0], strict=True))
    if not reduces(rule):
        model = [small]
        state = optirs.setup(rule, model)
        for (g,) in grads[1:3]:
            state, model = optirs.update(state, model, [g])
        for a, b in zip([model[0], *flat(state[0].state)], answers[0], strict=True):
            assert same(np.resize(a, n), b)


def same(a: Array, b: Array) -> bool:
    """Whether all bits are equal."""
    return a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8))


@ALL_DTYPES
@EACH_RULE
def test_instruction_sets(rule: optirs.Rule, dtype: str, simd: list[str]) -> None:
    if not fits(rule, dtype):
        pytest.skip("complex")
    model, grads = problem(rule, dtype, SHAPES)
    answers = []
    for level in simd:
        _core.set_simd(level)
        answers += [run(rule, model, grads), run(rule, model, grads, in_place=True)]
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "complex64"])
@EACH_RULE
def test_position_and_length(rule: optirs.Rule, dtype: str) -> None:
    if not fits(rule, dtype) or reduces(rule):
        pytest.skip("complex, or not elementwise")
    n = 600
    (x,), grads = problem(rule, dtype, ((n,),))

    def sliced(part: slice) -> list[Any]:
        model = [x[part].copy()]
        state = optirs.setup(rule, model)
        for (g,) in grads:
            state, model = optirs.update(state, model, [g[part].copy()])
        arrays = [model[0], *flat(state[0].state)]
        return arrays

    whole = sliced(slice(0, n))
    for part in (slice(0, 1), slice(n - 1, n), slice(1, 18), slice(255, 258), slice(100, 473), slice(13, n)):
        for a, b in zip(sliced(part), whole, strict=True):
            assert bits(a) == bits(b[part].copy())


def flat(state: Any) -> list[Array]:
    """The arrays of a state."""
    if isinstance(state, np.ndarray):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, tuple) else ()
    return [a for part in parts for a in flat(part)]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "complex64"])
@EACH_RULE
def test_what_is_not_finite_stays_where_it_is(rule: optirs.Rule, dtype: str, simd: list[str]) -> None:
    if not fits(rule, dtype) or reduces(rule):
        pytest.skip("complex, or not elementwise")
    n = 67
    (x,), grads = problem(rule, dtype, ((n,),))
    bad = {0: np.nan, 5: np.inf, 31: -np.inf, 66: np.nan}
    spoilt = grads[0][0].copy()
    for i, value in bad.items():
        spoilt[i] = value
    good = [i for i in range(n) if i not in bad]
    answers = []
    with np.errstate(all="ignore"):
        for level in simd:
            _core.set_simd(level)
            for in_place in (False, True):
                answers.append(run(rule, [x], [[spoilt], *grads[1:]], in_place))
    clean = [x]
    dirty = [x]
    a, b = optirs.setup(rule, clean), optirs.setup(rule, dirty)
    for i, grad in enumerate(grads):
        a, clean = optirs.update(a, clean, grad)
        b, dirty = optirs.update(b, dirty, [spoilt] if i == 0 else grad)
    assert bits(clean[0][good]) == bits(dirty[0][good])
    assert all(answer == answers[0] for answer in answers)


@EACH_RULE
def test_nothing_is_lost_between_many_leaves_and_one(rule: optirs.Rule) -> None:
    if reduces(rule):
        pytest.skip("not elementwise")
    (x,), grads = problem(rule, "float32", ((5000,),))
    cuts = [1, 2, 40, 300, 301, 4000]
    many = np.split(x, cuts)
    state, model = optirs.setup(rule, many), many
    one, whole = optirs.setup(rule, [x]), [x]
    for (g,) in grads:
        state, model = optirs.update(state, model, np.split(g, cuts))
        one, whole = optirs.update(one, whole, [g])
    assert np.concatenate(model).tobytes() == whole[0].tobytes()


@settings(deadline=None, max_examples=60)
@given(
    rule=st.sampled_from([p.values[0] for p in RULES]),
    shape=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    order=st.sampled_from("CF"),
    seed=st.integers(0, 2**32 - 1),
)
def test_memory_order_is_kept_and_does_not_matter(rule: Any, shape: Any, order: Any, seed: int) -> None:
    if reduces(rule):  # a norm adds up in memory order
        return
    rng = np.random.default_rng(seed)
    x, g = draw(rng, shape, "float32"), draw(rng, shape, "float32")
    _, (y,) = optirs.update(optirs.setup(rule, [x]), [x], [g])
    ordered = np.asarray(x, order=order)
    _, (z,) = optirs.update(optirs.setup(rule, [ordered]), [ordered], [np.asarray(g, order=order)])
    assert x.size == 0 or z.strides == ordered.copy(order="K").strides
    assert np.ascontiguousarray(z).tobytes() == np.ascontiguousarray(y).tobytes()
