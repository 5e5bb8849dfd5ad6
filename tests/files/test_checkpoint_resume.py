"""Going on from a file gives the same bits as never having stopped."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from problems import DTYPES, LAYOUTS, RULES, SHAPES, bits, draw, fits, generator

import optirs

Array = NDArray[Any]
STEPS = 6
BREAK = 4
"""Inside a cycle of every `AccumGrad` of the problems."""


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the disk, hundreds of times, would test nothing here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def arrays(key: object, dtype: str, layout: str = "C") -> list[Array]:
    rng = generator("checkpoint", key, dtype)
    return [LAYOUTS[layout](draw(rng, shape, dtype)) for shape in SHAPES]


def states(state: Any) -> Any:
    return [leaf.state for leaf in state]


def run(state: Any, model: Any, grads: list[Any], in_place: bool) -> Any:
    for grad in grads:
        state, model = (optirs.update_ if in_place else optirs.update)(state, model, grad)
    return state, model


def check(path: Path, rule: optirs.Rule, model: Any, grads: list[Any], in_place: bool, stop: int = BREAK) -> None:
    """Runs with and without a file in between."""
    state = optirs.setup(rule, model)
    like = [np.zeros_like(x) for x in model]
    state, model = run(state, model, grads[:stop], in_place)
    optirs.save(path, model=model, state=state)
    found = optirs.load(path, like)
    assert found.state == state
    assert bits([found.model, states(found.state)]) == bits([model, states(state)])
    unbroken = run(state, model, grads[stop:], in_place)
    resumed = run(found.state, found.model, grads[stop:], in_place)
    assert bits([resumed[1], states(resumed[0])]) == bits([unbroken[1], states(unbroken[0])])


@pytest.mark.parametrize("in_place", [False, True], ids=["pure", "in_place"])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_and_type(rule: optirs.Rule, in_place: bool, tmp_path: Path) -> None:
    dtypes = [d for d in DTYPES if fits(rule, d)]
    model = [x for d in dtypes for x in arrays("x", d)]
    grads = [[x for d in dtypes for x in arrays(step, d)] for step in range(STEPS)]
    check(tmp_path / "file", rule, model, grads, in_place)


@pytest.mark.parametrize("in_place", [False, True], ids=["pure", "in_place"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_layout(dtype: str, layout: str, in_place: bool, tmp_path: Path) -> None:
    chain = optirs.OptimiserChain(optirs.ClipNorm(0.5), optirs.AccumGrad(3), optirs.AdamW(0.1))  # a norm sees the order
    rule = chain if dtype.startswith("complex") else optirs.MixedPrecision(chain)
    grads = [arrays(step, dtype, layout) for step in range(STEPS)]
    check(tmp_path / "file", rule, arrays("x", dtype, layout), grads, in_place)


@pytest.mark.parametrize("layout", ["C", "Fortran", "permuted", "swapped"])
def test_memory_order_is_kept(layout: str, tmp_path: Path) -> None:
    model = arrays("x", "float32", layout)
    optirs.save(tmp_path / "file", model=model, state=optirs.setup(optirs.Adam(), model))
    like = [np.zeros(x.shape, x.dtype) for x in model]
    found = optirs.load(tmp_path / "file", like)
    for x, y, leaf in zip(model, found.model, found.state, strict=True):
        assert y.strides == x.strides or x.size <= 1
        assert y.dtype == x.dtype
        assert y.flags.writeable
        assert y.flags.aligned
        assert leaf.state["m"].strides == x.strides or x.size <= 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rule=st.sampled_from([p.values[0] for p in RULES]),
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=4).map(tuple), min_size=1, max_size=4),
    layout=st.sampled_from(list(LAYOUTS)),
    dtype=st.sampled_from(list(DTYPES)),
    stop=st.integers(0, STEPS),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_model_at_any_step(
    rule: Any, shapes: Any, layout: str, dtype: str, stop: int, seed: int, tmp_path: Path
) -> None:
    if not fits(rule, dtype):
        return
    rng = np.random.default_rng(seed)
    many = [[LAYOUTS[layout](draw(rng, shape, dtype)) for shape in shapes] for _ in range(STEPS + 1)]
    check(tmp_path / "file", rule, many[0], many[1:], in_place=bool(seed % 2), stop=stop)


@dataclass(frozen=True)
class Remembering(optirs.Rule):
    """A rule whose state has everything that a file can hold."""

    eta: float = 0.1
    names: tuple[str, ...] = ("a", "$b")

    def init(self, x: Array) -> Any:
        numbers = (True, 2**70, -0.0, float("-inf"), 1 - 2j, np.float32(0.1), np.int8(3))
        return {"mean": np.zeros_like(x), "t": 0, ("k", 1): [None, "text", *numbers], "$b": {"n": 1}, "bytes": b"\x00"}

    def apply(self, state: Any, x: Array, dx: Array) -> Any:
        mean = state["mean"] + dx * state[("k", 1)][-2]
        return {**state, "mean": mean, "t": state["t"] + 1}, mean * self.eta / (1 + state["t"])


@pytest.mark.parametrize(
    "rule",
    [
        Remembering(),
        optirs.OptimiserChain(optirs.Adam(), Remembering(0.2, ())),
        optirs.MixedPrecision(optirs.OptimiserChain(optirs.ClipNorm(), Remembering(), optirs.Momentum())),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_own_rules(rule: optirs.Rule, layout: str, tmp_path: Path) -> None:
    for dtype in ("float16", "float64"):
        grads = [arrays(step, dtype, layout) for step in range(STEPS)]
        check(tmp_path / "file", rule, arrays("x", dtype, layout), grads, in_place=True)


def test_frozen_and_adjusted(tmp_path: Path) -> None:
    model = {"a": np.ones(3), "b": [np.ones(2), np.ones(1)]}
    state = optirs.setup(lambda path, x: None if path == ("b", 1) else optirs.Adam(), model)
    state, model = optirs.update(state, model, model)
    optirs.adjust_(optirs.freeze_(state["a"]), 0.5)
    optirs.save(tmp_path / "file", state=state, model=model)
    found = optirs.load(tmp_path / "file", model)
    assert found.state == state
    assert found.state["b"][1] is None
    assert (found.state["a"].frozen, found.state["b"][0].frozen) == (True, False)
    assert (found.state["a"].rule.eta, found.state["b"][0].rule.eta) == (0.5, 0.001)


def test_small_moments_lie_together(tmp_path: Path) -> None:
    """As `setup` lays them: a thousand small arrays are stepped as fast as before."""

    def gaps(state: Any) -> list[int]:
        starts = [leaf.state["m"].__array_interface__["data"][0] for leaf in state]
        return np.diff(starts).tolist()

    model = [np.ones(n) for n in range(1, 40)]
    state = optirs.setup(optirs.Adam(), model)
    optirs.save(tmp_path / "file", state=state)
    assert gaps(optirs.load(tmp_path / "file", model).state) == gaps(state)
