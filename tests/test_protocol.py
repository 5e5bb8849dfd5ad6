"""The benchmarks' processes: one that dies is left out by name, and the others go on."""

import pytest


@pytest.fixture
def protocol(benches):
    return benches("protocol")


def test_a_contender_that_is_killed_is_left_out(protocol):
    with protocol.Worker("optirs", "d", 1) as worker:
        worker.process.kill()
        worker.process.wait()
        worker.tell(case="Adam")
        assert worker.reply() == {"missing": "FAILED: the process ended"}
        assert worker.round(1) == (float("inf"), 0.0)
