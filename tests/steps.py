"""Steps of a rule on a model, and the states that they lead to."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import optirs


def stepped(
    rule: Any, model: Any, grads: list[Any], update: Callable[..., Any] = optirs.update, state: Any = None
) -> tuple[Any, Any]:
    """State and model after the steps."""
    model = copy.deepcopy(model)
    state = optirs.setup(rule, model) if state is None else state
    for grad in grads:
        state, model = update(state, model, grad)
    return state, model


def flat(state: Any) -> Iterator[dict[str, Any]]:
    """The states of the rules in a chain."""
    for own in state if isinstance(state, tuple) else [state]:
        if isinstance(own, dict):
            yield own
        elif isinstance(own, tuple):
            yield from flat(own)
