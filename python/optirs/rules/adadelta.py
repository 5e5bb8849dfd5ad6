"""Steps in the units of the parameter, without a rate."""

from .._parameters import Memory, SquareEpsilon
from ._base import BuiltIn, builtin


@builtin
class AdaDelta(BuiltIn):
    """AdaDelta (Zeiler 2012): steps in the units of the parameter, without a rate.

        acc = ρ acc + (1-ρ) |g|²
        dx = g √(delta + ε) / √(acc + ε)
        delta = ρ delta + (1-ρ) |dx|²

    State:
        `acc`, the mean square of gradients, and `delta`, that of steps; both real.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.AdaDelta(epsilon=1e-4), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.9361, 2.0641])

    References:
        Zeiler, ADADELTA: an adaptive learning rate method, 2012, arXiv 1212.5701. Optimisers.jl, `AdaDelta`.

    Note: Elsewhere
        PyTorch has a rate too, of 1; PyTorch and optax have ε 1e-6.
    """

    rho: Memory = 0.9
    epsilon: SquareEpsilon = 1e-8
