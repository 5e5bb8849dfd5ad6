"""A value that stays."""

from ._base import Schedule, Value, schedule


@schedule
class Constant(Schedule):
    """The same value at every step.

        value

    Examples:
        >>> from optirs import schedules
        >>> schedules.Constant(0.1)(1000)
        0.1

    Note: Elsewhere
        `optax.constant_schedule`. `torch.optim.lr_scheduler.ConstantLR` is another thing: a factor for the first steps.
    """

    value: Value

    def _ends(self, last: int) -> tuple[float, ...]:
        return (self.value,)
