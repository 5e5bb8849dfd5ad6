"""A value for each interval."""

from typing import Annotated

from .._parameters import FINITE, Number
from ._base import Boundaries, Many, Schedule, one_more, schedule

Values = Annotated[tuple[float, ...], Many("the values, one more than boundaries; finite", Number("", (FINITE,)))]
Cuts = Annotated[tuple[int, ...], Boundaries()]


@schedule
class Piecewise(Schedule):
    """A value for each of the intervals between some steps.

        values[i]    from t = boundaries[i-1] on, before t = boundaries[i]

    Examples:
        >>> from optirs import schedules
        >>> schedules.Piecewise((1.0, 0.5, 0.1), boundaries=(2, 4))(range(6))
        array([1. , 1. , 0.5, 0.5, 0.1, 0.1])

    Note: Elsewhere
        `torch.optim.lr_scheduler.MultiStepLR(milestones)` and `optax.piecewise_constant_schedule` have factors, not
        values, and the same boundaries.
    """

    values: Values
    boundaries: Cuts

    def __post_init__(self) -> None:
        super().__post_init__()
        one_more(f"schedules.{type(self).__name__}: values", self.values, self.boundaries)

    def _ends(self, last: int) -> tuple[float, ...]:
        return self.values
