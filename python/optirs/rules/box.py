"""Parameters kept between two bounds."""

import math
from typing import ClassVar

from .._parameters import Lower, Upper
from ._base import BuiltIn, builtin


@builtin
class Box(BuiltIn):
    """Keeps every element of the parameter between two bounds: projected gradient descent.

        x = min(max(x - dx, lower), upper)

    It lands: it stands behind the rules that make the step, and behind it only `Box`, `Lookahead`, `Ema` and `Swa`. The
    bounds are rounded to the parameter's type. NaN stays NaN. A complex parameter is a `TypeError` at `setup`. One that
    starts outside the bounds comes in at its first step.

    State:
        None.

    Examples:
        >>> import numpy as np, optirs
        >>> rule = optirs.OptimiserChain(optirs.Descent(1.0), optirs.Box(lower=0.0))
        >>> model = {"w": np.array([1.0, 2.0])}
        >>> state = optirs.setup(rule, model)
        >>> optirs.update(state, model, {"w": np.array([0.5, 3.0])})[1]
        {'w': array([0.5, 0. ])}

    References:
        Goldstein, Convex programming in Hilbert space, Bulletin of the AMS 70, 1964. Levitin and Polyak, Constrained
        minimization methods, USSR Computational Mathematics and Mathematical Physics 6, 1966.

    Note: Elsewhere
        `optax.projections.projection_box`, and `optax.keep_params_nonnegative` for lower = 0. In PyTorch,
        `p.clamp_(lower, upper)` after the step.
    """

    _lands: ClassVar[bool] = True

    lower: Lower = -math.inf
    upper: Upper = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lower < self.upper:
            name = type(self).__name__
            raise ValueError(f"{name}: lower must be < upper, got lower {self.lower} and upper {self.upper}")
