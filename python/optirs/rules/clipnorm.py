"""The whole gradient of an array, shortened to a given norm."""

from dataclasses import KW_ONLY

from .._parameters import NormBound, Order, Throw
from ._base import BuiltIn, builtin


@builtin
class ClipNorm(BuiltIn):
    """Shortens the gradient of each array to a norm of at most ω.

        dx = g min(ω/‖g‖ₚ, 1)

    The norm is over the whole array, as `numpy.linalg.norm` defines it for vectors, accumulated in float64 in a fixed
    order, also where powers of the elements are beyond float64; 0 for an empty array. One that is not finite raises
    `FloatingPointError` in the step if `throw`: an element is not finite, or the norm itself is beyond float64. A
    gradient within ω passes bit for bit.

    State:
        None.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.ClipNorm(omega=1.0), np.array([1.0, -2.0])
        >>> state, dx = optirs.apply(rule, optirs.init(rule, x), x, np.array([3.0, -4.0]))
        >>> dx
        array([ 0.6, -0.8])

    References:
        Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, 2013, arXiv 1211.5063.
        Optimisers.jl, `ClipNorm`.

    Note: Elsewhere
        `torch.nn.utils.clip_grad_norm_` and `optax.clip_by_global_norm` take the norm over all parameters together;
        `optax.clip_by_block_rms` is per array, with the root mean square.
    """

    omega: NormBound = 10.0
    p: Order = 2.0
    _: KW_ONLY
    throw: Throw = True
