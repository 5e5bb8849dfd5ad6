"""What saving and loading cost per leaf is paid in the compiled module, and the collector of cycles waits."""

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import optirs
from optirs._core import no_collections

RULES = {
    "one": optirs.Adam(),
    "none": optirs.Descent(),
    "chain": optirs.OptimiserChain(optirs.ClipNorm(1.0), optirs.Momentum(), optirs.Adam()),
    "mixed": optirs.MixedPrecision(optirs.Momentum()),
    "scheduled": optirs.Scheduled(optirs.Adam(), eta=optirs.schedules.Cosine(0.1, 100)),
}


def flat(count: int) -> Any:
    return {f"w{i}": np.zeros(2, np.float32) for i in range(count)}


def nested(count: int) -> Any:
    return {"layers": [[{"w": np.zeros(2, np.float32)}, (np.zeros(1, np.float32),)] for _ in range(count // 2)]}


def dense(count: int) -> Any:
    layers = [optirs.Dense(np.zeros((1, 1), np.float32), np.zeros(1, np.float32)) for _ in range(count // 2)]
    return optirs.Chain(*layers)


def calls(function: Callable[[], Any]) -> int:
    """How often Python code, or a function of C's that it calls, is entered."""
    count = 0

    def see(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    enabled = gc.isenabled()
    gc.disable()  # or what other libraries do at each collection would count
    sys.setprofile(see)
    try:
        function()
    finally:
        sys.setprofile(None)
        if enabled:
            gc.enable()
    return count


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("make", [flat, nested], ids=["flat", "nested"])
def test_calls_do_not_depend_on_the_number_of_leaves(make: Callable[[int], Any], rule: Any, tmp_path: Path) -> None:
    path, counts = tmp_path / "file", []
    for count in (10, 10, 10, 1000):  # the first times modules are imported, and classes asked what they are
        model = make(count)
        state = optirs.setup(rule, model)
        counts.append(
            [
                calls(lambda model=model, state=state: optirs.save(path, model=model, state=state)),
                calls(lambda model=model: optirs.load(path, model)),
                calls(lambda: optirs.load(path)),
                calls(lambda model=model, state=state: optirs.digest(state, model)),
            ]
        )
    assert counts[2] == counts[3]


def test_layers_into_a_model(tmp_path: Path) -> None:
    path, counts = tmp_path / "file", []
    for count in (10, 10, 1000):
        model = dense(count)
        state = optirs.setup(optirs.Adam(), model)
        optirs.save(path, model=model, state=state)
        counts.append(calls(lambda model=model: optirs.load(path, model)))
    assert counts[1] == counts[2]


@pytest.fixture
def collector() -> Iterator[None]:
    enabled, thresholds = gc.isenabled(), gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    (gc.enable if enabled else gc.disable)()


@pytest.mark.usefixtures("collector")
def test_the_collector_waits(tmp_path: Path) -> None:
    path, model, seen = tmp_path / "file", flat(2000), []
    state = optirs.setup(optirs.Adam(), model)
    gc.collect()
    gc.enable()
    gc.set_threshold(100)
    for function in (
        lambda: optirs.save(path, model=model, state=state),
        lambda: optirs.load(path, model, rename=lambda text: seen.append(gc.isenabled()) or text),
    ):
        function()
        assert gc.isenabled()
    assert seen
    assert not any(seen)
    with pytest.raises(ValueError, match="dtype"):
        optirs.load(path, {"w0": np.zeros(3)})
    assert gc.isenabled()
    gc.disable()
    optirs.load(path)
    assert not gc.isenabled()


@pytest.mark.usefixtures("collector")
def test_it_waits_for_the_last_of_several_threads() -> None:
    gc.enable()
    inside, go = threading.Event(), threading.Event()

    def other() -> None:
        with no_collections:
            inside.set()
            go.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    assert inside.wait(30)
    with no_collections, no_collections:
        assert not gc.isenabled()
    assert not gc.isenabled()
    go.set()
    thread.join()
    assert gc.isenabled()


@pytest.mark.usefixtures("collector")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_child_of_a_fork_collects() -> None:
    gc.enable()
    with no_collections:
        child = os.fork()
        if child == 0:
            os._exit(0 if gc.isenabled() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.usefixtures("collector")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_block_that_ends_in_the_child_of_a_fork() -> None:
    gc.enable()
    with no_collections:
        child = os.fork()
    with no_collections:
        rests = not gc.isenabled()
    if child == 0:
        os._exit(0 if rests and gc.isenabled() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
