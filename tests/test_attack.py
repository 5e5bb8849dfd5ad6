"""A short run of the fuzzer of hostile worlds, always the same one; `make attack` runs it for longer."""

import os

import pytest
from attack import acts, hooks, roads
from attack.run import Choice, attack, one_round

ROUNDS = int(os.environ.get("OPTIRS_ATTACK_ROUNDS", "1500"))


@pytest.mark.unsanitized(
    "rounds that end a process would hide what the sanitizer says; run `make attack` with it instead"
)
@pytest.mark.parametrize("seed", [1, 2])
def test_hostile_worlds_neither_crash_nor_hang_nor_go_half_way(seed: int) -> None:
    report = attack(Choice(seed=seed, rounds=ROUNDS), most=3)
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
