"""Every element of the gradient, clamped."""

from .._parameters import Bound
from ._base import BuiltIn, builtin


@builtin
class ClipGrad(BuiltIn):
    """Clamps every element of the gradient to [-δ, δ].

        dx = clamp(g, -δ, δ)

    NaN stays NaN. Complex parameters are an error.

    State:
        None.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.ClipGrad(delta=1.0), np.array([1.0, -2.0])
        >>> state, dx = optirs.apply(rule, optirs.init(rule, x), x, np.array([0.5, -2.0]))
        >>> dx
        array([ 0.5, -1. ])

    References:
        Optimisers.jl, `ClipGrad`.

    Note: Elsewhere
        `torch.nn.utils.clip_grad_value_`, `optax.clip`.
    """

    delta: Bound = 10.0
