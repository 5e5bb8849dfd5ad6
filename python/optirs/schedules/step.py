"""Decay in steps."""

from ._base import Every, Factor, Schedule, Start, schedule


@schedule
class Step(Schedule):
    """Multiplied by a factor every so many steps.

        start · factor^⌊t/every⌋

    With a factor above 1 it grows, up to the greatest float.

    Examples:
        >>> from optirs import schedules
        >>> schedules.Step(1.0, factor=0.5, every=2)(range(6))
        array([1.  , 1.  , 0.5 , 0.5 , 0.25, 0.25])

    Note: Elsewhere
        `torch.optim.lr_scheduler.StepLR(step_size=every, gamma=factor)`;
        `optax.exponential_decay(start, every, factor, staircase=True)`; `Step(start, factor, every)` of
        ParameterSchedulers.jl, which counts steps from 1.
    """

    start: Start
    factor: Factor
    every: Every

    def _ends(self, last: int) -> tuple[float, ...]:
        return self.start, self(last)
