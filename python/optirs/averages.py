"""Models with averages in the place of their parameters."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _core
from ._core import Leaf
from ._rounding import store
from .rules import Ema, Lookahead, Rule, Swa, is_built_in, parent, with_states
from .state import leafs
from .trees.ties import Parameter, origins, parameters

Array = NDArray[Any]

_SLOTS: dict[type[Any] | None, str] = {Ema: "average", Swa: "average", Lookahead: "slow"}
"""The rules that keep an average, and what it is called in their state."""


def averaged(state: Any, model: Any) -> Any:
    """The model with the averages that `Ema`, `Swa` and `Lookahead` keep in the place of its parameters.

    Args:
        state: What `setup` or the last `update` returned.
        model: The model that belongs to it.

    Returns:
        A model of fresh arrays of the parameters' types and memory orders, ties kept; of several averages in one chain
        the last. `Swa` has none before its first sample, and then it is a copy of the parameter. Averages of 16-bit
        parameters, and those under `MixedPrecision`, are rounded once. What has no average is shared with `model`.

    Raises:
        ValueError: If there is no average at all, or structures, shapes or ties of state and model differ; the text
            names the place and both sides.
        TypeError: If something is of the wrong kind, or the arguments are in another order.
        RuntimeError: If an `update_` in another thread uses the state.

    Examples:
        >>> import numpy as np, optirs
        >>> rule = optirs.OptimiserChain(optirs.Descent(1.0), optirs.Ema(0.75))
        >>> model = {"w": np.array([0.0, 4.0])}
        >>> state = optirs.setup(rule, model)
        >>> state, model = optirs.update(state, model, {"w": np.array([-1.0, 4.0])})
        >>> model["w"], optirs.averaged(state, model)["w"]
        (array([1., 0.]), array([0.25, 3.  ]))

    In PyTorch, the `module` of `torch.optim.swa_utils.AveragedModel`.
    """
    _check_arguments(state, model)
    _, own = leafs(state, "averaged")
    _core.gradients(state, model, None)  # refuses what `update` does
    _, found, _ = parameters(model)
    at = {path: leaf for path, leaf, _ in _core.flatten(state, True) if isinstance(leaf, Leaf)}
    whole, places = origins(model, found)
    with (
        _core.Hold([leaf for _, leaf in own]),  # all of one step
        _core.Pinned("averaged: an array of the model", *(p.array for p in found)),
    ):
        averages = [_average(p, at) for p in found]
    if not any(average is not None for average in averages):
        raise ValueError("averaged: no rule in this state keeps an average; Ema, Swa and Lookahead do")
    transposes: dict[int, Array] = {}  # each once: what stands twice holds one and the same
    values: list[Any] = []
    for leaf, place in zip(whole, places, strict=True):
        average = None if place is None else averages[place[0]]
        if average is not None and place is not None and place[1]:
            average = transposes.setdefault(place[0], average.T)
        values.append(leaf if average is None else average)
    return _core.unflatten(model, values, True, False)


def _check_arguments(state: Any, model: Any) -> None:
    """Raises where a rule stands for the state, or a state for the model."""
    if isinstance(state, Rule):
        raise TypeError(
            f"averaged takes (state, model), and the first is the rule {state!r}: "
            "state = optirs.setup(rule, model) makes the state"
        )
    if _has_leaf(model):
        both = _has_leaf(state)
        how = ", but the second argument is a state, too" if both else " in this order; the second is the state here"
        raise TypeError(f"averaged takes (state, model){how}")


def _has_leaf(tree: Any) -> bool:
    return any(isinstance(leaf, Leaf) for _, leaf, _ in _core.flatten(tree, True))


def _average(parameter: Parameter, at: dict[tuple[Any, ...], Leaf]) -> Array | None:
    """The average of a parameter as an array like it, if one of its places in `at` has a Leaf that keeps one."""
    places = [(path, transposed) for path, transposed in parameter.places if path in at]
    if not places:
        return None
    path, transposed = places[0]
    leaf = at[path]
    for other, _ in places[1:]:
        if at[other] is not leaf:
            raise ValueError(
                f"{path} and {other} are one parameter in the model, but two in the state: make the state of this "
                "model with setup, or give each place an array of its own"
            )
    kept: tuple[str, dict[str, Any]] | None = None
    for rule, own in with_states(leaf.rule, leaf.state):
        slot = _SLOTS.get(parent(rule)) if is_built_in(rule) else None
        kept = kept if slot is None else (slot, own)  # the last one
    if kept is None:
        return None
    slot, own = kept
    array = np.asarray(parameter.array)
    new = np.empty_like(array)
    if own.get("n") == 0:  # no sample yet
        new[...] = array
    else:
        store(own[slot].T if transposed else own[slot], new)
    return new
