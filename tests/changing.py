"""What tests of arrays that change in the middle of a call share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import optirs

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
