"""The sign of a momentum that looks ahead."""

from .._parameters import LionBetas, StepSize
from ._base import BuiltIn, builtin


@builtin
class Lion(BuiltIn):
    """Lion (Chen et al. 2023): the sign of a momentum that looks ahead.

        dx = η sign(β₁ m + (1-β₁) g)
        m = β₂ m + (1-β₂) g

    where sign(0) = 0, and sign(z) = z/|z| of a complex number.

    State:
        `m`.

    Examples:
        >>> import numpy as np, optirs
        >>> rule, x = optirs.Lion(eta=0.1), np.array([1.0, 2.0])
        >>> state = optirs.init(rule, x)
        >>> for _ in range(2):
        ...     state, dx = optirs.apply(rule, state, x, np.array([0.5, -2.0]))
        ...     x = x - dx
        >>> x.round(4)
        array([0.8, 2.2])

    References:
        Chen et al., Symbolic discovery of optimization algorithms, 2023, arXiv 2302.06675. Optimisers.jl 0.4.8 has β₂
        and 1-β₂ exchanged in the second equation, which makes it sign descent; this is the paper's form and its β₂.

    Note: Elsewhere
        `optax.lion` is this and a decay of 1e-3. PyTorch has none.
    """

    eta: StepSize = 0.001
    beta: LionBetas = (0.9, 0.99)
