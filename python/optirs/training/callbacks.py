"""Callbacks of `train`: a held-out set, and stopping early."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._plot import new_axes
from ..metrics import not_taken
from ._copy import copied
from .batches import batches, mean_over
from .events import Event

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger("optirs")

Hook = Callable[[Event], object]

ALWAYS = ("loss", "metric")
"""What `EarlyStopping` can watch of its own; any other name is one of `optirs.metrics`."""

_MISSING: Any = object()


class Evaluation(NamedTuple):
    """One line of `HeldOut.results`: where it was taken, the loss, and the metric (None without one)."""

    epoch: int
    step: int
    loss: float
    metric: float | None


class HeldOut:
    """A callback of `train` that evaluates the model on data that it is not trained on.

    Args:
        loss: The gradient function that `train` was given, or any function `(model, *batch) -> loss`. Of a gradient
            function that has a method `loss(model, *batch)`, as `supervised` makes them, that is called.
        data: As for `train`: a tuple of arrays with the same first dimension, or an iterable of batches.
        metric: Another function `(model, *batch) -> number`, such as the accuracy; by default none.
        every: An evaluation takes place after every so many epochs or steps.
        unit: "epoch" or "step". After epochs the loop of `train` may be a compiled one all the same, after steps not.
        batch_size: Rows at a time; by default all of them. Loss and metric are means over the batches, weighted by
            their rows.

    Attributes:
        results: A list of `Evaluation(epoch, step, loss, metric)`, in order. Each is logged as well (logger `optirs`,
            level INFO).

    Epochs and steps are those of the call of `train`: a training that is resumed counts from 1 again, and the results
    go on in the same list.

    Raises:
        ValueError: If sizes do not fit, or there is no such unit.
        TypeError: If an argument is of the wrong kind.

    Examples:
        >>> import numpy as np, optirs
        >>> model = optirs.Affine(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
        >>> gradient = optirs.supervised(optirs.mse)
        >>> x = np.arange(4.0)[:, None]
        >>> held_out = optirs.HeldOut(gradient, (x + 0.5, 2 * x + 1), every=100)
        >>> training = optirs.train(gradient, model, (x, 2 * x), optirs.Descent(0.1), epochs=300, callbacks=[held_out])
        >>> [(result.epoch, result.loss < 1e-3) for result in held_out.results]
        [(100, True), (200, True), (300, True)]

    Source: the validation data of Keras' `fit` and of PyTorch Lightning's `Trainer`.
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        data: Any,
        *,
        metric: Callable[..., Any] | None = None,
        every: int = 1,
        unit: str = "epoch",
        batch_size: int | None = None,
    ) -> None:
        if not callable(loss):
            raise TypeError(f"HeldOut: loss must be a function of model and batch, got {type(loss).__name__}")
        if callable(getattr(loss, "pullback", None)):
            raise TypeError(f"HeldOut: {loss!r} is no function of a model; use optirs.supervised(...) of a loss")
        if metric is not None and not callable(metric):
            raise TypeError(f"HeldOut: metric must be a function of model and batch, got {type(metric).__name__}")
        if unit not in ("epoch", "step"):
            raise ValueError(f'HeldOut: unit must be "epoch" or "step", got {unit!r}')
        self.loss, self.metric = loss, metric
        self.every, self.unit = _count("HeldOut", "every", every), unit
        if batch_size is not None:
            _count("HeldOut", "batch_size", batch_size)
        self.results: list[Evaluation] = []
        self._source = batches(data, batch_size, who="HeldOut")
        self._seen: Event | None = None

    @property
    def on_epoch_end(self) -> Hook | None:
        """What `train` calls after every epoch, if that is the unit."""
        return self._look if self.unit == "epoch" else None

    @property
    def on_step_end(self) -> Hook | None:
        """What `train` calls after every step, if that is the unit."""
        return self._look if self.unit == "step" else None

    def _look(self, event: Event) -> None:
        """Evaluates if it is time to, once for an event, however many callbacks ask for it."""
        if event is self._seen:
            return
        self._seen = event
        if getattr(event, self.unit) % self.every == 0:
            loss, metric = self.evaluate(event.model)
            self.results.append(Evaluation(event.epoch, event.step, loss, metric))
            value = "" if metric is None else f", {_name(self.metric)} {metric:.8g}"
            logger.info("epoch %d, step %d: held-out loss %.8g%s", event.epoch, event.step, loss, value)

    def evaluate(self, model: Any) -> tuple[float, float | None]:
        """Loss and metric of a model, whether it is in training or not.

        Examples:
            >>> import numpy as np, optirs
            >>> model = optirs.Affine(np.array([[2.0]]), np.zeros(1))
            >>> optirs.HeldOut(optirs.supervised(optirs.mse), ([[1.0]], [[1.0]])).evaluate(model)
            (1.0, None)
        """
        loss = getattr(self.loss, "loss", self.loss)
        value = mean_over(self._source, lambda *batch: _number("loss", loss(model, *batch)))
        if self.metric is None:
            return value, None
        metric = self.metric
        return value, mean_over(self._source, lambda *batch: _number("metric", metric(model, *batch)))

    def __repr__(self) -> str:
        found = self.results
        last = f", last loss {found[-1].loss:.8g}" if found else ""
        return f"<HeldOut with {len(found)} result{'' if len(found) == 1 else 's'}{last}>"

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the held-out loss over the steps, into the axes of `History.plot` if they are given.

        Args:
            ax: Matplotlib axes to draw in; by default those of a new `pyplot` figure.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is missing; it comes with the extra `plot`.

        Examples:
            >>> import numpy as np, optirs
            >>> from matplotlib.figure import Figure
            >>> held_out = optirs.HeldOut(optirs.supervised(optirs.mse), ([[1.0]], [[1.0]]))
            >>> held_out.results += [optirs.Evaluation(1, 10, 0.5, None), optirs.Evaluation(2, 20, 0.4, None)]
            >>> axes = held_out.plot(optirs.History([1.0] * 20).plot(Figure().subplots()))
            >>> [line.get_label() for line in axes.get_lines()][-1]
            'held out'
        """
        ax = new_axes() if ax is None else ax
        ax.plot([r.step for r in self.results], [r.loss for r in self.results], label="held out")
        ax.set_xlabel("step")
        ax.set_ylabel("loss")
        return ax


class EarlyStopping:
    """A callback of `train` that ends the training when a value is good enough or improves no more, and keeps the best.

    An improvement is a value smaller than `best - min_delta`, or with `mode="max"` one greater than `best + min_delta`.
    NaN never is one, nor is an infinite value of `optirs.metrics`. A norm that no step has taken yet is no value. After
    `patience` values in a row without an improvement, the training ends; with a threshold, after the first value that
    is at most that (at least, with `mode="max"`), if it is finite: this one is kept as the best, whatever `min_delta`
    says.

    Args:
        held_out: The `HeldOut` whose results are watched, whenever it makes one. It need not be among the callbacks
            too, but may be, in any order. By default the training loss is watched: after every epoch, the mean over
            its steps.
        patience: How many values without an improvement end the training; None for no number of them. By default 3, or
            None with a threshold.
        min_delta: By how much a value has to improve on the best one to count; >= 0.
        monitor: "loss", "metric" for the metric of `held_out`, or a name in `optirs.metrics(state)`, such as
            "ClipGlobalNorm.norm": that is looked up after every epoch, or whenever `held_out` makes a result.
        mode: "min" if small values are good, "max" if great ones are; by default "max" for "metric", else "min".
        threshold: What ends the training at once when it is reached; by default nothing does.

    Attributes:
        best: The best value; None before the first one.
        epoch, step: Where it was found.
        model, state: Copies of the model that has it, and of the state that belongs to it. `train` itself returns the
            last model: go on with `stopping.model` for the best one. Arrays that cannot be written are not copied.
        waited: How many values there have been since.
        stopped: Whether the training was ended by this callback.

    One object belongs to one training; in a call of `train` that resumes it, it goes on.

    Raises:
        ValueError: If a number is out of range, there is no such mode, or `held_out` has no metric; in `train`, at the
            first event, if there is no such monitor.
        TypeError: If an argument is of the wrong kind.

    Examples:
        >>> import numpy as np, optirs
        >>> model = optirs.Affine(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
        >>> gradient = optirs.supervised(optirs.mse)
        >>> x = np.arange(4.0)[:, None]
        >>> stopping = optirs.EarlyStopping(optirs.HeldOut(gradient, (x, 2 * x)), patience=5, min_delta=1e-6)
        >>> training = optirs.train(gradient, model, (x, 2 * x), optirs.Descent(0.1), epochs=999, callbacks=[stopping])
        >>> stopping.stopped, stopping.epoch == len(training.history) - 5, stopping.best < 1e-3
        (True, True, True)
        >>> gradient.loss(stopping.model, x, 2 * x) == stopping.best
        True

        Until the norm of the gradient is small:

        >>> rule = optirs.OptimiserChain(optirs.ClipGlobalNorm(10.0), optirs.Descent(0.1))
        >>> stopping = optirs.EarlyStopping(monitor="ClipGlobalNorm.norm", threshold=1e-3)
        >>> training = optirs.train(gradient, model, (x, 2 * x), rule, epochs=999, callbacks=[stopping])
        >>> stopping.stopped, 0 < stopping.best <= 1e-3, len(training.history) == stopping.epoch
        (True, True, True)

    Source: Keras' and PyTorch Lightning's `EarlyStopping`, the former with `restore_best_weights=True`, the latter with
    `stopping_threshold`.
    """

    def __init__(
        self,
        held_out: HeldOut | None = None,
        *,
        patience: int | None = _MISSING,
        min_delta: float = 0.0,
        monitor: str = "loss",
        mode: str | None = None,
        threshold: float | None = None,
    ) -> None:
        if held_out is not None and not isinstance(held_out, HeldOut):
            raise TypeError(f"EarlyStopping: held_out must be an optirs.HeldOut, got {type(held_out).__name__}")
        if not isinstance(monitor, str):
            raise TypeError(f"EarlyStopping: monitor must be a str, got {type(monitor).__name__}")
        if monitor == "metric" and (held_out is None or held_out.metric is None):
            raise ValueError('EarlyStopping: monitor="metric" needs a HeldOut that has a metric')
        if mode not in (None, "min", "max"):
            raise ValueError(f'EarlyStopping: mode must be "min" or "max", got {mode!r}')
        self.held_out, self.monitor = held_out, monitor
        self.min_delta = _finite("min_delta", min_delta, "finite and >= 0", 0)
        self.threshold = None if threshold is None else _finite("threshold", threshold, "finite")
        if patience is _MISSING:
            patience = 3 if threshold is None else None
        self.patience = None if patience is None else _count("EarlyStopping", "patience", patience)
        self.mode = mode or ("max" if monitor == "metric" else "min")
        self.best: float | None = None
        self.epoch = self.step = self.waited = 0
        self.model: Any = None
        self.state: Any = None
        self.stopped = False

    @property
    def on_epoch_end(self) -> Hook | None:
        """What `train` calls after every epoch, if there can be a value."""
        return self._look if self.held_out is None or self.held_out.unit == "epoch" else None

    @property
    def on_step_end(self) -> Hook | None:
        """What `train` calls after every step, if there can be a value."""
        return None if self.held_out is None or self.held_out.unit == "epoch" else self._look

    def _look(self, event: Event) -> None:
        value = self._value(event)
        if value is None or (self.monitor not in ALWAYS and self.monitor in not_taken(event.state)):
            return
        reached = self._reaches(value)
        if self._improves(value, 0.0 if reached else self.min_delta):
            self.state, self.model = copied(event.state, event.model)
            self.best, self.epoch, self.step, self.waited = value, event.epoch, event.step, 0
        else:
            self.waited += 1
        if reached:
            self._stop(event, f" at the threshold {self.threshold:.8g}")
        elif self.patience is not None and self.waited >= self.patience:
            self._stop(event, "")

    def _stop(self, event: Event, why: str) -> None:
        self.stopped = True
        event.stop()
        where = f"{self.best:.8g} in epoch {self.epoch}, step {self.step}" if self.best is not None else "no value"
        logger.info("epoch %d, step %d: stopped early%s; best: %s", event.epoch, event.step, why, where)

    def _value(self, event: Event) -> float | None:
        """The value of this event, or None if it has none."""
        told = self._told(event)
        if self.held_out is None:
            return event.loss if told is None else told
        self.held_out._look(event)
        if event.step % self.held_out.every if self.held_out.unit == "step" else event.epoch % self.held_out.every:
            return None
        value: float | None = getattr(self.held_out.results[-1], self.monitor) if told is None else told
        return value

    def _told(self, event: Event) -> float | None:
        """The value in `event.metrics`, looked up at every event, so that the first tells a wrong name; else None."""
        if self.monitor in ALWAYS:
            return None
        found = event.metrics
        if self.monitor not in found:
            known = ", ".join(f'"{name}"' for name in (*ALWAYS, *found))
            raise ValueError(f"EarlyStopping: there is no {self.monitor!r} to monitor; there are: {known}")
        return found[self.monitor]

    def _reaches(self, value: float) -> bool:
        """Whether a value is at the threshold. One that is not finite never is."""
        if self.threshold is None or not math.isfinite(value):
            return False
        return value <= self.threshold if self.mode == "min" else value >= self.threshold

    def _improves(self, value: float, by: float) -> bool:
        if math.isnan(value) or (math.isinf(value) and self.monitor not in ALWAYS):
            return False
        if self.best is None:
            return True
        return value < self.best - by if self.mode == "min" else value > self.best + by


def _number(name: str, value: Any) -> float:
    """A loss or metric as a float; a gradient function's answer has the loss first."""
    if name == "loss" and isinstance(value, tuple) and len(value) == 2:
        value = value[0]
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"HeldOut: the {name} must be a number, got {type(value).__name__}") from error


def _count(who: str, name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{who}: {name} must be an integer, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{who}: {name} must be >= 1, got {value}")
    return int(value)


def _finite(name: str, value: Any, wanted: str, least: float = -math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"EarlyStopping: {name} must be a number, got {type(value).__name__}")
    if not (least <= value and -math.inf < value < math.inf):
        raise ValueError(f"EarlyStopping: {name} must be {wanted}, got {value}")
    return float(value)


def _name(metric: Any) -> str:
    name = getattr(metric, "__name__", "metric")
    return "metric" if name == "<lambda>" else str(name)
