"""What a call returns where nobody disturbs it: steps by the reference in float64, losses and layers by NumPy."""

import copy
from typing import Any

import numpy as np
import reference

import optirs
from optirs import rules

from .judge import Wrong, snapshot
from .roads import Road
from .worlds import World

CLOSE = {"f": {2: 2e-2, 4: 2e-4, 8: 1e-9}, "c": {8: 2e-4, 16: 1e-9}}


def expected(world: World, road: Road) -> Any:
    """What `compare` needs: for a pure update the same in place, on copies."""
    if road.function is not optirs.update:
        return None
    state, model, gradient = world.args
    try:
        both = copy.deepcopy((state, model))
    except Exception:
        return None
    try:
        return optirs.update_(*both, gradient)
    except Exception as error:
        return error


def compare(world: World, other: Any, failed: BaseException | None) -> None:
    """Raises where an update disagrees with the one in place, or a step of one array with the reference."""
    if failed is None and not isinstance(other, BaseException):
        made = snapshot(list(world.result), set())
        if _values(world.result) != _values(other):
            raise Wrong(f"update and update_ differ: {made}")
        for leaf, x, new, g in _steps(world):
            _check(leaf, x, new, g)


def _values(tree: Any) -> list[bytes]:
    from .judge import _arrays

    return [x.tobytes() for x in _arrays(tree) if not x.dtype.hasobject]


def _steps(world: World) -> list[tuple[Any, ...]]:
    """Leaf, old and new array, and gradient of the places of a dict of arrays; the reference knows one array."""
    state, model, gradient = world.args
    new = world.result[1]
    if not all(isinstance(tree, dict) for tree in (state, model, gradient, new)):
        return []
    found = []
    for key, leaf in state.items():
        x, g = model.get(key), gradient.get(key)
        shared = isinstance(x, np.ndarray) and sum(np.may_share_memory(x, y) for y in world.arrays) > 1
        alone = not shared and id(x) not in world.viewed  # gradients of one parameter at two places are added up
        if type(leaf) is optirs.Leaf and alone and isinstance(g, np.ndarray):
            found.append((leaf, np.ndarray.view(x, np.ndarray), new[key], np.ndarray.view(g, np.ndarray)))
    return found


def _check(leaf: Any, x: Any, new: Any, g: Any) -> None:
    spec = rules.spec(leaf.rule)
    if spec is None or "Scheduled" in repr(leaf.rule) or leaf.frozen or x.dtype.kind not in "fc" or not x.size:
        return
    with np.errstate(all="ignore"):
        _, dx = reference.step(spec, reference.start(spec, x), x, g, x.dtype)
    tolerance = CLOSE[x.dtype.kind][x.dtype.itemsize] * 50
    if "MixedPrecision" in repr(leaf.rule):
        tolerance = max(tolerance, 1.0)
    scale = np.maximum(np.abs(reference.wide(x)), 1)
    if not (np.abs(reference.wide(np.asarray(new)) - dx) <= tolerance * scale).all():
        raise Wrong(f"{leaf.rule!r} on {x.dtype}{x.shape} is not what the reference makes")
