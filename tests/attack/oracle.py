"""What a call returns where nobody disturbs it: steps by the reference in float64, losses and layers by NumPy."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import reference

import optirs
from optirs import rules

from .judge import Wrong, content
from .roads import Road
from .worlds import World

ROUNDINGS = 8
"""How many roundings of its type the step may be away from the reference, and its gradient from the given one."""


@dataclass(frozen=True)
class Place:
    """What is stepped at one place: its path, its Leaf, and copies of the array and its gradient."""

    path: tuple[Any, ...]
    leaf: Any
    x: np.ndarray
    g: np.ndarray


@dataclass(frozen=True)
class Expected:
    """What the other of `update` and `update_` returned or raised, if it was asked, and the steps to be compared."""

    other: Any
    places: list[Place]


def expected(world: World, road: Road) -> Expected | None:
    """What `compare` needs, before the call."""
    if road.function not in (optirs.update, optirs.update_):
        return None
    state, model, gradient = world.args
    arrays = _places(model)
    places = [place for place in _steps(state, model, gradient, ()) if _is_alone(place, model, arrays)]
    try:
        if road.in_place:
            return Expected(optirs.update(state, model, gradient), places)
        if any(_meets(x, arrays) > 1 for x in arrays):
            return Expected(None, places)  # copies would be no ties
        state, model = copy.deepcopy((state, model))
        return Expected(optirs.update_(state, model, gradient), places)
    except Exception as error:
        return Expected(error, places)


ELSEWHERE = ("Scheduled", "ClipGlobalNorm", "SkipNonFinite")
"""Rules whose step the reference does not know, or that depends on other places."""


def compare(world: World, wanted: Expected, failed: BaseException | None) -> None:
    """Raises where an update disagrees with the one in place, or a step of one array with the reference."""
    if failed is not None:
        return
    if isinstance(wanted.other, tuple) and _values(world.result) != _values(wanted.other):
        raise Wrong("update and update_ differ")
    for place in wanted.places:
        check(place.leaf.rule, place.leaf.frozen, place.x, _at(world.result[1], place.path), place.g)


def _values(tree: Any) -> list[Any]:
    return [content(x.state if type(x) is optirs.Leaf else x) for x in _places(tree)]


def _places(tree: Any) -> list[Any]:
    """The arrays and Leafs of a tree, one as often as it stands there."""
    if isinstance(tree, np.ndarray) or type(tree) is optirs.Leaf:
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    elif not isinstance(tree, list | tuple):
        tree = list(vars(tree).values()) if hasattr(tree, "__dict__") and not isinstance(tree, type) else []
    return [x for child in tree for x in _places(child)]


def _steps(state: Any, model: Any, gradient: Any, path: tuple[Any, ...]) -> Iterator[Place]:
    """The places with an array and a gradient of their own, below dicts and lists."""
    if type(state) is optirs.Leaf:
        if isinstance(model, np.ndarray) and isinstance(gradient, np.ndarray):
            yield Place(path, state, *(np.array(np.ndarray.view(x, np.ndarray)) for x in (model, gradient)))
    elif isinstance(model, dict) and isinstance(state, dict) and isinstance(gradient, dict):
        for key in model:
            yield from _steps(state.get(key), model[key], gradient.get(key), (*path, key))
    elif all(isinstance(tree, list | tuple) for tree in (state, model, gradient)):
        for i, (s, x, g) in enumerate(zip(state, model, gradient, strict=False)):
            yield from _steps(s, x, g, (*path, i))


def _is_alone(place: Place, model: Any, arrays: list[Any]) -> bool:
    """Whether no other place has elements of this array: gradients of one parameter at two places are added up."""
    x = _at(model, place.path)
    return _meets(x, arrays) == 1


def _meets(x: Any, arrays: list[Any]) -> int:
    return sum(np.may_share_memory(x, y) for y in arrays)


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def check(rule: Any, frozen: bool, x: Any, new: Any, g: Any) -> None:
    """Raises where `new` is not what the first step of `rule` makes of `x`. What is allowed is measured by the step."""
    spec = rules.spec(rule)
    if spec is None or any(name in repr(rule) for name in ELSEWHERE) or frozen or not _is_number(x.dtype) or not x.size:
        return

    def step(noise: float) -> Any:
        nudged = reference.wide(g) * (1 + noise)
        return reference.step(spec, reference.start(spec, x), x, nudged, x.dtype)[1]

    epsilon, tiny = _resolution(x.dtype)
    if spec[0] == "MixedPrecision":
        epsilon = max(epsilon, _resolution(reference.master_dtype(spec[2], reference.wide(x)))[0])
    noise = ROUNDINGS * max(epsilon, 1e-13)  # of the reference itself, where it takes differences
    with np.errstate(all="ignore"):
        made, got = step(0.0), reference.wide(np.asarray(new))
        moved = np.abs(made - reference.wide(x))
        # Where differences cancel, or a sign is taken of them, a rounding of the gradient shows as much as this.
        spread = np.maximum(*(np.abs(step(sign * noise) - made) for sign in (1, -1)))
        near = np.abs(got - made) <= epsilon * np.abs(made) + tiny + noise * moved + 2 * spread
    same = (got == made) | (np.isnan(got) & np.isnan(made))
    if not (near | same | np.isnan(spread)).all():
        raise Wrong(f"{rule!r} on {x.dtype}{x.shape} is not what the reference makes")


def _is_number(dtype: Any) -> bool:
    return dtype.kind in "fc" or dtype == ml_dtypes.bfloat16


def _resolution(dtype: Any) -> tuple[float, float]:
    """The distance of 1 from the next number, and the least number."""
    about = ml_dtypes.finfo(dtype)
    return float(about.eps), float(about.smallest_subnormal)
