"""Steps over the root of the sum of squares."""

from .._parameters import Epsilon, StepSize
from ._base import BuiltIn, builtin


@builtin
class AdaGrad(BuiltIn):
    """AdaGrad (Duchi, Hazan and Singer 2011): steps over the root of the sum of squares.

        acc = acc + |g|²          from ε
        dx = η g / (√acc + ε)

    State:
        `acc`, real.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.AdaGrad(eta=0.1), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.8293, 2.1707])

    References:
        Duchi, Hazan and Singer, Adaptive subgradient methods for online learning and stochastic optimization, JMLR 12,
        2011. Optimisers.jl, `AdaGrad`.

    Note: Elsewhere
        PyTorch starts at 0 and has ε 1e-10; optax starts at 0.1 and has ε inside the root.
    """

    eta: StepSize = 0.1
    epsilon: Epsilon = 1e-8
