"""Exponential decay."""

from typing import Annotated

from .._parameters import FINITE, Number
from ._base import Every, Factor, OrNone, Schedule, Start, schedule

Limit = Annotated[float | None, OrNone(Number("value beyond which it does not go", (FINITE,)))]


@schedule
class Exponential(Schedule):
    """Exponential decay, or growth if the factor is above 1.

        start · factor^(t/every), as far as limit

    Without a limit decay ends at 0, and growth at the greatest float.

    Examples:
        >>> from optirs import schedules
        >>> schedules.Exponential(1.0, factor=0.5)(range(4))
        array([1.   , 0.5  , 0.25 , 0.125])
        >>> schedules.Exponential(1e-6, factor=10.0, every=100, limit=1.0)(300)
        0.001

    Note: Elsewhere
        `torch.optim.lr_scheduler.ExponentialLR(gamma=factor)`;
        `optax.exponential_decay(start, every, factor, end_value=limit)`; `Exp(start, factor)` of
        ParameterSchedulers.jl, which counts steps from 1.
    """

    start: Start
    factor: Factor
    every: Every = 1
    limit: Limit = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.limit is None or self.factor == 1:
            return
        towards_zero = self.factor < 1
        near, far = (self.limit, self.start) if towards_zero else (self.start, self.limit)
        if not min(0.0, far) <= near <= max(0.0, far):
            side = "0 and start" if towards_zero else "start and infinity"
            name = f"schedules.{type(self).__name__}: limit"
            raise ValueError(f"{name} must be between {side} for factor {self.factor}, got {self.limit}")

    def _ends(self, last: int) -> tuple[float, ...]:
        return self.start, self(last)
