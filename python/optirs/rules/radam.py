"""Adam, whose adaptive part waits until its variance is known."""

from .._parameters import Betas, Epsilon, StepSize
from ._base import BuiltIn, builtin


@builtin
class RAdam(BuiltIn):
    """RAdam (Liu et al. 2020): Adam, whose adaptive part waits until its variance is known.

        m = β₁ m + (1-β₁) g
        v = β₂ v + (1-β₂) |g|²
        ρ∞ = 2/(1-β₂) - 1;  ρ = ρ∞ - 2 t β₂ᵗ/(1-β₂ᵗ)
        r = √((ρ-4)(ρ-2) ρ∞ / ((ρ∞-4)(ρ∞-2) ρ))
        dx = η r m̂ / (√v̂ + ε)     if ρ > 4, else η m̂

    where t counts the steps from 1, m̂ = m/(1-β₁ᵗ) and v̂ = v/(1-β₂ᵗ).

    State:
        `m`; `v`, real; `t`, the number of steps taken.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.RAdam(eta=0.1), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.9, 2.4])

    References:
        Liu et al., On the variance of the adaptive learning rate and beyond, ICLR 2020, arXiv 1908.03265.
        Optimisers.jl, `RAdam`.

    Note: Elsewhere
        PyTorch asks ρ > 5 and adds ε before the correction; optax asks ρ ≥ 5.
    """

    eta: StepSize = 0.001
    beta: Betas = (0.9, 0.999)
    epsilon: Epsilon = 1e-8
