"""Callbacks of `train`: a held-out set, and stopping early."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._copy import copied
from .batches import batches, mean_over
from .events import Event
from .history import _new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger("optirs")

Hook = Callable[[Event], object]


class Evaluation(NamedTuple):
    """One line of `HeldOut.results`: where it was taken, the loss, and the metric (None without one)."""

    epoch: int
    step: int
    loss: float
    metric: float | None


class HeldOut:
    """A callback of `train` that evaluates the model on data that it is not trained on.

    Args:
        loss: the gradient function that `train` was given, or any function `(model, *batch) -> loss`. Of a gradient
            function that has a method `loss(model, *batch)`, as `supervised` makes them, that is called.
        data: as for `train`: a tuple of arrays with the same first dimension, or an iterable of batches.
        metric: another function `(model, *batch) -> number`, such as the accuracy; by default none.
        every: an evaluation takes place after every so many epochs or steps.
        unit: "epoch" or "step". After epochs the loop of `train` may be a compiled one all the same, after steps not.
        batch_size: rows at a time; by default all of them. Loss and metric are means over the batches, weighted by
            their rows.

    Attributes:
        results: a list of `Evaluation(epoch, step, loss, metric)`, in order. Each is logged as well (logger `optirs`,
            level INFO).

    Epochs and steps are those of the call of `train`: a training that is resumed counts from 1 again, and the results
    go on in the same list.

    Raises:
        ValueError: sizes that do not fit, or a unit that there is not.
        TypeError: arguments of the wrong kind.

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
            ax: matplotlib axes to draw in; by default those of a new `pyplot` figure.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is missing; it comes with the extra `plot`.

        Examples:
            >>> import numpy as np, optirs
            >>> from matplotlib.figure import Figure
            >>> held_out = optirs.HeldOut(optirs.supervised(optirs.mse), ([[1.0]], [[1.0]]))
            >>> held_out.results += [optirs.Evaluation(1, 10, 0.5, None), optirs.Evaluation(2, 20, 0.4, None)]
            >>> axes = held_out.plot(optirs.History([1.0] * 20).plot(Figure().subplots()))
            >>> [line.get_label() for line in axes.get_lines()][-1]
            'held out'
        """
        ax = _new_axes() if ax is None else ax
        ax.plot([r.step for r in self.results], [r.loss for r in self.results], label="held out")
        ax.set_xlabel("step")
        ax.set_ylabel("loss")
        return ax


class EarlyStopping:
    """A callback of `train` that ends the training when a value has stopped to improve, and keeps the best model.

    An improvement is a value smaller than `best - min_delta`, or with `mode="max"` one greater than `best + min_delta`.
    NaN never is one. After `patience` values in a row without an improvement, the training ends.

    Args:
        held_out: the `HeldOut` whose results are watched, whenever it makes one. It need not be among the callbacks
            too, but may be, in any order. By default the training loss is watched: after every epoch, the mean over
            its steps.
        patience: how many values without an improvement end the training.
        min_delta: by how much a value has to improve on the best one to count; >= 0.
        monitor: "loss", or "metric" for the metric of `held_out`.
        mode: "min" if small values are good, "max" if great ones are; by default "min" for a loss, "max" for a metric.

    Attributes:
        best: the best value; None before the first one.
        epoch, step: where it was found.
        model, state: copies of the model that has it, and of the state that belongs to it. `train` itself returns the
            last model: go on with `stopping.model` for the best one. Arrays that cannot be written are not copied.
        waited: how many values there have been since.
        stopped: whether the training was ended by this callback.

    One object belongs to one training; in a call of `train` that resumes it, it goes on.

    Raises:
        ValueError: a number out of range, a monitor or mode that there is not, or a metric that `held_out` has not.
        TypeError: arguments of the wrong kind.

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

    Source: Keras' and PyTorch Lightning's `EarlyStopping`, the former with `restore_best_weights=True`.
    """

    def __init__(
        self,
        held_out: HeldOut | None = None,
        *,
        patience: int = 3,
        min_delta: float = 0.0,
        monitor: str = "loss",
        mode: str | None = None,
    ) -> None:
        if held_out is not None and not isinstance(held_out, HeldOut):
            raise TypeError(f"EarlyStopping: held_out must be an optirs.HeldOut, got {type(held_out).__name__}")
        if monitor not in ("loss", "metric"):
            raise ValueError(f'EarlyStopping: monitor must be "loss" or "metric", got {monitor!r}')
        if monitor == "metric" and (held_out is None or held_out.metric is None):
            raise ValueError('EarlyStopping: monitor="metric" needs a HeldOut that has a metric')
        if mode not in (None, "min", "max"):
            raise ValueError(f'EarlyStopping: mode must be "min" or "max", got {mode!r}')
        if isinstance(min_delta, bool) or not isinstance(min_delta, (int, float, np.number)):
            raise TypeError(f"EarlyStopping: min_delta must be a number, got {type(min_delta).__name__}")
        if not 0 <= min_delta < math.inf:
            raise ValueError(f"EarlyStopping: min_delta must be finite and >= 0, got {min_delta}")
        self.held_out, self.monitor = held_out, monitor
        self.patience, self.min_delta = _count("EarlyStopping", "patience", patience), float(min_delta)
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
        if value is None:
            return
        if self._improves(value):
            self.state, self.model = copied(event.state, event.model)
            self.best, self.epoch, self.step, self.waited = value, event.epoch, event.step, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.stopped = True
            event.stop()
            where = f"{self.best:.8g} in epoch {self.epoch}, step {self.step}" if self.best is not None else "no value"
            logger.info("epoch %d, step %d: stopped early; best: %s", event.epoch, event.step, where)

    def _value(self, event: Event) -> float | None:
        """The value of this event, or None if it has none."""
        if self.held_out is None:
            return event.loss
        self.held_out._look(event)
        if event.step % self.held_out.every if self.held_out.unit == "step" else event.epoch % self.held_out.every:
            return None
        value: float | None = getattr(self.held_out.results[-1], self.monitor)
        return value

    def _improves(self, value: float) -> bool:
        if self.best is None:
            return not math.isnan(value)
        return value < self.best - self.min_delta if self.mode == "min" else value > self.best + self.min_delta


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


def _name(metric: Any) -> str:
    name = getattr(metric, "__name__", "metric")
    return "metric" if name == "<lambda>" else str(name)
