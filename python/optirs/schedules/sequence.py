"""Schedules one after the other."""

from itertools import pairwise
from typing import Annotated

from ._base import Boundaries, Many, Part, Schedule, one_more, schedule

Parts = Annotated[tuple[Schedule, ...], Many("the schedules, one more than boundaries", Part())]
Cuts = Annotated[tuple[int, ...], Boundaries()]


@schedule
class Sequence(Schedule):
    """One schedule after the other, each with steps of its own.

        schedules[i](t - boundaries[i-1])    from t = boundaries[i-1] on, before t = boundaries[i]

    Examples:
        >>> from optirs import schedules
        >>> parts = schedules.Constant(1.0), schedules.Polynomial(1.0, steps=2)
        >>> schedules.Sequence(parts, boundaries=(3,))(range(6))
        array([1. , 1. , 1. , 1. , 0.5, 0. ])

    Note: Elsewhere
        `optax.join_schedules(schedules, boundaries)`; `torch.optim.lr_scheduler.SequentialLR(schedulers, milestones)`;
        `Sequence` of ParameterSchedulers.jl, which is given lengths.
    """

    schedules: Parts
    boundaries: Cuts

    def __post_init__(self) -> None:
        super().__post_init__()
        one_more(f"schedules.{type(self).__name__}: schedules", self.schedules, self.boundaries)

    def _ends(self, last: int) -> tuple[float, ...]:
        cuts = [0, *(b for b in self.boundaries if b <= last), last + 1]
        return tuple(
            end
            for part, (first, after) in zip(self.schedules, pairwise(cuts), strict=False)
            for end in part._ends(after - 1 - first)
        )
