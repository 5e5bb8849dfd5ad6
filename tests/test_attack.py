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
    assert undisturbed < ROUNDS / 2
    assert report.outcomes["a result"] > ROUNDS / 10


@pytest.mark.parametrize("road", roads.ROADS)
def test_every_road_can_be_gone_in_peace(road: str) -> None:
    choice = Choice(seed=1, roads=(road,), hooks=("none",), acts=("none",))
    assert any(one_round(choice, at).startswith("a result") for at in range(60))


def test_every_act_and_hook_has_its_turn() -> None:
    assert set(acts.GROUPS) == set(Choice().acts)
    assert {"acting rule", *hooks.BEFORE, *hooks.AFTER} == set(Choice().hooks)


def test_a_round_is_the_same_whenever_it_is_run() -> None:
    choice = Choice(seed=5)
    assert [one_round(choice, at) for at in range(5)] == [one_round(choice, at) for at in range(5)]


@pytest.mark.parametrize(
    ("call", "said"),
    [("os.kill(os.getpid(), 11)", "SIGSEGV"), ("os._exit(3)", "exit 3"), ("time.sleep(60)", "Timeout")],
)
def test_a_crash_and_a_hang_are_reported_with_their_round(
    call: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    # A module that the child imports when it starts.
    (tmp_path / "sitecustomize.py").write_text(  # type: ignore[operator]
        "import os, sys, time\n"
        "if '--child' in sys.argv:\n"
        "    import attack.roads as roads\n"
        f"    roads.ROADS['schedule'] = roads.Road(lambda *a: {call}, lambda w: ())\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OPTIRS_ATTACK_HANG", "3")
    report = attack(Choice(seed=1, rounds=2, roads=("schedule",), hooks=("none",), acts=("none",)), most=1)
    assert len(report.faults) == 1
    assert said in report.faults[0]
    assert (
        "python -m attack --seed 1 --first 0 --rounds 1 --acts 'none' --roads 'schedule' --hooks 'none'"
        in report.faults[0]
    )
