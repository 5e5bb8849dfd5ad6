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


def content(value: Any) -> Any:
    """What an array, or the state of a Leaf, holds, as something to compare."""
    if isinstance(value, np.ndarray | np.generic):
        x = np.ndarray.view(value, np.ndarray) if isinstance(value, np.ndarray) else value
        return x.dtype.str, x.shape, None if x.dtype.hasobject else x.tobytes()
    if isinstance(value, dict):
        return [(repr(key), content(child)) for key, child in dict.items(value)]
    if isinstance(value, list | tuple):
        return [content(child) for child in value]
    if value is None or isinstance(value, int | float | complex | str | bytes):
        return repr(value)
    return id(value)


def structure(value: Any, known: dict[int, Any] | None = None) -> Any:
    """How `value` is built, as something to compare: which object stands where."""
    known = {} if known is None else known
    if id(value) in known:
        return "again"
    if value is None or isinstance(value, int | float | complex | str | bytes):
        return repr(value)
    known[id(value)] = value
    if isinstance(value, dict):
        return [(repr(key), structure(child, known)) for key, child in dict.items(value)]
    if isinstance(value, list | tuple):
        return [structure(child, known) for child in tuple(value)]
    if _has_parts(value):
        return structure(vars(value), known)
    return id(value)


def parts(value: Any, known: dict[int, Any] | None = None) -> tuple[list[np.ndarray], list[Any]]:
    """All arrays and all Leafs below `value`, each once."""
    known = {} if known is None else known
    if id(value) in known:
        return [], []
    known[id(value)] = value  # alive, or another object would get its number
    if isinstance(value, np.ndarray):
        return [value], []
    if type(value) is optirs.Leaf:
        return [], [value]
    children: list[Any] = []
    if isinstance(value, dict):
        children = list(dict.values(value))
    elif isinstance(value, list | tuple):
        children = list(value)
    elif _has_parts(value):
        children = list(vars(value).values())
    found = [parts(child, known) for child in children]
    return [x for arrays, _ in found for x in arrays], [leaf for _, leaves in found for leaf in leaves]


def _has_parts(value: Any) -> bool:
    """Whether it is an object of a class that models are made of; the world, which some of them know, is not."""
    kind = type(value)
    known = kind.__module__.startswith(("attack.worlds", "attack.hooks", "optirs.layers"))
    return (
        known and kind.__name__ != "World" and not isinstance(value, optirs.Rule | type) and hasattr(value, "__dict__")
    )


class Before:
    """What may not change during a call: all arrays of the world that it is not told to write to."""

    def __init__(self, world: Any, in_place: bool) -> None:
        self.world, self.in_place = world, in_place
        self.held = [world.model, world.state]
        self.built = structure(self.held)
        arrays, leaves = parts(self.held)
        self.parameters = [(x, content(x)) for x in arrays]
        self.leaves = [(leaf, _leaf(leaf)) for leaf in leaves]
        stepped = [*arrays, *parts([leaf.state for leaf in leaves])[0]]
        known = {id(x): x for x in [*arrays, *world.arrays]}
        # Acts that change an array change all that lie in the same memory, which later cannot be asked for it.
        self.near = {i: {id(y) for y in world.arrays if y is x or _shares(x, y)} for i, x in known.items()}
        self.bytes = [(x, _bytes(x), _outside(x, stepped)) for x in world.arrays]

    def _touched(self, x: np.ndarray) -> bool:
        return not self.world.changed.isdisjoint(self.near[id(x)])

    def compare_rest(self) -> None:
        """Raises where an array has changed that is no parameter, or one that was not to be stepped."""
        stepped = self.in_place or self.world.stepped
        for x, before, outside in self.bytes:
            if self._touched(x):
                continue
            now = _bytes(x)
            if stepped and outside is not None:
                before, now = before[outside], now[outside]
            if not np.array_equal(before, now):
                raise Wrong(f"an array of shape {x.shape} was written to, which is no parameter")

    def compare_all(self) -> None:
        """Raises where state or model have changed, though the call raised, or was pure, other than by an act."""
        if self.world.stepped:
            return
        if not self.world.restructured and structure(self.held) != self.built:
            raise Wrong("state or model are built in another way")
        for x, before in self.parameters:
            if not self._touched(x) and content(x) != before:
                raise Wrong(f"half a step: a parameter of shape {x.shape} has changed")
        for leaf, before in self.leaves:
            if _leaf(leaf) != before:
                raise Wrong(f"half a step: the state of {leaf.rule!r} has changed")


def _leaf(leaf: Any) -> Any:
    return id(leaf.rule), leaf.frozen, content(leaf.state)


def _bytes(x: np.ndarray) -> np.ndarray:
    data = b"" if x.dtype.hasobject else np.ndarray.view(x, np.ndarray).tobytes()
    return np.frombuffer(data, np.uint8)


def _outside(x: np.ndarray, stepped: list[np.ndarray]) -> np.ndarray | None:
    """Which bytes of `x` no step may write to; `None` for all of them. Of strided ones it is not asked."""
    meeting = [y for y in stepped if _shares(x, y)]
    if not meeting:
        return None
    outside = np.zeros(x.nbytes, bool)
    if x.flags.c_contiguous:
        outside[:] = True
        start = np.lib.array_utils.byte_bounds(np.ndarray.view(x, np.ndarray))[0]
        for y in meeting:
            low, high = np.lib.array_utils.byte_bounds(np.ndarray.view(y, np.ndarray))
            outside[max(low - start, 0) : max(high - start, 0)] = False
    return outside


def _shares(x: np.ndarray, y: np.ndarray) -> bool:
    return np.may_share_memory(np.ndarray.view(x, np.ndarray), np.ndarray.view(y, np.ndarray))
