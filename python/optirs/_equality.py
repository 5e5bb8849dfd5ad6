"""When two states, or two layers, are equal."""

from typing import Any

import numpy as np


def same_bits(a: Any, b: Any) -> bool:
    """Whether `a` and `b` are equal, arrays in them bit for bit."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a)
    if isinstance(a, (tuple, list)) and type(a) is type(b):
        return len(a) == len(b) and all(map(same_bits, a, b))
    if type(a) is not type(b):
        return False
    if isinstance(a, (float, np.generic)):
        return np.asarray(a).tobytes() == np.asarray(b).tobytes()
    if hasattr(a, "__dict__") and not isinstance(a, type):
        return a is b or same_bits(vars(a), vars(b))
    return bool(a == b)


class Compared:
    """A class whose instances are equal if their attributes are, arrays bit for bit: so its states compare, too."""

    def __eq__(self, other: object) -> bool:
        return same_bits(vars(self), vars(other)) if type(other) is type(self) else NotImplemented

    __hash__ = None  # type: ignore[assignment]
