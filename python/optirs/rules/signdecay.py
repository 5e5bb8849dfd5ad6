"""The gradient of the sum of moduli, added."""

from .._parameters import Decay
from ._base import BuiltIn, builtin


@builtin
class SignDecay(BuiltIn):
    """Adds `lambda_ * sign(x)` to the gradient: that of an L1 penalty of λ Σ|x|.

        dx = g + λ sign(x)

    where sign(0) = 0, and sign(z) = z/|z| of a complex number.

    State:
        None.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.SignDecay(lambda_=0.25), np.array([1.0, -2.0])
        >>> state, dx = optirs.apply(rule, optirs.init(rule, x), x, np.array([0.5, -2.0]))
        >>> dx
        array([ 0.75, -2.25])

    References:
        Optimisers.jl, `SignDecay`.

    Note: Elsewhere
        Neither PyTorch nor optax has one.
    """

    lambda_: Decay = 1e-3
