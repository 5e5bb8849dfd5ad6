"""Adam whose second moment never falls."""

from .._parameters import Betas, Epsilon, StepSize
from ._base import BuiltIn, builtin


@builtin
class AMSGrad(BuiltIn):
    """AMSGrad (Reddi, Kale and Kumar 2018): Adam whose second moment never falls.

        m = β₁ m + (1-β₁) g                from ε
        v = β₂ v + (1-β₂) |g|²             from ε
        v_max = max(v_max, v)              from ε
        dx = η m / (√v_max + ε)

    State:
        `m`; `v` and `v_max`, real.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.AMSGrad(eta=0.1), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.2588, 2.7412])

    References:
        Reddi, Kale and Kumar, On the convergence of Adam and beyond, ICLR 2018, arXiv 1904.09237.
        Optimisers.jl, `AMSGrad`.

    Note: Elsewhere
        PyTorch corrects the bias of the greatest raw v; optax takes the greatest corrected one. Here, as in
        Optimisers.jl and the paper, nothing is corrected.
    """

    eta: StepSize = 0.001
    beta: Betas = (0.9, 0.999)
    epsilon: Epsilon = 1e-8
