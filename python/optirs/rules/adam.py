"""Momentum over the root of a running mean square."""

from .._parameters import Betas, Epsilon, StepSize
from ._base import BuiltIn, builtin


@builtin
class Adam(BuiltIn):
    """Adam (Kingma and Ba 2015): momentum over the root of a running mean square.

        m = β₁ m + (1-β₁) g
        v = β₂ v + (1-β₂) |g|²
        dx = η m̂ / (√v̂ + ε)

    where t counts the steps from 1, m̂ = m/(1-β₁ᵗ) and v̂ = v/(1-β₂ᵗ).

    State:
        `m`; `v`, real; `t`, the number of steps taken.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.Adam(eta=0.1), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.8, 2.2])

    References:
        Kingma and Ba, Adam: a method for stochastic optimization, ICLR 2015, arXiv 1412.6980. Optimisers.jl, `Adam`.

    Note: Elsewhere
        The same formula in PyTorch and optax; optax has `eps_root` inside the root too.
    """

    eta: StepSize = 0.001
    beta: Betas = (0.9, 0.999)
    epsilon: Epsilon = 1e-8
