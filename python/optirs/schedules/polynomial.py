"""From one value to another by a power."""

from typing import Annotated

from .._parameters import FINITE, POSITIVE, Number
from ._base import End, Schedule, Start, Steps, schedule

Power = Annotated[float, Number("exponent; 1 is a line", (FINITE, POSITIVE))]


@schedule
class Polynomial(Schedule):
    """From one value to another in so many steps, by a power of what is left of them; a line by default.

        end + (start - end) (1 - t/steps)^power    up to t = steps, then end

    Examples:
        >>> from optirs import schedules
        >>> schedules.Polynomial(1.0, steps=4)(range(6))
        array([1.  , 0.75, 0.5 , 0.25, 0.  , 0.  ])
        >>> schedules.Polynomial(1.0, steps=4, end=0.2, power=2.0)(2)
        0.4

    Note: Elsewhere
        `torch.optim.lr_scheduler.PolynomialLR(total_iters=steps, power)`, whose end is 0, and `LinearLR`;
        `optax.polynomial_schedule(start, end, power, steps)`; `Poly(start, degree, steps)` of ParameterSchedulers.jl,
        which counts steps from 1.
    """

    start: Start
    steps: Steps
    end: End = 0.0
    power: Power = 1.0

    def _ends(self, last: int) -> tuple[float, ...]:
        return self.start, self.end
