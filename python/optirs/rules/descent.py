"""Gradient descent."""

from .._parameters import Rate
from ._base import BuiltIn, builtin


@builtin
class Descent(BuiltIn):
    """Gradient descent: `x - eta * gradient`.

        dx = η g

    State:
        None.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.Descent(eta=0.5), np.array([1.0, -2.0])
        >>> state, dx = optirs.apply(rule, optirs.init(rule, x), x, np.array([0.5, -2.0]))
        >>> dx
        array([ 0.25, -1.  ])

    References:
        Optimisers.jl, `Descent`.

    Note: Elsewhere
        `torch.optim.SGD` without momentum, `optax.sgd`.
    """

    eta: Rate = 0.1
