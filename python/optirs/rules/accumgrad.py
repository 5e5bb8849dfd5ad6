"""The mean of n gradients."""

from .._parameters import Gradients
from ._base import BuiltIn, builtin


@builtin
class AccumGrad(BuiltIn):
    """Collects `n` gradients and passes their mean on at every `n`-th step.

        accum = accum + g/n
        dx = accum, accum = 0    at every n-th step; else nothing

    In between, the rules after it do not run, their state and the parameter stay. Where a training ends in between, the
    last gradients have moved nothing: `train` says so (logger `optirs`, level INFO). They stay in the state, so that a
    training that resumes from it (`state=training.state`) goes on with them, as if there had been no end.

    State:
        `accum`; `count`, the number of gradients collected, 0 to n-1.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.AccumGrad(2), np.array([1.0])
        >>> state = optirs.init(rule, x)
        >>> for g in (1.0, 3.0):
        ...     state, dx = optirs.apply(rule, state, x, np.array([g]))
        ...     print(dx)
        None
        [2.]

    References:
        Optimisers.jl, `AccumGrad`.

    Note: Elsewhere
        `optax.MultiSteps`, whose updates are 0 in between. In PyTorch, gradients add up until `zero_grad`.
    """

    n: Gradients
