"""The training loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._core import Recycling
from ..metrics import metrics
from ..state import update
from ._collected import tell_collected
from ._compiled import Compiled
from ._start import check_arguments, check_switches, start
from .batches import Batch, Batches, batches, mean_over
from .events import HOOKS, Callback, Event, hooked, hooks
from .history import History
from .progress import Progress

logger = logging.getLogger("optirs")


@dataclass(frozen=True)
class Training:
    """What `train` returns.

    Attributes:
        model: The trained model; shares no trainable array with the one given to `train`.
        state: The optimiser state that belongs to it: `train(..., state=training.state)` goes on.
        history: The losses, a `History`.
        interrupted: Whether Ctrl-C ended the training early.
        reason: Why the loop, or from some epoch on the rest of it, ran in Python; "" if all of it was compiled. Of a
            training without a step, which of both it would have been.
        compiled: Whether all of it was: `reason` is "".
    """

    model: Any
    state: Any
    history: History
    interrupted: bool = False
    reason: str = ""

    @property
    def compiled(self) -> bool:
        """Whether the compiled loop ran, from the first step to the last."""
        return not self.reason


class NonFiniteLossError(FloatingPointError):
    """The loss of a training became infinite or NaN.

    Attributes:
        model, state: The last model whose loss was finite (or the one training began with), and its state.
        history: The losses up to there.
        epoch, step: Where it happened, from 1.
        loss: The offending value.
    """

    model: Any
    state: Any
    history: History
    epoch: int
    step: int
    loss: float

    @classmethod
    def _at(cls, run: _Run, loss: float) -> NonFiniteLossError:
        # Not in `__init__`, which pickle calls with the text alone before it restores the attributes.
        error = cls(f"train: the loss is {loss} in epoch {run.epoch}, step {run.step}")
        error.state, error.model = run.good
        error.history, error.epoch, error.step, error.loss = run.history, run.epoch, run.step, loss
        return error


def train(
    gradient: Callable[..., tuple[Any, Any]],
    model: Any,
    data: Any,
    rule: Any = None,
    *,
    epochs: int = 1,
    batch_size: int | None = None,
    shuffle: bool = False,
    rng: np.random.Generator | int | None = None,
    state: Any = None,
    log_every: int | None = None,
    callbacks: Iterable[Callback] = (),
    progress: bool = False,
) -> Training:
    """Trains a model: for every batch `loss, grad = gradient(model, *batch)`, then one `update`.

    With `supervised` of a built-in loss, layers of this library, compiled rules, arrays as data and no callbacks after
    steps the loop itself is compiled and runs without the GIL; the answer has the same bits. `Training.compiled` tells
    whether it was, and `Training.reason` why not.

    Neither `model` nor `state` is changed. Ctrl-C ends the training and returns what has been trained so far.

    Args:
        gradient: Gradient function `(model, *batch) -> (loss, gradient)`, e.g. `supervised(mse)`. For the log its
            method `loss(model, *batch)` is called, if it has one.
        model: The model to begin with.
        data: A tuple of arrays with the same first dimension, or an iterable of batches, read anew each epoch. An array
            is whatever gives rows by position: of pandas, SciPy's sparse ones and others, too. `gradient` gets rows of
            the array's own type.
        rule: A rule, or a function of key path and array, as `setup` takes it.
        epochs: How many times the data is gone through.
        batch_size: Rows a step; by default all of them. The last batch of an epoch is what is left.
        shuffle: Whether the rows are permuted in every epoch.
        rng: Generator for the shuffling; by default a new one.
        state: Optimiser state to resume from; `rule` may then be left out, and must be equal to the state's if given.
        log_every: After every so many epochs the loss of the updated model on the data is logged (logger `optirs`,
            level INFO) and kept in `history.logged`. The loss is the mean over the rows. The log has the `metrics` of
            the state, too.
        callbacks: Functions called after every step with an `Event`; `event.stop()` ends the training. What they
            return is ignored. An object is called by its methods `on_step_end(event)` and `on_epoch_end(event)`, as
            far as it has them: `HeldOut` and `EarlyStopping` are two.
        progress: Whether a bar is drawn on standard error, by `rich` (extra `progress`). Where that is no terminal,
            nothing is drawn, and `rich` is not needed.

    Raises:
        FloatingPointError: If the loss is not finite. The exception has the last good `model` and `state`, the
            `history`, `epoch` and `step`.
        ValueError: If sizes do not fit, the data has no batch, it is an iterator that would have to be read more than
            once, or `rule` is not the state's.
        TypeError: If an argument is of the wrong kind.
        ImportError: If a bar is to be drawn, and `rich` is missing.

    Examples:
        >>> import numpy as np, optirs
        >>> x = np.array([[0.0], [1.0], [2.0]])
        >>> model = optirs.Affine(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
        >>> result = optirs.train(optirs.supervised(optirs.mse), model, (x, 2 * x), optirs.Descent(0.1), epochs=500)
        >>> print(result.model.W.round(3), len(result.history), result.history[0])
        [[2.]] 500 6.666666666666667

    Source: the training loop of the Optimisers.jl tutorial.
    """
    check_arguments(gradient, model, epochs, batch_size, log_every)
    check_switches(shuffle, progress)
    epochs, log_every = int(epochs), None if log_every is None else int(log_every)
    readings = epochs if log_every is None else epochs + epochs // log_every
    source = batches(data, None if batch_size is None else int(batch_size), shuffle, rng, readings)
    run = _Run(gradient, source, start(rule, model, state), log_every, hooked(callbacks))
    interrupted = False
    try:
        with Progress(progress, epochs, source.steps()) as run.bar, Recycling():
            run.loop(epochs)
    except KeyboardInterrupt:
        interrupted = True
        run.complete()
        logger.info("interrupted in epoch %d, after %d steps", run.epoch, len(run.history))
    state, model = run.current
    tell_collected(state)
    return Training(model, state, run.history, interrupted, run.reason)


class _Run:
    """One training under way.

    In Python, state, model, and the number and loss of their step change together, in one assignment after the last
    call, so that an interrupt finds what belongs together; the compiled loop shows all of it anew at its end.
    `update` is pure, so `good` stays as it was when its loss was finite.
    """

    def __init__(
        self,
        gradient: Callable[..., tuple[Any, Any]],
        source: Batches,
        start: tuple[Any, Any],
        log_every: int | None,
        callbacks: list[Callback],
    ) -> None:
        self.gradient, self.source, self.log_every, self.callbacks = gradient, source, log_every, callbacks
        self.after_step, self.after_epoch = (hooks(callbacks, hook) for hook in HOOKS)
        self.current = self.good = start
        self.history = History()
        self.epoch = self.step = self.done = 0
        self.loss = math.nan
        self.reason = "it was interrupted before it began"
        self.bar: Progress

    def loop(self, epochs: int) -> None:
        compiled = Compiled.start(self)
        try:
            self.go_on(epochs, compiled)
        finally:
            if compiled is not None:
                compiled.close()

    def go_on(self, epochs: int, compiled: Compiled | None) -> None:
        while self.epoch < epochs:
            before = len(self.history)
            if compiled is not None:
                compiled.advance(self.until(epochs))
            elif self.one_epoch():
                return
            if self.log_every is not None and self.epoch % self.log_every == 0:
                self.log()
                if compiled is not None and self.good is self.current:
                    compiled.accept()
            if self.after_epoch:
                if self.tell(self.after_epoch, float(np.mean(self.history[before:]))):
                    return
                if compiled is not None and self.epoch < epochs:
                    # Callbacks may keep what they have seen, or change it: `adjust_` a state. So on from a copy of it.
                    self.current = update(*self.current, None)
                    compiled = compiled.restarted()

    def until(self, epochs: int) -> int:
        """The epoch after which there is something to do beside training."""
        if self.after_epoch:
            return self.epoch + 1
        return epochs if self.log_every is None else min(epochs, (self.epoch // self.log_every + 1) * self.log_every)

    def one_epoch(self) -> bool:
        """One epoch in Python; whether a callback has asked to stop."""
        self.epoch += 1
        for batch in self.source.epoch():  # noqa: SIM110 - a generator makes another error of StopIteration
            if self.one_step(batch):
                return True
        return False

    def one_step(self, batch: Batch) -> bool:
        """One update; whether a callback has asked to stop."""
        self.step += 1
        state, model = self.current
        loss, grad = _loss_and_gradient(self.gradient(model, *batch))
        self.check(loss)
        self.current, self.done, self.loss = update(state, model, grad), self.step, loss
        self.history.append(loss)
        self.bar.advance(self.epoch, loss)
        return bool(self.after_step) and self.tell(self.after_step, loss)

    def complete(self) -> None:
        """Adds the loss of the last step to the history, if an interrupt came between the two."""
        if len(self.history) < self.done:
            self.history.append(self.loss)

    def tell(self, hooks: list[Callable[[Event], object]], loss: float) -> bool:
        """Calls the hooks; whether one of them has asked to stop."""
        state, model = self.current
        event = Event(self.epoch, self.step, loss, model, state)
        for hook in hooks:
            hook(event)
        return event.stopped

    def check(self, loss: float) -> None:
        """Remembers the current model as good, or raises."""
        if not math.isfinite(loss):
            raise self.failure(loss)
        self.good = self.current

    def failure(self, loss: float) -> NonFiniteLossError:
        """The error of a loss that is not finite."""
        return NonFiniteLossError._at(self, loss)

    def log(self) -> None:
        loss = self.mean_loss()
        if not math.isfinite(loss):
            raise self.failure(loss)
        if not self.after_epoch:  # which may yet change the model
            self.good = self.current
        if logger.isEnabledFor(logging.INFO):
            logger.info("epoch %d: loss %.8g%s", self.epoch, loss, _shown(self.current[0]))
        self.history.logged.append((self.epoch, loss))

    def mean_loss(self) -> float:
        """The loss of the current model on the data: the mean over the batches, weighted by their rows."""
        _, model = self.current
        loss_only = getattr(self.gradient, "loss", None)
        if loss_only is None:
            return mean_over(self.source, lambda *batch: _loss_and_gradient(self.gradient(model, *batch))[0])
        return mean_over(self.source, lambda *batch: loss_only(model, *batch))


def _loss_and_gradient(answer: Any) -> tuple[float, Any]:
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise TypeError(f"train: the gradient function must return (loss, gradient), got {type(answer).__name__}")
    loss, grad = answer
    try:
        if isinstance(loss, str):
            raise TypeError("text is no number, also where it reads like one")
        return float(loss), grad
    except (TypeError, ValueError) as error:
        kind = type(loss).__name__
        raise TypeError(f"train: the gradient function must return (loss, gradient), the loss is {kind}") from error


def _shown(state: Any) -> str:
    """The metrics of a state, behind the loss in the log."""
    try:
        found = metrics(state)
    except ValueError as error:  # groups that lack names, which is no reason to end a training
        return f" ({error})"
    return "".join(f", {name} {value:.8g}" for name, value in found.items())
