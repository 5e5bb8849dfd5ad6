"""Copies of a state and its model."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _core
from ..state import update
from ..trees.ties import tie
from ..trees.tree import leaves


def copied(state: Any, model: Any) -> tuple[Any, Any]:
    """A state and a model of the same values in arrays and Leafs of their own, ties kept.

    Arrays that cannot be written are shared, and so is what is no array of NumPy.
    """
    # A step without a gradient: nothing moves, and every array that has a Leaf is new in the result.
    state, new = update(state, model, None)
    copies: dict[tuple[int, int], list[tuple[NDArray[Any], NDArray[Any]]]] = {}
    pairs = zip(leaves(model, whole=True), leaves(new, whole=True), strict=True)
    values = [_copy(after, copies) if after is before else after for (_, before, _), (_, after, _) in pairs]
    return state, _core.unflatten(new, values, True, False)


def _copy(leaf: Any, copies: dict[tuple[int, int], list[tuple[NDArray[Any], NDArray[Any]]]]) -> Any:
    """The copy of an array; `copies` are those made before, by the memory that their originals take."""
    if not (isinstance(leaf, np.ndarray) and leaf.flags.writeable):
        return leaf
    alike = copies.setdefault(_core.span(leaf), [])
    for original, copy in alike:
        transposed = tie(original, leaf)
        if transposed is not None:
            return copy.T if transposed else copy
    with _core.Pinned("an array of the model", leaf):
        copy = np.array(leaf, subok=True)
    alike.append((leaf, copy))
    return copy
