"""Every rule against the oracle, one step at a time, for every element type.

Each step of the package is compared with a step of the oracle from the package's own state, so that errors do not pile
up and the tolerance can be tight. It is derived, not chosen: what a formula returns after a few roundings, exact
arithmetic returns for inputs moved by as many half units in the last place. So the tolerance at an element is how far
the oracle's answer moves when its inputs are moved by so much, one after the other.
"""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import reference
from numpy.typing import NDArray
from problems import (
    COMPUTE,
    DTYPES,
    EPS,
    LANDING,
    RULES,
    SHAPES,
    draw,
    fits,
    generator,
    gradients,
    recipe,
    sees_the_whole_step,
)

import optirs

STEPS = 10
OPERATIONS = 8
"""Units in the last place: at most 16 roundings stand between the inputs of a link and its result, half a unit each."""

Array = NDArray[Any]


def wide(tree: Any) -> Any:
    """A state with its arrays in float64 or complex128."""
    if isinstance(tree, np.ndarray):
        return reference.wide(tree)
    if isinstance(tree, dict):
        return {key: wide(value) for key, value in tree.items()}
    return tuple(map(wide, tree)) if isinstance(tree, tuple) else tree


def arrays(tree: Any) -> list[Array]:
    """The arrays of a state, in order."""
    if isinstance(tree, np.ndarray):
        return [tree]
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple) else ()
    return [a for part in inner for a in arrays(part)]


def filled(tree: Any, values: list[Array]) -> Any:
    """`tree` with its arrays, in order, taken from `values`."""
    if isinstance(tree, np.ndarray):
        return values.pop(0)
    if isinstance(tree, dict):
        return {key: filled(value, values) for key, value in tree.items()}
    return tuple(filled(part, values) for part in tree) if isinstance(tree, tuple) else tree


def shape_of(tree: Any) -> Any:
    """All of a state but its arrays and norms: names, counts, nesting."""
    if isinstance(tree, np.ndarray):
        return tree.shape, tree.dtype.kind
    if isinstance(tree, float):
        return float
    if isinstance(tree, dict):
        return {key: shape_of(value) for key, value in tree.items()}
    return tuple(map(shape_of, tree)) if isinstance(tree, tuple) else tree


def norms(tree: Any) -> list[float]:
    """The norms in a state, in order."""
    if isinstance(tree, float):
        return [tree]
    inner = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, tuple) else ()
    return [a for part in inner for a in norms(part)]


def links(parts: Any) -> int:
    """How many rules stand in sequence."""
    if parts[0] == "OptimiserChain":
        return sum(map(links, parts[1]))
    return links(parts[1]) if parts[0] == "MixedPrecision" else 1


def add(a: list[Array], b: list[Array]) -> list[Array]:
    """Sums, one by one."""
    return [x + y for x, y in zip(a, b, strict=True)]


def agree(a: Array, b: Array, bound: Array) -> bool:
    """Whether `a` is within `bound` of the exact `b`; infinite where `b` is more than its type can hold."""
    largest = float(ml_dtypes.finfo(a.dtype).max)  # type: ignore[no-untyped-call, unused-ignore]
    a = reference.wide(a)
    overflows = ~np.isfinite(a) & ~(np.abs(b) + bound < largest)
    return bool(np.all((np.abs(a - b) <= bound) | overflows))


def expected(
    parts: Any, state: Any, x: Array, g: Array, dtype: Any, eps: float
) -> tuple[Any, list[Array], list[Array]]:
    """The new state, its arrays after the new parameter, and by how much each may be off."""

    def run(inputs: list[Array]) -> tuple[Any, list[Array]]:
        rest = list(inputs)
        x, g = rest.pop(0), rest.pop(0)
        new, y = reference.step(parts, filled(state, rest), x, g, dtype)
        return new, [y, *arrays(new)]

    def distance(near: list[Array]) -> list[Array]:
        return [np.abs(n - v) for n, v in zip(near, values, strict=True)]

    inputs = [reference.wide(x), reference.wide(g), *arrays(state)]
    new, values = run(inputs)
    delta = OPERATIONS * max(1, links(parts)) * eps
    bounds = [delta * np.abs(v) + float(np.finfo(np.float32).tiny) * (eps > 1e-10) for v in values]
    turns = (delta, -delta, 1j * delta, -1j * delta) if values[0].dtype.kind == "c" else (delta, -delta)
    for i in range(len(inputs)):
        moved = [np.zeros(v.shape) for v in values]
        for turn in turns:
            if isinstance(turn, complex) and inputs[i].dtype.kind != "c":
                continue
            near = run([np.asarray(a * (1 + turn)) if i == j else a for j, a in enumerate(inputs)])[1]
            moved = [np.maximum(m, d) for m, d in zip(moved, distance(near), strict=True)]
        bounds = add(bounds, moved)
    return new, values, bounds


def precisions(parts: Any, dtype: str) -> tuple[float, float]:
    """The unit in the last place of the type that is computed in, and of the master copy."""
    if parts[0] != "MixedPrecision":
        return EPS[COMPUTE[dtype]], 0.0
    return EPS[COMPUTE[parts[2]]], EPS[parts[2]]


@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
def test_rule_follows_its_formula(rule: optirs.Rule, dtype: str) -> None:
    if not fits(rule, dtype):
        with pytest.raises(TypeError, match="complex"):
            optirs.setup(rule, {"x": np.zeros(3, DTYPES[dtype])})
        return
    parts = recipe(rule)
    rng = generator("formula", repr(rule), dtype)
    model = {str(shape): draw(rng, shape, dtype) for shape in SHAPES}
    series = {str(shape): gradients(rng, shape, dtype, STEPS) for shape in SHAPES}
    # The oracle has one array: where a rule looks at the whole step, each array is stepped by itself.
    updates = [[place] for place in model] if sees_the_whole_step(rule) else [[*model]]
    state = optirs.setup(rule, model)
    for place, x in model.items():
        first = reference.start(parts, x)
        assert shape_of(state[place].state) == shape_of(first)
        for a, b in zip(arrays(state[place].state), arrays(first), strict=True):
            np.testing.assert_allclose(a, b, rtol=EPS[COMPUTE[dtype]], atol=0)
    eps, master = precisions(parts, dtype)
    for i in range(STEPS):
        old, before = model, {place: wide(state[place].state) for place in model}
        for places in updates:
            state, model = optirs.update(state, model, {place: series[place][i] for place in places})
        for place, y in model.items():
            new, values, bounds = expected(parts, before[place], old[place], series[place][i], y.dtype, eps)
            after = state[place].state
            assert shape_of(after) == shape_of(new), place
            np.testing.assert_allclose(norms(after), norms(new), rtol=OPERATIONS * links(parts) * eps)
            # The parameter is rounded once more on store, and so is a master copy.
            bounds[0] = bounds[0] + EPS[dtype] * np.abs(values[0]) + np.spacing(np.float16(0)) * (dtype == "float16")
            if master:
                bounds[1] = bounds[1] + master * np.abs(values[1])
            for a, b, bound in zip([y, *arrays(after)], values, bounds, strict=True):
                assert agree(a, b, bound), f"{place}, step {i + 1}"


@pytest.mark.parametrize("rule", RULES)
def test_pure_functions_follow_the_same_formula(rule: optirs.Rule) -> None:
    x = draw(generator("apply", repr(rule)), (9,), "float64")
    state = optirs.init(rule, x)
    leaf = optirs.setup(rule, [x])
    model = [x]
    for g in gradients(generator("g"), (9,), "float64", STEPS):
        state, dx = optirs.apply(rule, state, x, g)
        x = x if dx is None else x - dx
        leaf, model = optirs.update(leaf, model, [g])
        lands = any(name in repr(rule) for name in LANDING)
        if (
            lands or recipe(rule)[0] == "MixedPrecision"
        ):  # dx is x less what it becomes, and the subtraction rounds again
            size = float(np.abs(dx).max(initial=1)) if dx is not None else 1
            np.testing.assert_allclose(x, model[0], rtol=4 * EPS["float64"], atol=4 * EPS["float64"] * size)
            x = model[0]
        else:
            np.testing.assert_array_equal(x, model[0])
        for a, b in zip(arrays(state), arrays(leaf[0].state), strict=True):
            np.testing.assert_array_equal(a, b)


def test_centred_rmsprop_keeps_its_head_on_a_constant_gradient() -> None:
    rule = optirs.RMSProp(0.001, centred=True)
    model = [np.ones(64, np.float32)]
    grad = [np.linspace(0.1, 3, 64, dtype=np.float32)]
    state = optirs.setup(rule, model)
    for _ in range(300):
        state, model = optirs.update(state, model, grad)
        assert np.all(np.isfinite(model[0]))


def test_rprop_sees_the_sign_of_tiny_gradients() -> None:
    tiny = np.full(4, 1e-30, np.float32)  # whose square is 0
    model = [np.zeros(4, np.float32)]
    state = optirs.setup(optirs.Rprop(1.0), model)
    for _ in range(2):
        state, model = optirs.update(state, model, [tiny])
    np.testing.assert_allclose(state[0].state["step"], 1.2, rtol=1e-6)


@pytest.mark.parametrize("norm", [np.inf, np.nan])
def test_clip_norm_refuses_or_passes_nan_on(norm: float) -> None:
    model, grad = {"w": np.ones(3)}, {"w": np.array([1.0, norm, 2.0])}
    with pytest.raises(FloatingPointError, match="w"):
        optirs.update(optirs.setup(optirs.ClipNorm(1.0), model), model, grad)
    state = optirs.setup(optirs.ClipNorm(1.0, throw=False), model)
    assert np.all(np.isnan(optirs.update(state, model, grad)[1]["w"]))


@pytest.mark.parametrize("name", ["ClipGrad", "AdaMax", "AMSGrad"])
def test_nan_is_not_swallowed_by_min_and_max(name: str) -> None:
    model = [np.ones(5, np.float32)]
    state = optirs.setup(optirs.RULES[name](), model)
    grad = [np.array([1, np.nan, 1, np.nan, 1], np.float32)]
    for _ in range(2):
        state, model = optirs.update(state, model, grad)
    np.testing.assert_array_equal(np.isnan(model[0]), np.isnan(grad[0]))
