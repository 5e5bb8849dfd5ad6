"""The training loop in compiled code, where nothing in it needs Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._core import Fit
from .batches import ArrayBatches
from .gradients import Supervised
from .losses import Loss
from .state import update

if TYPE_CHECKING:
    from .train import _Run

SECONDS = 0.05
"""So often, at least, the loop looks in: for Ctrl-C and the progress bar."""

CONVERTED_BYTES = 1 << 28
"""Data of another type than float32 is converted as a whole, unless there is more of it than this."""


class Compiled:
    """A training of built-in layers, losses and rules.

    It goes back and forth between two sets of state and model: each step reads one and writes the other, so that what a
    failure has to show is always there. Neither set leaves this module before the training is over: callbacks, after
    epochs, get copies.
    """

    def __init__(self, run: _Run, source: ArrayBatches, sets: list[Any], fit: Fit) -> None:
        self.run, self.source, self.sets, self.fit = run, source, sets, fit

    @classmethod
    def start(cls, run: _Run) -> Compiled | None:
        """The compiled form of a training that is about to begin; None where it needs Python."""
        gradient, source = run.gradient, run.source
        if run.after_step or type(gradient) is not Supervised or type(gradient.criterion) is not Loss:
            return None
        if type(source) is not ArrayBatches or len(source.arrays) != 2 or not all(map(_is_ready, source.arrays)):
            return None
        # A step without a gradient: nothing moves, and every array in the result is new.
        sets = [run.current, update(*run.current, None)]
        fit = Fit.start(gradient.criterion.__name__, sets, *source.arrays, source.batch_size)
        return None if fit is None else cls(run, source, sets, fit)

    def loop(self, epochs: int) -> None:
        """All epochs."""
        run, fit, source = self.run, self.fit, self.source
        try:
            while fit.epochs < epochs:
                order = None if source.rng is None else np.asarray(source.rng.permutation(source.rows), np.int64)
                before, until = len(run.history), self.until(epochs)
                while not fit.run(until, order, SECONDS):
                    self.look_in()
                    if fit.failed is not None:
                        raise run.failure(fit.failed)
                self.look_in()
                if run.log_every is not None and fit.epochs % run.log_every == 0:
                    run.log()
                    fit.accept()
                if run.after_epoch and self.tell(before):
                    return
        finally:
            # Once more: Ctrl-C may have come between a step and a look.
            self.look_in()

    def until(self, epochs: int) -> int:
        """The epoch after which Python has something to do."""
        run, done = self.run, self.fit.epochs
        if run.after_epoch:
            return done + 1
        return epochs if run.log_every is None else _next_multiple(done, run.log_every, epochs)

    def tell(self, before: int) -> bool:
        """Calls the callbacks after an epoch, which began with so many losses; whether one has asked to stop."""
        run = self.run
        # A step without a gradient: a pair that callbacks may keep, as the sets go on changing.
        run.current = update(*run.current, None)
        return run.tell(run.after_epoch, float(np.mean(run.history[before:])))

    def look_in(self) -> None:
        """Makes the training show how far it has come."""
        run, fit = self.run, self.fit
        run.current, run.good, run.epoch = self.sets[fit.current], self.sets[fit.good], fit.epoch
        new = fit.losses(len(run.history))
        if new.size:
            run.history.extend(new)
            run.bar.advance(run.epoch, new[-1], new.size)
        run.step = len(run.history) + (fit.failed is not None)


def _next_multiple(number: int, of: int, most: int) -> int:
    return min(most, (number // of + 1) * of)


def _is_ready(array: Any) -> bool:
    """Whether an array can be read as float32, or converted as a whole."""
    return type(array) is np.ndarray and (array.dtype == np.float32 or array.nbytes <= CONVERTED_BYTES)
