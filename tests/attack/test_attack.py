"""A short run of the fuzzer of hostile worlds, always the same one; `make attack` runs it for longer."""

import os
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import optirs
from attack import acts, hooks, oracle, roads
from attack.judge import Wrong
from attack.run import Choice, attack, one_round
from attack.worlds import LAYOUTS, World, owner

ROUNDS = int(os.environ.get("OPTIRS_ATTACK_ROUNDS", "500"))
MEMORY: dict[str, Any] = {
    "acts": ("memory",),
    "hooks": (
        "acting rule",
        "properties",
        "acting model",
        "acting gradient",
        "late model",
        "late gradient",
        "late argument",
    ),
    "roads": ("update", "update_", "setup", "destructure", "apply", "gradients", "supervised", "train", "train simply"),
}
"""What gives memory back that others are views of."""


@pytest.mark.unsanitized(
    "rounds that end a process would hide what the sanitizer says; run `make attack` with it instead"
)
@pytest.mark.parametrize(("seed", "others"), [(1, {}), (2, {}), (4, MEMORY), (5, MEMORY)])
def test_hostile_worlds_neither_crash_nor_hang_nor_go_half_way(seed: int, others: dict[str, Any]) -> None:
    report = attack(Choice(seed=seed, rounds=ROUNDS, **others), most=3)
    assert not report.faults, "\n\n".join(report.faults)
    assert report.outcomes.total() == ROUNDS
    undisturbed = sum(n for word, n in report.outcomes.items() if "undisturbed" in word)
    assert undisturbed < ROUNDS * 3 / 4
    assert report.outcomes["a result"] > ROUNDS / 10


@pytest.mark.parametrize("road", roads.ROADS)
def test_every_road_can_be_gone_in_peace(road: str) -> None:
    choice = Choice(seed=1, roads=(road,), hooks=("none",), acts=("none",))
    assert any(one_round(choice, at).startswith("a result") for at in range(60))


def test_every_act_and_hook_has_its_turn() -> None:
    assert set(acts.GROUPS) == set(Choice().acts)
    assert {"acting rule", *hooks.BEFORE, *hooks.AFTER} == set(Choice().hooks)


def test_a_round_is_the_same_whenever_it_is_run() -> None:
    # Without the collector and the clock, which keep time of their own.
    choice = Choice(seed=5, hooks=("late gradient", "late argument", "nonsense leaf", "acting rule"))
    assert [one_round(choice, at) for at in range(5)] == [one_round(choice, at) for at in range(5)]


@pytest.mark.unsanitized("a signal ends in its report")
@pytest.mark.parametrize(("road", "said"), [("a crash", "SIGSEGV"), ("an exit", "exit 3"), ("a hang", "Timeout")])
def test_a_crash_and_a_hang_are_reported_with_their_round(
    road: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPTIRS_ATTACK_HANG", "3")
    report = attack(Choice(seed=1, rounds=2, roads=(road,), hooks=("none",), acts=("none",)), most=1)
    assert len(report.faults) == 1
    assert said in report.faults[0]
    again = f"python -m attack --seed 1 --first 0 --rounds 1 --acts 'none' --roads '{road}' --hooks 'none'"
    assert again in report.faults[0]


@pytest.mark.parametrize(("road", "said"), [("half a step", "half a step"), ("a write past a parameter", "written to")])
@pytest.mark.parametrize("group", ["memory", "flags", "tree", "system"])
def test_what_is_written_beside_an_act_is_found(road: str, said: str, group: str) -> None:
    choice = Choice(seed=1, roads=(road,), hooks=("late argument",), acts=(group,))
    found = 0
    for at in range(40):
        try:
            one_round(choice, at)
        except Wrong as error:
            found += said in str(error)
    assert found >= 5


def test_steps_in_peace_are_those_of_the_reference() -> None:
    choice = Choice(seed=3, roads=("update", "update_"), hooks=("none",), acts=("none",))
    words = [one_round(choice, at) for at in range(150)]
    assert sum(word.startswith("a result") for word in words) > 100


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8", "c16", ">f4", ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "rule", [optirs.Descent(1.0), optirs.Adam(1.0), optirs.MixedPrecision(optirs.Momentum(1.0), "float32")]
)
def test_a_step_that_is_not_taken_is_found(rule: Any, dtype: Any) -> None:
    x, g = np.linspace(0.01, 2, 30).astype(dtype), np.linspace(1, 2, 30)
    new = optirs.apply(rule, optirs.init(rule, x), x, g)[1]
    oracle.check(rule, False, x, (x - new).astype(dtype), g)
    with pytest.raises(Wrong):
        oracle.check(rule, False, x, x, g)


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "c16"])
def test_a_small_step_that_is_not_taken_is_found(dtype: str) -> None:
    x = np.linspace(0.01, 2, 30).astype(dtype)
    with pytest.raises(Wrong):
        oracle.check(optirs.Adam(), False, x, x, np.ones(30))


@pytest.mark.parametrize(
    "layout", ["own view", "within", "reversed", "strided", "memoryview", "as_strided", "subclass view"]
)
def test_what_a_view_lies_in_is_known_and_resized(layout: str) -> None:
    world = World("views")
    x = world.known(LAYOUTS[layout](world, np.ones(6)))
    whole = owner(x)
    assert whole is not x
    assert any(whole is y for y in world.arrays)
    while id(x) not in world.gone:
        acts.gently(acts.resize_owner)(world)
    assert id(whole) in world.changed
