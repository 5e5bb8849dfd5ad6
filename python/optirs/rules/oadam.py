"""Optimistic Adam."""

from .._parameters import Betas, Epsilon, StepSize
from ._base import BuiltIn, builtin


@builtin
class OAdam(BuiltIn):
    """Optimistic Adam (Daskalakis et al. 2018): twice this step of Adam, less the previous one. For games.

        m = β₁ m + (1-β₁) g
        v = β₂ v + (1-β₂) |g|²
        new = η m̂ / (√v̂ + ε)
        dx = 2 new - term;  term = new

    where t counts the steps from 1, m̂ = m/(1-β₁ᵗ) and v̂ = v/(1-β₂ᵗ).

    State:
        `m`; `v`, real; `term`, the last step of Adam; `t`, the number of steps taken.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.OAdam(eta=0.1), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.7, 2.3])

    References:
        Daskalakis et al., Training GANs with optimism, ICLR 2018, arXiv 1711.00141. Optimisers.jl, `OAdam`.

    Note: Elsewhere
        `optax.optimistic_adam`, with other defaults. PyTorch has none.
    """

    eta: StepSize = 0.001
    beta: Betas = (0.5, 0.9)
    epsilon: Epsilon = 1e-8
