"""Adam, and decay of the weights beside it."""

from dataclasses import KW_ONLY

from .._parameters import Betas, Couple, Decay, Epsilon, StepSize
from ._base import BuiltIn, builtin


@builtin
class AdamW(BuiltIn):
    """AdamW (Loshchilov and Hutter 2019): Adam, and decay of the weights beside it.

        m = β₁ m + (1-β₁) g
        v = β₂ v + (1-β₂) |g|²
        a = m̂ / (√v̂ + ε)
        dx = η (a + λ x)     if couple, else η a + λ x

    where t counts the steps from 1, m̂ = m/(1-β₁ᵗ) and v̂ = v/(1-β₂ᵗ).

    State:
        `m`; `v`, real; `t`, the number of steps taken.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.AdamW(eta=0.1, lambda_=0.5), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.7075, 2.    ])

    References:
        Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019, arXiv 1711.05101.
        Optimisers.jl, `AdamW`.

    Note: Elsewhere
        The same formula, coupled, in PyTorch (λ 0.01) and optax (λ 1e-4).
    """

    eta: StepSize = 0.001
    beta: Betas = (0.9, 0.999)
    lambda_: Decay = 0.0
    epsilon: Epsilon = 1e-8
    _: KW_ONLY
    couple: Couple = True
