"""What several test modules need."""

import gc
import importlib
import os
import signal
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import hypothesis
import pytest
from libraries import LIBRARIES, PEER, Bridge
from repository import ROOT

from optirs.training._compiled import Compiled

# Ctrl-C works in the tests, and in the processes that they start, also where the shell has told them to ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

if os.environ.get("OPTIRS_SANITIZER"):
    hypothesis.settings.register_profile("sanitizer", deadline=None)  # all takes several times as long
    hypothesis.settings.load_profile("sanitizer")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what cannot run under AddressSanitizer where that watches; the mark says why."""
    mark = item.get_closest_marker("unsanitized")
    if mark is not None and os.environ.get("OPTIRS_SANITIZER"):
        pytest.skip(f"under a sanitizer: {mark.args[0]}")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each training is compiled that was started, or went on after callbacks."""
    found: list[bool] = []
    start, restarted = Compiled.start.__func__, Compiled.restarted  # type: ignore[attr-defined]

    def seen(compiled: Any) -> Any:
        found.append(compiled is not None)
        return compiled

    monkeypatch.setattr(Compiled, "start", classmethod(lambda cls, run: seen(start(cls, run))))
    monkeypatch.setattr(Compiled, "restarted", lambda self: seen(restarted(self)))
    return found


@pytest.fixture(params=[pytest.param(n, marks=() if n == "autograd" else PEER) for n in LIBRARIES])
def bridge(request: pytest.FixtureRequest) -> Bridge:
    """Each bridge in turn."""
    return Bridge(request.param)


@pytest.fixture
def bare_collector() -> Iterator[None]:
    """The garbage collector calls no Python code: Hypothesis has it call some, in which Ctrl-C is lost."""
    callbacks = gc.callbacks[:]
    gc.callbacks.clear()
    yield
    gc.callbacks[:] = callbacks


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of the benchmarks, which are not installed."""
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benches.{name}")
