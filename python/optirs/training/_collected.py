"""What an `AccumGrad` has collected when a training ends."""

import logging
from collections.abc import Iterator
from typing import Any

from .._core import Leaf
from ..rules import AccumGrad, Rule, with_states
from ..trees.tree import leaves

logger = logging.getLogger("optirs")


def tell_collected(state: Any) -> None:
    """Logs, once for each number of them, gradients in a state that no step has used."""
    if not logger.isEnabledFor(logging.INFO):
        return
    found = [leaf for _, leaf, _ in leaves(state, whole=True) if isinstance(leaf, Leaf)]
    for count, n in dict.fromkeys(pair for leaf in found for pair in _collected(leaf.rule, leaf.state)):
        logger.info(
            "AccumGrad holds %d of %d gradients that no step has used: they stay in the state, and a training that "
            "resumes from it goes on with them",
            count,
            n,
        )


def _collected(rule: Rule, state: Any) -> Iterator[tuple[int, int]]:
    """Each AccumGrad in `rule` that holds gradients: how many, and of how many."""
    for each, own in with_states(rule, state):
        if isinstance(each, AccumGrad) and own["count"]:
            yield own["count"], each.n
