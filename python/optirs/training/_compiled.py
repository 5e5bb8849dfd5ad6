"""The training loop in compiled code, where nothing in it needs Python."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from .._core import Fit
from ..layers import Affine, Chain, Dense
from ..layers.gradients import Supervised
from ..layers.losses import Loss
from ..state import update
from ..trees.tree import KeyPath
from .batches import ArrayBatches
from .events import called, named

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
        """The compiled form of a training that is about to begin; None where it needs Python, for `run.reason`."""
        gradient, source = run.gradient, run.source
        if run.after_step:
            run.reason = f"callbacks run after every step: {named(run.callbacks, 'on_step_end')}"
        elif type(gradient) is not Supervised:
            run.reason = f"the gradient function is no supervised(...) of a built-in loss: {called(gradient)}"
        elif type(gradient.criterion) is not Loss:
            run.reason = f"the loss in supervised(...) is one of your own: {called(gradient.criterion)}"
        elif type(source) is not ArrayBatches:
            run.reason = "data is no tuple of arrays, but an iterable of batches"
        elif len(source.arrays) != 2:
            run.reason = f"data must be two arrays, (x, y), and has {len(source.arrays)}"
        elif not all(map(_is_ready, source.arrays)):
            run.reason = next(filter(None, map(_unready, range(2), source.arrays)))
        else:
            sets = _two(run.current)
            fit = Fit.start(gradient.criterion.__name__, sets, *source.arrays, source.batch_size)
            if isinstance(fit, Fit):
                run.reason = ""
                return cls(run, source, sets, fit)
            run.reason = _other_layer(run.current[1]) or fit
        return None

    def restarted(self) -> Compiled | None:
        """The same, going on from the training's current pair; None where that needs Python, for `run.reason`."""
        run = self.run
        self.sets, self.steps = _two(run.current), len(run.history)
        reason = self.fit.restart(self.sets)
        if not reason:
            return self
        run.reason = f"from epoch {run.epoch + 1} on: {_other_layer(run.current[1]) or reason}"
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


def _unready(index: int, array: Any) -> str:
    """Why an array of the data cannot; empty if it can."""
    if _is_ready(array):
        return ""
    if type(array) is not np.ndarray:
        return f"data[{index}] is of the class {type(array).__name__}, no plain NumPy array"
    return f"data[{index}] is {array.dtype} and larger than is converted as a whole: {array.size} elements"


DEEPEST = 100
"""So many chains within chains are run as one."""


def _other_layer(model: Any, path: tuple[Any, ...] = ()) -> str:
    """The first part of a model that is no layer of this library, and where it stands; empty if there is none."""
    where = f"the layer at {KeyPath(path)}" if path else "the model"
    if type(model) is Chain:
        if type(model.layers) is not tuple:
            return f"{where} has its layers in a {type(model.layers).__name__}, not in a tuple"
        if len(path) >= 2 * DEEPEST:
            return f"{where} is more than {DEEPEST} chains deep"
        found = (_other_layer(layer, (*path, "layers", i)) for i, layer in enumerate(model.layers))
        return next(filter(None, found), "")
    if type(model) not in (Affine, Dense):
        return f"{where} is of the class {type(model).__name__}, which is not of this library"
    for name in ("W", "b"):
        array = getattr(model, name)
        if not isinstance(array, np.ndarray):
            return f"{KeyPath((*path, name))} is {type(array).__name__}, not a NumPy array"
    return ""
