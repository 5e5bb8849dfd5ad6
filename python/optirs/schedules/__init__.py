"""Hyper-parameters that change with the step: values to call, to draw, and to give to `optirs.Scheduled`.

A step counts from 0, the first update, as in optax and PyTorch (ParameterSchedulers.jl counts from 1): a schedule of
`steps` steps has its first value at step 0 and its last one at step `steps`, and keeps that.
"""

from ._base import Schedule
from .constant import Constant
from .cosine import Cosine
from .exponential import Exponential
from .one_cycle import OneCycle
from .piecewise import Piecewise
from .polynomial import Polynomial
from .sequence import Sequence
from .step import Step
from .warmup import Warmup

SCHEDULES: dict[str, type[Schedule]] = {
    schedule.__name__: schedule
    for schedule in (Constant, Step, Exponential, Polynomial, Cosine, Warmup, OneCycle, Piecewise, Sequence)
}
"""Every schedule by its name."""

__all__ = [
    "SCHEDULES",
    "Constant",
    "Cosine",
    "Exponential",
    "OneCycle",
    "Piecewise",
    "Polynomial",
    "Schedule",
    "Sequence",
    "Step",
    "Warmup",
]
