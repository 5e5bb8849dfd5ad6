"""The training loop in compiled code, where nothing in it needs Python."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ._core import Fit
from .batches import ArrayBatches
from .gradients import Supervised
from .losses import Loss
from .state import update

if TYPE_CHECKING:
    from .train import _Run

FLOAT32 = np.dtype(np.float32)

SECONDS = 0.05
"""So often, at least, the loop looks in: for Ctrl-C and the progress bar."""

CONVERTED = 1 << 25
"""Data of another type than float32 may be converted as a whole, to 8 bytes an element, unless there is more of it."""


class Compiled:
    """A training of built-in layers, losses and rules.

    It goes back and forth between two sets of state and model: each step reads one and writes the other, so that what a
    failure has to show is always there. Nobody outside `train` sees a set before it has done its last step.
    """

    def __init__(self, run: _Run, source: ArrayBatches, sets: list[Any], fit: Fit) -> None:
        self.run, self.source, self.sets, self.fit = run, source, sets, fit
        self.steps = 0  # before the sets were made

    @classmethod
    def start(cls, run: _Run) -> Compiled | None:
        """The compiled form of a training that is about to begin; None where it needs Python."""
        gradient, source = run.gradient, run.source
        if run.after_step or type(gradient) is not Supervised or type(gradient.criterion) is not Loss:
            return None
        if type(source) is not ArrayBatches or len(source.arrays) != 2 or not all(map(_is_ready, source.arrays)):
            return None
        sets = _two(run.current)
        fit = Fit.start(gradient.criterion.__name__, sets, *source.arrays, source.batch_size)
        return None if fit is None else cls(run, source, sets, fit)

    def restarted(self) -> Compiled | None:
        """The same, going on from the training's current pair; None where that needs Python."""
        self.sets, self.steps = _two(self.run.current), len(self.run.history)
        if self.fit.restart(self.sets):
            return self
        self.close()
        return None

    def advance(self, until: int) -> None:
        """Goes on until so many epochs are complete, or, where rows are shuffled, one more."""
        source = self.source
        try:
            order = None if source.rng is None else np.asarray(source.rng.permutation(source.rows), np.int64)
            while not self.fit.run(min(until, sys.maxsize), order, SECONDS):
                self.look_in()
                if self.fit.failed is not None:
                    raise self.run.failure(self.fit.failed)
            self.look_in()
        finally:
            # Once more: Ctrl-C may have come between a step and a look, or within one.
            self.look_in()

    def close(self) -> None:
        """Drops all it holds: the object may live as long as the training, or the traceback of its error."""
        vars(self).clear()

    def accept(self) -> None:
        """The loss of the current model was found finite."""
        self.fit.accept()

    def look_in(self) -> None:
        """Makes the training show how far it has come."""
        run = self.run
        run.current, run.epoch = self.sets[self.fit.current], self.fit.epoch
        new = self.fit.losses(len(run.history))
        if new.size:
            run.history.extend(new)
            run.bar.advance(run.epoch, new[-1], new.size)
        if len(run.history) > self.steps:
            run.good = self.sets[self.fit.good]
        run.step = len(run.history) + (self.fit.failed is not None)


def _two(pair: tuple[Any, Any]) -> list[tuple[Any, Any]]:
    """A pair of state and model, and a copy of it."""
    # A step without a gradient: nothing moves, and every array in the result is new.
    return [pair, update(*pair, None)]


def _is_ready(array: Any) -> bool:
    """Whether an array can be read where it is, or converted as a whole."""
    return type(array) is np.ndarray and (array.dtype == FLOAT32 or array.size <= CONVERTED)
