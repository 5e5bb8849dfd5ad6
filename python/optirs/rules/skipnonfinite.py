"""Steps left out when a gradient is not finite."""

from dataclasses import KW_ONLY
from typing import ClassVar

from .._parameters import GroupName, SkipLimit
from ._base import BuiltIn, builtin


@builtin
class SkipNonFinite(BuiltIn):
    """Leaves a step out if one element of the gradients of a group is not finite.

        dx = g    if all elements of the group are finite; else no step, for any Leaf of the group

    The group is as in `ClipGlobalNorm`. On a skipped step parameters, moments and counts of the group stay, bit for
    bit; only `skipped` and `consecutive` grow, and an `AccumGrad` before it is emptied. Leafs outside the group step as
    ever. The logger `optirs` says at WARNING how often, at which place and index, once the step is committed. A
    gradient that makes `consecutive` greater than `limit` raises `FloatingPointError` instead, and then nothing is
    written, the counts neither. What stands before it in a chain runs first: `ClipGlobalNorm` goes behind it, since on
    a skipped step a norm there is not asked.

    State:
        `skipped`, how many steps were left out; `consecutive`, how many of them in a row up to now.

    Examples:
        >>> import logging, numpy as np, optirs
        >>> logging.getLogger("optirs").setLevel(logging.ERROR)
        >>> rule = optirs.OptimiserChain(optirs.SkipNonFinite(limit=2), optirs.Momentum(0.1))
        >>> model = {"w": np.array([1.0, 2.0])}
        >>> state = optirs.setup(rule, model)
        >>> state, model = optirs.update(state, model, {"w": np.array([1.0, np.nan])})
        >>> model["w"], optirs.metrics(state)
        (array([1., 2.]), {'SkipNonFinite.skipped': 1.0, 'SkipNonFinite.consecutive': 1.0})
        >>> logging.getLogger("optirs").setLevel(logging.NOTSET)

    References:
        Micikevicius et al., Mixed precision training, ICLR 2018, arXiv 1710.03740, section 3.2: steps with gradients
        that overflow are left out.

    Note: Elsewhere
        `optax.apply_if_finite`, which after too many applies the step, and `GradScaler` in PyTorch, which has no limit.
    """

    _whole_step: ClassVar[bool] = True

    limit: SkipLimit = None
    _: KW_ONLY
    name: GroupName = ""
