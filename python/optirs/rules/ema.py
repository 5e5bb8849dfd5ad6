"""A moving average of the parameter."""

from dataclasses import KW_ONLY
from typing import ClassVar

from .._parameters import AverageMemory, WarmUp
from ._base import BuiltIn, builtin


@builtin
class Ema(BuiltIn):
    """Keeps an exponential moving average of the parameter; `optirs.averaged` gives the model with it.

        x = x - dx
        average = average + (1 - d) (x - average)

    where d = decay, and with `warmup` min(decay, (1 + t)/(10 + t)), t counting the steps from 1. The step itself is as
    without it.

    It lands: it stands behind the rules that make the step, and behind it only `Box`, `Lookahead`, `Ema` and `Swa`. The
    average of a 16-bit parameter is float32, of x before it is rounded; under `MixedPrecision` it is of the master.

    State:
        `average`, which starts as the parameter; `t`, the number of steps taken.

    Examples:
        >>> import numpy as np, optirs
        >>> rule = optirs.OptimiserChain(optirs.Descent(1.0), optirs.Ema(0.5))
        >>> model = {"w": np.array([0.0])}
        >>> state = optirs.setup(rule, model)
        >>> for _ in range(2):
        ...     state, model = optirs.update(state, model, {"w": np.array([-1.0])})
        >>> model["w"], optirs.averaged(state, model)["w"]
        (array([2.]), array([1.25]))

    References:
        Polyak and Juditsky, Acceleration of stochastic approximation by averaging, SIAM Journal on Control and
        Optimization 30, 1992. The warm-up is that of TensorFlow's `ExponentialMovingAverage` with `num_updates`.

    Note: Elsewhere
        `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn`, whose average starts as the first x that it
        sees; `optax.incremental_update`. `optax.ema` averages updates, not parameters.
    """

    _lands: ClassVar[bool] = True

    decay: AverageMemory = 0.999
    _: KW_ONLY
    warmup: WarmUp = False
