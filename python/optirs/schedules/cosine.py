"""Cosine annealing."""

from ._base import End, Schedule, Start, Steps, schedule


@schedule
class Cosine(Schedule):
    """From one value to another in so many steps, along half a wave: slow at both ends.

        end + (start - end) (1 + cos(π t/steps))/2    up to t = steps, then end

    Examples:
        >>> from optirs import schedules
        >>> schedules.Cosine(1.0, steps=4)(range(6)).round(3)
        array([1.   , 0.854, 0.5  , 0.146, 0.   , 0.   ])

    References:
        Loshchilov and Hutter, SGDR: Stochastic gradient descent with warm restarts, ICLR 2017, arXiv 1608.03983.

    Note: Elsewhere
        `torch.optim.lr_scheduler.CosineAnnealingLR(T_max=steps, eta_min=end)`, which rises again after `T_max`;
        `optax.cosine_decay_schedule(start, steps, alpha)` with `alpha = end/start`; `CosAnneal` of
        ParameterSchedulers.jl, which counts steps from 1 and starts anew. Restarts are a `Sequence`.
    """

    start: Start
    steps: Steps
    end: End = 0.0

    def _ends(self, last: int) -> tuple[float, ...]:
        return self.start, self.end
