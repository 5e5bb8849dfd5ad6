"""Adam over how far gradients are from their mean."""

from .._parameters import Betas, Epsilon, StepSize
from ._base import BuiltIn, builtin


@builtin
class AdaBelief(BuiltIn):
    """AdaBelief (Zhuang et al. 2020): Adam over how far gradients are from their mean.

        m = β₁ m + (1-β₁) g
        s = β₂ s + (1-β₂) |g - m|² + ε
        dx = η m̂ / (√ŝ + ε)

    where t counts the steps from 1, m̂ = m/(1-β₁ᵗ) and ŝ = s/(1-β₂ᵗ).

    State:
        `m`; `s`, real; `t`, the number of steps taken.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.AdaBelief(eta=0.1), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.7721, 2.2279])

    References:
        Zhuang et al., AdaBelief optimizer: adapting stepsizes by the belief in observed gradients, NeurIPS 2020,
        arXiv 2010.07468. Optimisers.jl, `AdaBelief`.

    Note: Elsewhere
        `optax.adabelief`, with an `eps_root` of its own. PyTorch has none.
    """

    eta: StepSize = 0.001
    beta: Betas = (0.9, 0.999)
    epsilon: Epsilon = 1e-16
