"""Adam with Nesterov's momentum."""

from .._parameters import Betas, Epsilon, StepSize
from ._base import BuiltIn, builtin


@builtin
class NAdam(BuiltIn):
    """NAdam (Dozat 2016): Adam with Nesterov's momentum.

        m = β₁ m + (1-β₁) g
        v = β₂ v + (1-β₂) |g|²
        dx = η (β₁ m/(1-β₁ᵗ⁺¹) + (1-β₁) g/(1-β₁ᵗ)) / (√(v β₂/(1-β₂ᵗ)) + ε)

    where t counts the steps from 1.

    State:
        `m`; `v`, real; `t`, the number of steps taken.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.NAdam(eta=0.1), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.7368, 2.2632])

    References:
        Dozat, Incorporating Nesterov momentum into Adam, ICLR workshop 2016. Optimisers.jl, `NAdam`.

    Note: Elsewhere
        PyTorch has a schedule of momenta, 0.96^(0.004 t); optax has no β₂ beside v.
    """

    eta: StepSize = 0.001
    beta: Betas = (0.9, 0.999)
    epsilon: Epsilon = 1e-8
