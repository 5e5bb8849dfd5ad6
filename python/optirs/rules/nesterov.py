"""Gradient descent with Nesterov's momentum."""

from .._parameters import Inertia, Rate
from ._base import BuiltIn, builtin


@builtin
class Nesterov(BuiltIn):
    """Gradient descent with Nesterov's momentum, at the point looked ahead to.

        dx = (1+ρ) η g - ρ² vel
        vel = ρ vel - η g

    where `dx` uses the velocity from before the step.

    State:
        `velocity`.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.Nesterov(eta=0.1, rho=0.9), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.7695, 2.922 ])

    References:
        Nesterov, A method of solving a convex programming problem with convergence rate O(1/k²), 1983.
        Optimisers.jl, `Nesterov`.

    Note: Elsewhere
        PyTorch and optax write `g + ρ buf`: the same iterates after a change of variables, while η is constant.
    """

    eta: Rate = 0.001
    rho: Inertia = 0.9
