"""What tests of arrays that change in the middle of a call share."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import optirs

Call = Callable[[], object]
STEPS = pytest.mark.parametrize("step", [optirs.update, optirs.update_])
MOVED = "was changed while it was in use: the memory that it is a view of was resized or released"


class Late:
    """An array that acts when it is converted."""

    def __init__(self, values: Any, act: Callable[[], object]) -> None:
        self.values, self.act, self.shape = values, act, np.shape(values)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        self.act()
        return self.values


@dataclass(frozen=True)
class Own(optirs.Rule):
    def init(self, x: Any) -> None:
        return None

    def apply(self, state: None, x: Any, dx: Any) -> tuple[None, Any]:
        return None, dx


def array(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.full(shape, 0.5, dtype)


def is_refused(owner: np.ndarray, call: Call) -> bool:
    """Whether a thread that resizes `owner` in the middle of the call is refused; not where it did so before that."""
    go, said = threading.Event(), []

    def resize() -> None:
        go.wait()
        try:
            owner.resize(4, refcheck=False)
            said.append("resized")
        except ValueError:
            said.append("refused")

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=resize)
    thread.start()
    sys.setswitchinterval(100)  # the other thread's turn comes when the lock is given away
    try:
        go.set()
        call()
    except (RuntimeError, ValueError):
        assert said == ["resized"]  # before the call had looked at it
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    return said == ["refused"]


def assert_refused(made: Callable[[], tuple[np.ndarray, Call]]) -> None:
    """Beside other programs, a call may be over before the other thread wakes: then it is made once more."""
    end = time.monotonic() + 60
    while True:
        owner, call = made()
        if is_refused(owner, call):
            break
        assert time.monotonic() < end
    del call
    owner.resize(4, refcheck=False)  # as it may be again
