"""The gradient of half the sum of squares, added."""

from .._parameters import Decay
from ._base import BuiltIn, builtin


@builtin
class WeightDecay(BuiltIn):
    """Adds `lambda_ * x` to the gradient: that of an L2 penalty of λ/2 Σ|x|².

        dx = g + λ x

    State:
        None.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.WeightDecay(lambda_=0.5), np.array([1.0, -2.0])
        >>> state, dx = optirs.apply(rule, optirs.init(rule, x), x, np.array([0.5, -2.0]))
        >>> dx
        array([ 1., -3.])

    References:
        Optimisers.jl, `WeightDecay`.

    Note: Elsewhere
        `weight_decay=` in PyTorch's optimisers; `optax.add_decayed_weights`.
    """

    lambda_: Decay = 5e-4
