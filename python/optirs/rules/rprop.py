"""Steps from the signs of the gradient alone."""

from .._parameters import Factors, FirstStep, Limits
from ._base import BuiltIn, builtin


@builtin
class Rprop(BuiltIn):
    """Rprop (Riedmiller and Braun 1993): steps from the signs of the gradient alone. For full batches.

        step = min(step ℓ₂, Γ₂)           where g has the sign of the stored g
        step = max(step ℓ₁, Γ₁), g = 0    where it has the other sign
        dx = step sign(g);  stored g = g

    The step starts at η. Where either gradient is 0 it stays. Complex parameters are an error.

    State:
        `g`, the last gradient, 0 where its sign had changed; `step`, the size of each element's step.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.Rprop(eta=0.1), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.78, 2.22])

    References:
        Riedmiller and Braun, A direct adaptive method for faster backpropagation learning, 1993.
        Optimisers.jl, `Rprop`.

    Note: Elsewhere
        `torch.optim.Rprop` has η 0.01.
    """

    eta: FirstStep = 1e-3
    ell: Factors = (0.5, 1.2)
    gamma: Limits = (1e-6, 50.0)
