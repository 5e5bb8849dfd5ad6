"""Adam with the infinity norm."""

from .._parameters import Betas, Epsilon, StepSize
from ._base import BuiltIn, builtin


@builtin
class AdaMax(BuiltIn):
    """AdaMax (Kingma and Ba 2015): Adam with the infinity norm.

        m = β₁ m + (1-β₁) g
        u = max(β₂ u, |g|)
        dx = η/(1-β₁ᵗ) m / (u + ε)

    where t counts the steps from 1.

    State:
        `m`; `u`, real; `t`, the number of steps taken.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.AdaMax(eta=0.1), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.8, 2.2])

    References:
        Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015, arXiv 1412.6980. Optimisers.jl, `AdaMax`.

    Note: Elsewhere
        PyTorch and optax have ε inside the max.
    """

    eta: StepSize = 0.001
    beta: Betas = (0.9, 0.999)
    epsilon: Epsilon = 1e-8
