"""A slow start before another schedule."""

from typing import Annotated

from .._parameters import Count
from ._base import Part, Schedule, Start, schedule

Inner = Annotated[Schedule, Part()]
Length = Annotated[int, Count("number of steps until `schedule` begins, with its step 0")]


@schedule
class Warmup(Schedule):
    """In a line to the first value of another schedule, and then that.

        start + (schedule(0) - start) t/steps    before t = steps
        schedule(t - steps)                      from there on

    With the default start, the first update is with 0.

    Examples:
        >>> from optirs import schedules
        >>> schedules.Warmup(schedules.Polynomial(1.0, steps=2), steps=4)(range(8))
        array([0.  , 0.25, 0.5 , 0.75, 1.  , 0.5 , 0.  , 0.  ])

    References:
        Goyal et al., Accurate, large minibatch SGD, 2017, arXiv 1706.02677.

    Note: Elsewhere
        `optax.warmup_cosine_decay_schedule(start, peak, steps, decay_steps)` is `Warmup(Cosine(peak, decay_steps -
        steps), steps, start)`: there, `decay_steps` counts those of the warm-up. In PyTorch, `SequentialLR` of a
        `LinearLR` and another; `LinearLR` starts at a third by default, since it cannot at 0.
    """

    schedule: Inner
    steps: Length
    start: Start = 0.0

    def _ends(self, last: int) -> tuple[float, ...]:
        return self.start, *self.schedule._ends(max(last - self.steps, 0))
