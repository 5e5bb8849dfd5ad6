"""What `train` is asked to do: checked, and the pair of state and model that it begins with."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._core import Leaf
from ..rules import Rule
from ..state import setup, update
from ..trees.tree import leaves


def start(rule: Any, model: Any, state: Any) -> tuple[Any, Any]:
    """State and model to begin with, in arrays of their own."""
    if state is None:
        if rule is None:
            raise TypeError("train: a rule is needed, or a state to resume from")
        state = setup(rule, model)
    else:
        _check_state(state)
        if rule is not None:
            _check_rules(_rules(setup(rule, model)), _rules(state))
    # A step without a gradient: nothing moves, and every array in the result is new.
    pair: tuple[Any, Any] = update(state, model, None)
    return pair


def _check_state(state: Any) -> None:
    if isinstance(state, Rule) or (isinstance(state, type) and issubclass(state, Rule)):
        raise TypeError(f"train: state is the rule {state!r}: a rule is the fourth argument, or rule=...")
    found = [leaf for _, leaf, _ in leaves(state, whole=True)]
    if any(leaf is not None for leaf in found) and not any(isinstance(leaf, Leaf) for leaf in found):
        raise TypeError(
            f"train: state must be one that setup or train returned, this {type(state).__name__} has no Leaf"
        )


def _check_rules(asked: list[Any], found: list[Any]) -> None:
    if asked != found:
        different = next((pair for pair in zip(asked, found, strict=False) if pair[0] != pair[1]), None)
        detail = f"{different[0]!r} and {different[1]!r}" if different else f"{len(asked)} and {len(found)} of them"
        raise ValueError(f"train: rule and state disagree about the rules: {detail}; leave rule out to resume")


def _rules(state: Any) -> list[Any]:
    """The rules of a state tree, in order."""
    return [leaf.rule for _, leaf, _ in leaves(state, whole=True) if isinstance(leaf, Leaf)]


def check_arguments(gradient: Any, model: Any, epochs: Any, batch_size: Any, log_every: Any) -> None:
    """Raises unless the gradient function is one, and these numbers are in their ranges."""
    if not callable(gradient):
        raise TypeError(f"train: the gradient function must be callable, got {type(gradient).__name__}")
    if callable(getattr(gradient, "pullback", None)):
        # By name: the repr of a model is all its numbers.
        name = getattr(gradient, "__name__", type(gradient).__name__)
        if callable(model) and not hasattr(model, "pullback"):
            raise TypeError(f"train takes (gradient, model, data) in this order; the first argument is a model, {name}")
        raise TypeError(f"train: {name} is not a gradient function; use optirs.supervised(...) of a loss")
    for name, value, least in (("epochs", epochs, 0), ("batch_size", batch_size, 1), ("log_every", log_every, 1)):
        if value is None and name != "epochs":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"train: {name} must be an integer, got {type(value).__name__}")
        if value < least:
            raise ValueError(f"train: {name} must be >= {least}, got {value}")


def check_switches(shuffle: Any, progress: Any) -> None:
    """Raises unless these are True or False."""
    for name, value in (("shuffle", shuffle), ("progress", progress)):
        if not isinstance(value, (bool, np.bool_)):
            hint = "; a generator is given as rng" if isinstance(value, np.random.Generator) else ""
            raise TypeError(f"train: {name} must be True or False, got {type(value).__name__}{hint}")
