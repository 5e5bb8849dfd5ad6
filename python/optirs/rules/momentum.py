"""Gradient descent with momentum."""

from .._parameters import Inertia, Rate
from ._base import BuiltIn, builtin


@builtin
class Momentum(BuiltIn):
    """Gradient descent with momentum (Polyak 1964).

        vel = ρ vel + η g
        dx = vel

    State:
        `velocity`, the last step.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.Momentum(eta=0.1, rho=0.9), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.855, 2.58 ])

    References:
        Polyak, Some methods of speeding up the convergence of iteration methods, 1964. Optimisers.jl, `Momentum`.

    Note: Elsewhere
        PyTorch and optax keep `buf = ρ buf + g` and step by `η buf`: the same iterates while η is constant.
    """

    eta: Rate = 0.01
    rho: Inertia = 0.9
