"""Steps over the root of a running mean square."""

from dataclasses import KW_ONLY

from .._parameters import Centred, Epsilon, Memory, StepSize
from ._base import BuiltIn, builtin


@builtin
class RMSProp(BuiltIn):
    """RMSProp (Tieleman and Hinton 2012): steps over the root of a running mean square.

        quad = ρ quad + (1-ρ) |g|²
        lin = ρ lin + (1-ρ) g             if centred, else 0
        dx = η g / (√max(quad - |lin|², 0) + ε)

    State:
        `quad`, real; and `lin` if centred.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.RMSProp(eta=0.1), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.4544, 2.5456])

    References:
        Tieleman and Hinton, Lecture 6.5 of Neural networks for machine learning, 2012.
        Graves, Generating sequences with recurrent neural networks, 2013, arXiv 1308.0850 (centred).
        Optimisers.jl, `RMSProp`; the `max` is ours: without it rounding makes the root of a negative number, or a huge
        step, on a constant gradient.

    Note: Elsewhere
        PyTorch has ρ 0.99 and η 0.01; optax puts ε inside the root.
    """

    eta: StepSize = 0.001
    rho: Memory = 0.9
    epsilon: Epsilon = 1e-8
    _: KW_ONLY
    centred: Centred = False
