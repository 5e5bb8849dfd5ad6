"""The numbers of a step: decay rates near 1, huge gradients, states near 0.

What the type of an array cannot hold must not be lost on the way to a number that it can: `1 - beta` where beta rounds
to 1, the square of a gradient whose root is all that counts.
"""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from problems import DTYPES, EPS
from reference import rectified

import optirs
from optirs import RULES, Rule

Array = NDArray[Any]
STEPS = 200
NEAR = [0.0, 1e-9, 0.001, 0.5, 0.9, 0.999, 0.99999, 1 - 1e-6, 1 - 1e-7, 1 - 1e-8]
"""Decay rates."""


def decaying() -> dict[str, Callable[[float], Rule]]:
    """For every decay rate of every rule, how to make the rule with that rate."""
    made: dict[str, Callable[[float], Rule]] = {}
    for name, rule in RULES.items():
        names = {f.name for f in fields(rule)}  # type: ignore[arg-type]
        if "rho" in names:
            made[f"{name}.rho"] = lambda b, rule=rule: rule(rho=b)  # type: ignore[misc]
        if "beta" in names:
            first, second = rule().beta  # type: ignore[attr-defined]
            made[f"{name}.beta[0]"] = lambda b, rule=rule, second=second: rule(beta=(b, second))  # type: ignore[misc]
            made[f"{name}.beta[1]"] = lambda b, rule=rule, first=first: rule(beta=(first, b))  # type: ignore[misc]
    made["RMSProp.rho, centred"] = lambda b: optirs.RMSProp(rho=b, centred=True)
    return made


DECAYING = decaying()


def noise(dtype: str, size: int = 64) -> list[Array]:
    """Gradients that float32 holds exactly, so that every type sees the same."""
    rng = np.random.default_rng(7)
    many = 0.1 + rng.normal(size=(STEPS, size))
    if dtype.startswith("complex"):
        many = many * np.exp(1j * rng.normal(size=(STEPS, size)))
        return list(many.astype(np.complex64))
    return list(many.astype(np.float32))


def arrays(state: Any) -> list[Array]:
    """The arrays of a state, in order."""
    if isinstance(state, np.ndarray):
        return [state]
    inner = state.values() if isinstance(state, dict) else state if isinstance(state, tuple) else ()
    return [a for part in inner for a in arrays(part)]


def run(rule: Rule, dtype: str, many: list[Array]) -> tuple[Array, list[Array], Array]:
    """The parameter after all steps, its state, and how far each element has gone."""
    model: list[Array] = [np.zeros(many[0].shape, DTYPES[dtype])]
    state = optirs.setup(rule, model)
    way = np.zeros(many[0].shape)
    for g in many:
        before = model[0]
        state, model = optirs.update(state, model, [g])
        with np.errstate(over="ignore", invalid="ignore"):  # float16 ends at 65504
            way += np.abs(model[0] - before)
    return model[0], arrays(state[0].state), way


def near(found: Array, exact: Array, scale: Array, rtol: float) -> bool:
    """Whether all of `found` is within `rtol` of `scale` of the exact values."""
    return bool(np.all(np.abs(found.astype(exact.dtype) - exact) <= rtol * scale))


def tolerance(name: str, beta: float) -> float:
    """Where a rule squares how far one gradient is from the mean, it is as exact as float32 holds that mean."""
    of_one_distance = name in ("AdaBelief.beta[1]", "RMSProp.rho, centred") and beta < 0.1
    return 1e-2 if of_one_distance else 2e-5


@pytest.mark.parametrize("beta", NEAR)
@pytest.mark.parametrize("name", DECAYING)
def test_decay_rates_near_one_keep_their_digits(name: str, beta: float) -> None:
    rule = DECAYING[name](beta)
    rtol = tolerance(name, beta)
    for dtype, wide in (("float32", "float64"), ("complex64", "complex128")):
        many = noise(dtype)
        x, states, _ = run(rule, dtype, many)
        exact, wide_states, way = run(rule, wide, many)
        assert np.all(way > 0)
        assert near(x, exact, way, rtol), dtype
        for a, b in zip(states, wide_states, strict=True):
            assert near(a, b, np.abs(b) + np.abs(b).mean(), 2e-5), dtype


@pytest.mark.parametrize("beta", NEAR)
@pytest.mark.parametrize("name", DECAYING)
def test_decay_rates_near_one_of_16_bit_types(name: str, beta: float) -> None:
    rule, many = DECAYING[name](beta), noise("float32")
    _, moments, _ = run(rule, "float32", many)
    exact, _, way = run(rule, "float64", many)
    for dtype in ("float16", "bfloat16"):
        _, states, _ = run(rule, dtype, many)
        for a, b in zip(states, moments, strict=True):
            np.testing.assert_array_equal(a, b)  # none of these rules looks at the parameter
        x, (master, *_), _ = run(optirs.MixedPrecision(rule), dtype, many)
        assert near(master, exact, way, tolerance(name, beta))
        held, smallest = np.abs(exact) < 6e4, float(np.spacing(np.float16(0)))
        rtol = max(EPS[dtype], tolerance(name, beta))
        assert near(x[held], exact[held], (np.abs(exact) + way)[held] + smallest / rtol, rtol)


# --- one huge gradient ------------------------------------------------------------------------------------------------

_OTHERS = ["AdaBelief", "AdaDelta", "AdaGrad", "AdaMax", "AMSGrad", "NAdam", "OAdam", "RAdam", "RMSProp"]
SQUARING = ["Adam", "AdamW", *_OTHERS]
MEMORY = {"AdaGrad", "AMSGrad"}
"""Rules that in exact arithmetic, too, never forget a square."""


def spiked(rule: Rule, dtype: str, spike: complex, steps: int = 60, at: int = 5) -> tuple[list[Array], list[Array]]:
    """The parameters after each step, and the last state: elements 0 and 2 see ones, element 1 the spike among them."""
    model: list[Array] = [np.zeros(3, DTYPES[dtype])]
    state, seen = optirs.setup(rule, model), []
    for i in range(steps):
        g = np.ones(3, DTYPES[dtype])
        g[1] = spike if i == at else 1.0
        state, model = optirs.update(state, model, [g])
        seen.append(model[0])
    return seen, arrays(state[0].state)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64", "complex128"])
@pytest.mark.parametrize("name", [*SQUARING, "centred"])
def test_one_huge_gradient_makes_no_state_infinite(name: str, dtype: str) -> None:
    rule = optirs.RMSProp(centred=True) if name == "centred" else RULES[name]()
    spikes = [1e20, 1e25, -3e38] if dtype in ("float32", "complex64") else [1e155, -1e200, 1e308]
    if dtype.startswith("complex"):
        spikes += [complex(s, -s) for s in spikes] + [1j * spikes[-1]]
    calm, _ = spiked(rule, dtype, 1.0)
    for spike in spikes:
        seen, states = spiked(rule, dtype, spike)
        for array in (*states, *seen):
            assert np.all(np.isfinite(array)), spike
        np.testing.assert_array_equal(seen[-1][[0, 2]], calm[-1][[0, 2]])
        if name != "AdaDelta":  # whose step can be that of the scale of its steps so far
            assert abs(seen[5][1] - seen[4][1]) > 0, spike


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("name", SQUARING)
def test_a_run_goes_where_exact_arithmetic_goes_after_a_huge_gradient(name: str, dtype: str) -> None:
    rule = RULES[name](**({"rho": 0.5} if name in ("RMSProp", "AdaDelta") else {}))
    if name not in ("RMSProp", "AdaDelta", "AdaGrad"):
        rule = rule.replace(beta=(0.5, 0.6 if name != "RAdam" else 0.7))
    phase = (0.6 + 0.8j) if dtype == "complex64" else 1.0
    for size in (1e10, 1e18, 4e18):  # squared, the last two are beyond what float32 holds unless weighted
        wide = "complex128" if dtype == "complex64" else "float64"
        found, _ = spiked(rule, dtype, size * phase, 400)
        exact, _ = spiked(rule, wide, size * phase, 400)
        for i in (5, 50, 150, 250, 399):
            np.testing.assert_allclose(found[i], exact[i], rtol=1e-4)
    last, before = spiked(rule, dtype, 1e25 * phase, 900)[0][-1], spiked(rule, dtype, 1e25 * phase, 899)[0][-1]
    if name == "AdaDelta":  # the scale of its steps depends on all steps before
        assert last[1] != before[1]
    elif name not in MEMORY:  # it has forgotten, and steps as its neighbours do
        np.testing.assert_allclose(last[1] - before[1], last[0] - before[0], rtol=1e-2)


@pytest.mark.parametrize("name", SQUARING)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_infinities_and_nan_become_nan_and_stay(name: str, dtype: str) -> None:
    bad = [np.inf, -np.inf, np.nan]
    if dtype.startswith("complex"):
        bad += [complex(1, np.inf), complex(np.nan, 1)]
    for g in bad:
        seen, states = spiked(RULES[name](), dtype, g, 8)
        for x in seen[5:]:
            np.testing.assert_array_equal(np.isnan(x), [False, True, False])
        assert all(np.isnan(a[1]) for a in states)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
def test_sums_of_squares_stop_at_the_greatest_number(dtype: str) -> None:
    huge = 3e38 if dtype != "float64" else 1e308
    model = [np.zeros(1, dtype)]
    state = optirs.setup(optirs.AdaGrad(), model)
    for _ in range(50):
        state, model = optirs.update(state, model, [np.full(1, huge, dtype)])
    assert np.isfinite(state[0].state["acc"]).all()
    assert np.isfinite(model[0]).all()


# --- numbers near 0 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128", "float16"])
@pytest.mark.parametrize("name", sorted(set(RULES) - {"OptimiserChain", "MixedPrecision", "Rprop", "AccumGrad"}))
def test_no_state_is_subnormal(name: str, dtype: str) -> None:
    if dtype.startswith("complex") and name in ("ClipGrad", "Box"):
        return
    real = np.finfo(np.float64 if dtype in ("float64", "complex128") else np.float32)
    sizes = [float(real.tiny) * f for f in (0.25, 0.9, 3.0, 1e4)] + [float(np.sqrt(real.tiny)) * f for f in (0.3, 5.0)]
    kind = np.dtype(dtype if dtype != "float16" else "float32")
    model: list[Array] = [np.ones(len(sizes), DTYPES[dtype])]
    chained: list[Array] = [np.ones(len(sizes), DTYPES[dtype])]
    rule = RULES[name]()
    state, chain = optirs.setup(rule, model), optirs.setup(optirs.OptimiserChain(optirs.Descent(1.0), rule), chained)
    for i in range(4):
        g = [np.asarray([(-1) ** i * s for s in sizes], kind)]
        state, model = optirs.update(state, model, g)
        optirs.update_(chain, chained, g)
        for one, other in zip(arrays(state[0].state), arrays(chain[0].state), strict=True):
            np.testing.assert_array_equal(one, other)
            for part in (one.real, one.imag):
                assert not np.any((part != 0) & (np.abs(part) < real.tiny))
    np.testing.assert_array_equal(model[0], chained[0])


def test_subnormal_parameters_and_gradients_are_not_touched() -> None:
    tiny = np.float32(1e-40)
    model = [np.full(3, tiny)]
    _, new = optirs.update(optirs.setup(optirs.Descent(1.0), model), model, [np.full(3, tiny / 4)])
    np.testing.assert_array_equal(new[0], np.full(3, tiny - tiny / 4))


# --- RAdam's branch ---------------------------------------------------------------------------------------------------


def border(t: int) -> float:
    """The greatest float64 at which step `t` is not adaptive in exact arithmetic."""
    low, high = 0.5, 1.0
    while np.nextafter(low, 1) < high:
        middle = (low + high) / 2
        low, high = (low, middle) if rectified(middle, t)[0] > 4 else (middle, high)
    return low


BORDERS = [border(t) for t in (5, 6, 7, 10, 20, 40)]
AT_BORDERS = [float(b) for at in BORDERS for b in (np.nextafter(at, 0), at, np.nextafter(at, 1), at * (1 + 1e-9))]


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.6, 0.9, 0.999, 1 - 1e-6, 1 - 1e-7, 1 - 1e-8, *AT_BORDERS])
def test_radam_takes_the_branch_of_exact_arithmetic(beta: float) -> None:
    x = np.zeros(1)
    state = optirs.init(optirs.RAdam(1.0, (0.9, beta), 0.0), x)
    for t in range(1, 49):
        state, dx = optirs.apply(optirs.RAdam(1.0, (0.9, beta), 0.0), state, x, np.ones(1))
        assert dx is not None
        rho, limit = rectified(beta, t)
        expected = 1.0
        if rho > 4:
            expected = float((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho)) ** 0.5
        # Beside the factor there are 1 - beta^t, whose digits cancel, too, and the roots that meet in v.
        np.testing.assert_allclose(dx, expected, rtol=1e-13 / (1 - beta))
