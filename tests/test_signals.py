"""Signals whose handlers raise in the middle of a call: what they raise arrives, and nothing stays behind."""

import gc
import signal
import time
from collections.abc import Callable

import pytest

import optirs
from optirs._core import no_collections

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")


class Signal(Exception):
    pass


def interrupted(call: Callable[[], object], after: Callable[[], object]) -> None:
    """Makes the call over and over, and each time that a signal has ended it the other one."""

    def raises(*_: object) -> None:
        raise Signal

    before = signal.signal(signal.SIGALRM, raises)
    count, end = 0, time.monotonic() + 0.5
    try:
        while time.monotonic() < end:
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + count % 7))
                while True:
                    call()
            except Signal:
                count += 1
                after()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert count > 10


def test_the_collector_is_left_on() -> None:
    assert gc.isenabled()

    def block() -> None:
        with no_collections:
            pass

    def is_on() -> None:
        assert gc.isenabled()

    interrupted(block, is_on)


def test_the_text_of_a_path() -> None:
    """Python asks for signals before it prints a number."""
    path = optirs.KeyPath((7,) * 500)

    def text() -> None:
        assert "?" not in str(path)

    interrupted(text, lambda: None)
