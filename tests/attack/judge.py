"""What is accepted of a round: a result, or an ordinary exception; and nothing is changed that is not to be."""

from typing import Any

import numpy as np

import optirs


class Wrong(AssertionError):
    """What is not accepted."""


def judge_error(world: Any, error: BaseException) -> None:
    """Notes an exception that no call may end with."""
    panic = type(error).__name__ == "PanicException"
    if panic or isinstance(error, SystemError | Wrong) or (isinstance(error, AssertionError) and not error.args):
        world.failures.append(error)


def snapshot(value: Any, skip: set[int], known: dict[int, Any] | None = None) -> Any:
    """The content of `value` as something to compare, without the arrays in `skip`."""
    known = {} if known is None else known
    if id(value) in skip:
        return "changed"
    if id(value) in known:
        return "again"
    if isinstance(value, np.ndarray):
        x = np.ndarray.view(value, np.ndarray)
        return x.dtype.str, x.shape, None if x.dtype.hasobject else x.tobytes()
    if value is None or isinstance(value, int | float | complex | str | bytes):
        return repr(value)
    known[id(value)] = True
    if isinstance(value, dict):
        return [(repr(key), snapshot(child, skip, known)) for key, child in dict.items(value)]
    if isinstance(value, list | tuple):
        return [snapshot(child, skip, known) for child in tuple(value)]
    if type(value) is optirs.Leaf:
        return id(value.rule), value.frozen, snapshot(value.state, skip, {})
    if type(value).__module__.startswith(("attack.worlds", "optirs.layers")) and hasattr(value, "__dict__"):
        return snapshot(vars(value), skip, known)
    return id(value)


class Before:
    """What may not change during a call: all arrays of the world that it is not told to write to."""

    def __init__(self, world: Any, in_place: bool) -> None:
        self.world, self.in_place = world, in_place
        self.held = [world.model, world.state]
        parameters = _arrays(self.held)
        self.bytes = [(x, _bytes(x), any(_shares(x, y) for y in parameters)) for x in world.arrays]
        self.whole = snapshot(self.held, set())

    def compare_rest(self) -> None:
        """Raises where an array has changed that is no parameter, or one that was not to be stepped."""
        stepped = self.in_place or self.world.stepped
        for x, before, is_parameter in self.bytes:
            told = id(x) in self.world.changed or (is_parameter and stepped)
            if not told and before != _bytes(x):
                raise Wrong(f"an array of shape {x.shape} was written to, which is no parameter")

    def compare_all(self) -> None:
        """Raises where state or model have changed, though the call raised, or was pure, and no act changed them."""
        if not self.world.changed and not self.world.stepped and snapshot(self.held, set()) != self.whole:
            raise Wrong("state or model have changed")


def _bytes(x: np.ndarray) -> bytes:
    return b"" if x.dtype.hasobject else np.ndarray.view(x, np.ndarray).tobytes()


def _shares(x: np.ndarray, y: np.ndarray) -> bool:
    return np.may_share_memory(np.ndarray.view(x, np.ndarray), np.ndarray.view(y, np.ndarray))


def _arrays(value: Any, known: set[int] | None = None) -> list[np.ndarray]:
    """All arrays below `value`."""
    known = set() if known is None else known
    if id(value) in known:
        return []
    known.add(id(value))
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, dict):
        value = list(dict.values(value))
    elif type(value) is optirs.Leaf:
        value = [value.state]
    elif not isinstance(value, list | tuple):
        value = list(vars(value).values()) if hasattr(value, "__dict__") and not isinstance(value, type) else []
    return [x for child in value for x in _arrays(child, known)]
