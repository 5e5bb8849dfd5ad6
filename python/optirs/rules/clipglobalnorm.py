"""The gradients of a group of parameters, shortened together to a given norm."""

from dataclasses import KW_ONLY
from typing import ClassVar

from .._parameters import GroupName, NormBound, Throw
from ._base import BuiltIn, builtin


@builtin
class ClipGlobalNorm(BuiltIn):
    """Shortens the gradients of all parameters of a step, together, to a norm of at most ω.

        dx = g min(ω/‖g‖₂, 1)    where ‖g‖₂ is over the gradients of the whole group

    The group: all Leafs of one `update` whose rule holds an equal `ClipGlobalNorm`, that are not frozen and have a
    gradient, and whose step reaches it, which an `AccumGrad` before it may hold back. Give rules another `name`, and
    they are groups of their own. A tied parameter counts once, by its summed gradient. `init` and `apply` take their
    array for the whole group.

    The norm is accumulated in float64 in a fixed order. A group within ω passes bit for bit. A norm that is not finite
    raises `FloatingPointError` in the step if `throw`, naming the first place whose part of it is not finite, and
    nothing is written.

    State:
        `norm`, that of the group at the last step, before it was clipped; 0.0 at first. `optirs.metrics` shows it.

    Examples:
        >>> import numpy as np, optirs
        >>> rule = optirs.OptimiserChain(optirs.ClipGlobalNorm(1.0), optirs.Descent(1.0))
        >>> model = {"a": np.zeros(1), "b": np.zeros(1)}
        >>> state = optirs.setup(rule, model)
        >>> state, model = optirs.update(state, model, {"a": np.array([3.0]), "b": np.array([-4.0])})
        >>> model
        {'a': array([-0.6]), 'b': array([0.8])}
        >>> optirs.metrics(state)
        {'ClipGlobalNorm.norm': 5.0}

    References:
        Pascanu, Mikolov and Bengio, On the difficulty of training recurrent neural networks, 2013, arXiv 1211.5063.

    Note: Elsewhere
        `torch.nn.utils.clip_grad_norm_`, which adds 1e-6 to the norm, and `optax.clip_by_global_norm`. `ClipNorm` here
        takes the norm of each array by itself.
    """

    _whole_step: ClassVar[bool] = True

    omega: NormBound = 1.0
    _: KW_ONLY
    name: GroupName = ""
    throw: Throw = True
