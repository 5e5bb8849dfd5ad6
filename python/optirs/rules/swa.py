"""The mean of the parameter over steps."""

from typing import ClassVar

from .._parameters import FirstSample, SampleEvery
from ._base import BuiltIn, builtin


@builtin
class Swa(BuiltIn):
    """Keeps the mean of the parameter over steps (Izmailov et al. 2018); `optirs.averaged` gives the model with it.

        x = x - dx
        average = the mean of x after the steps start+1, start+1+every, start+1+2 every, ...

    The step itself is as without it. Before the first sample, `averaged` gives a copy of the parameter.

    It lands: it stands behind the rules that make the step, and behind it only `Box`, `Lookahead`, `Ema` and `Swa`. The
    average of a 16-bit parameter is float32, of x before it is rounded; under `MixedPrecision` it is of the master.

    State:
        `average`, which starts as the parameter; `t`, the number of steps taken; `n`, how many of them are in the mean.

    Examples:
        >>> import numpy as np, optirs
        >>> rule = optirs.OptimiserChain(optirs.Descent(1.0), optirs.Swa(start=1, every=2))
        >>> model = {"w": np.array([0.0])}
        >>> state = optirs.setup(rule, model)
        >>> for _ in range(4):
        ...     state, model = optirs.update(state, model, {"w": np.array([-1.0])})
        >>> model["w"], optirs.averaged(state, model)["w"]  # the mean of 2 and 4
        (array([4.]), array([3.]))

    References:
        Izmailov, Podoprikhin, Garipov, Vetrov and Wilson, Averaging weights leads to wider optima and better
        generalization, UAI 2018, arXiv 1803.05407.

    Note: Elsewhere
        `torch.optim.swa_utils.AveragedModel`, called in the loop. optax has none.
    """

    _lands: ClassVar[bool] = True

    start: FirstSample = 0
    every: SampleEvery = 1
