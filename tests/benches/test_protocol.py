"""The benchmarks' processes: how many there are, and that one that dies is left out by name while the others go on."""

import pytest


@pytest.fixture
def protocol(benches):
    return benches("protocol")


class Fake:
    """A process that takes no time: every step lasts so many seconds."""

    def __init__(self, name, seconds, missing=None):
        self.name, self.seconds, self.missing, self.lost = name, seconds, missing or {}, ""
        self.cases = []

    def tell(self, case):
        self.cases.append(case)

    def reply(self):
        return {"missing": self.missing[self.cases[-1]]} if self.cases[-1] in self.missing else {}

    def round(self, steps):
        return self.seconds, 1.0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


@pytest.fixture
def repeated(protocol, monkeypatch):
    """Measures with fake processes, the numbers being the seconds of each in the order of their start."""
    monkeypatch.setattr(protocol, "PAUSE", 0)

    def repeat(workload, cases, seconds, missing=None):
        started = []

        def start(name):
            number = sum(fake.name == name for fake in started)
            started.append(Fake(name, seconds[name][number], (missing or {}).get((name, number))))
            return started[-1]

        effort = protocol.Effort(rounds=2, seconds=0.02, from_memory=3, in_cache=2)
        return protocol.repeat(list(seconds), workload, cases, 1, effort, start), started

    return repeat


def test_a_contender_that_is_killed_is_left_out(protocol):
    with protocol.Worker("optirs", "d", 1) as worker:
        worker.process.kill()
        worker.process.wait()
        worker.tell(case="Adam")
        assert worker.reply() == {"missing": "FAILED: the process ended"}
        assert worker.round(1) == (float("inf"), 0.0)


def test_every_contender_has_fresh_processes_whose_rounds_are_kept_apart(repeated):
    [row], started = repeated("a2", ["Adam"], {"optirs": [1.0, 2.0, 3.0], "C": [4.0, 5.0, 6.0]})
    assert row["seconds"] == {"optirs": [[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], "C": [[4.0, 4.0], [5.0, 5.0], [6.0, 6.0]]}
    assert [fake.name for fake in started] == ["optirs", "C"] * 3
    assert all(fake.cases == ["Adam"] for fake in started)


def test_a_process_lives_for_one_case_from_memory_and_for_all_of_a_small_workload(protocol):
    assert protocol.portions("a2", ("Adam", "Lion")) == [["Adam"], ["Lion"]]
    assert protocol.portions("b", ("Adam", "Lion")) == [["Adam", "Lion"]]


def test_who_is_missing_is_not_started_again(repeated):
    missing = {("C", 0): {"Adam": "has no loop for it"}}
    [row], started = repeated("a2", ["Adam"], {"optirs": [1.0, 1.0, 1.0], "C": [1.0]}, missing)
    assert row["missing"] == {"C": "has no loop for it"}
    assert list(row["seconds"]) == ["optirs"]
    assert [fake.name for fake in started] == ["optirs", "C", "optirs", "optirs"]


def test_who_fails_in_one_process_is_left_out_of_the_case(repeated):
    missing = {("C", 1): {"Adam": "FAILED"}}
    rows, _ = repeated("b", ["Adam", "Lion"], {"optirs": [1.0, 1.0], "C": [1.0, 1.0]}, missing)
    assert [list(row["seconds"]) for row in rows] == [["optirs"], ["optirs", "C"]]
    assert rows[0]["missing"] == {"C": "FAILED"}


def test_a_step_that_fails_has_no_time(repeated):
    [row], _ = repeated("b", ["Adam"], {"optirs": [1.0, 1.0], "C": [1.0, float("inf")]})
    assert list(row["seconds"]) == ["optirs"]
    assert row["missing"] == {"C": "FAILED: a step failed"}


def test_groups_have_ours_and_the_limit_and_as_many_others_as_memory(protocol, monkeypatch):
    names = ["limit", "limit, pure", "optirs", "optirs, pure", "C", "numba", "NumPy"]
    [everybody] = protocol.groups(names, "d", "Adam")
    assert sorted(everybody) == sorted(names)
    monkeypatch.setattr(protocol, "available", lambda: 5 * 4 * 4 * 33_000_000 / 0.6)  # 5 times what Adam has
    assert list(protocol.groups(names, "a2", "Adam")) == [
        ["limit", "optirs", "limit, pure", "optirs, pure"],
        ["limit", "optirs", "C", "numba"],
        ["limit", "optirs", "NumPy"],
    ]
