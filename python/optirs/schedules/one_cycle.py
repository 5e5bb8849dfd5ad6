"""Up and down once."""

from typing import Annotated

from .._parameters import FINITE, FRACTION, POSITIVE, Number
from ._base import Schedule, Steps, Value, schedule

Share = Annotated[float, Number("share of the steps before the peak", (FRACTION,))]
Divisor = Annotated[float, Number("peak over first value", (FINITE, POSITIVE))]
FinalDivisor = Annotated[float, Number("first value over last value", (FINITE, POSITIVE))]


@schedule
class OneCycle(Schedule):
    """Up to a peak and down to nearly nothing, along half a wave each.

        first = peak/div_factor;  last = first/final_div_factor;  top = ⌊pct_start · steps⌋
        first + (peak - first) (1 - cos(π t/top))/2                     before t = top
        last + (peak - last) (1 + cos(π (t - top)/(steps - top)))/2     up to t = steps, then last

    Examples:
        >>> from optirs import schedules
        >>> schedule = schedules.OneCycle(1.0, steps=10)
        >>> schedule(0), schedule(3), schedule(10)
        (0.04, 1.0, 4e-06)

    References:
        Smith and Topin, Super-convergence, 2018, arXiv 1708.07120.

    Note: Elsewhere
        `optax.cosine_onecycle_schedule(steps, peak, pct_start, div_factor, final_div_factor)` is the same.
        `torch.optim.lr_scheduler.OneCycleLR` peaks at `pct_start * total_steps - 1` and ends at `total_steps - 1`, and
        moves the momentum against the rate (schedule `rho` or `beta` for that).
    """

    peak: Value
    steps: Steps
    pct_start: Share = 0.3
    div_factor: Divisor = 25.0
    final_div_factor: FinalDivisor = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        first = self.peak / self.div_factor
        if not (abs(first) < float("inf") and abs(first / self.final_div_factor) < float("inf")):
            raise ValueError(f"schedules.{type(self).__name__}: {self!r} does not start and end at finite values")

    def _ends(self, last: int) -> tuple[float, ...]:
        first = self.peak / self.div_factor
        return first, self.peak, first / self.final_div_factor
