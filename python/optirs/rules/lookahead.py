"""Slow weights that follow the fast ones from time to time."""

from typing import ClassVar

from .._parameters import SlowEvery, SlowShare
from ._base import BuiltIn, builtin


@builtin
class Lookahead(BuiltIn):
    """Lookahead (Zhang et al. 2019): slow weights follow x, which at every k-th step goes back to them.

        x = x - dx
        x = slow = slow + α (x - slow)    at every k-th step

    It lands: it stands behind the rules that make the step, and behind it only `Box`, `Lookahead`, `Ema` and `Swa`.
    Moments of the rules before it are kept. `optirs.averaged` gives the model with the slow weights.

    State:
        `slow`, which starts as the parameter; `t`, the number of steps taken.

    Examples:
        >>> import numpy as np, optirs
        >>> rule = optirs.OptimiserChain(optirs.Descent(1.0), optirs.Lookahead(k=2, alpha=0.5))
        >>> model = {"w": np.array([0.0])}
        >>> state = optirs.setup(rule, model)
        >>> for _ in range(2):
        ...     state, model = optirs.update(state, model, {"w": np.array([-1.0])})
        ...     print(model["w"], optirs.averaged(state, model)["w"])
        [1.] [0.]
        [1.] [1.]

    References:
        Zhang, Lucas, Hinton and Ba, Lookahead optimizer: k steps forward, 1 step back, NeurIPS 2019, arXiv 1907.08610.

    Note: Elsewhere
        `optax.lookahead`, on pairs of fast and slow parameters. PyTorch has none.
    """

    _lands: ClassVar[bool] = True

    k: SlowEvery = 6
    alpha: SlowShare = 0.5
