"""What `train` tells its callbacks, and whom it calls when."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..metrics import metrics

HOOKS = ("on_step_end", "on_epoch_end")


@dataclass
class Event:
    """What a callback of `train` is called with, after every step or epoch.

    Attributes:
        epoch: Number of the epoch, from 1.
        step: Number of the step over all epochs, from 1.
        loss: Loss of this step's batch, before its update; after an epoch, the mean of its steps' losses.
        model: The updated model. The training does not change it later, so it may be kept as it is; the last one is
            the model that `train` returns.
        state: The optimiser state that belongs to it. The training goes on with what a callback changes in either:
            `optirs.adjust_(event.state, 0.01)`.
        metrics: What rules in the state have to tell, such as `"ClipGlobalNorm.norm"`: `optirs.metrics(event.state)`,
            computed whenever it is asked for.

    An attribute that is set or deleted is an AttributeError: the training would not see it.

    Examples:
        >>> import optirs
        >>> event = optirs.Event(epoch=1, step=7, loss=0.5, model=None, state=None)
        >>> event.stop()
        >>> event.stopped
        True
    """

    epoch: int
    step: int
    loss: float
    model: Any
    state: Any
    stopped: bool = field(default=False, init=False)

    def stop(self) -> None:
        """Ends the training after this step."""
        self.stopped = True

    @property
    def metrics(self) -> dict[str, float]:
        """What rules in the state have to tell; see `optirs.metrics`."""
        return metrics(self.state)

    def __setattr__(self, name: str, value: Any) -> None:
        known = name in self.__dataclass_fields__
        if not known or (name != "stopped" and name in self.__dict__):
            raise AttributeError(
                f"Event.{name} cannot be set: the training would not see it. What a callback may do is change "
                "event.model or event.state in place, as optirs.adjust_(event.state, 0.01) does, and call event.stop()"
            )
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"Event.{name} cannot be deleted: the training would not see it")


class StepHook(Protocol):
    """An object that `train` calls after every step; None stands for not at all."""

    @property
    def on_step_end(self) -> Callable[[Event], object] | None: ...


class EpochHook(Protocol):
    """An object that `train` calls after every epoch; None stands for not at all."""

    @property
    def on_epoch_end(self) -> Callable[[Event], object] | None: ...


Callback = Callable[[Event], object] | StepHook | EpochHook


def hooked(callbacks: Iterable[Callback]) -> list[Callback]:
    """The callbacks that `train` was given.

    Raises:
        TypeError: If it is no sequence of callbacks.
    """
    if type(callbacks) is tuple and not callbacks:
        return []  # as nearly always: to ask all that follows takes as long as some epochs of a small training
    if callable(callbacks):
        raise TypeError("train: callbacks must be a sequence of functions, got one function: write [function]")
    if any(hasattr(callbacks, hook) for hook in HOOKS):
        kind = type(callbacks).__name__
        raise TypeError(f"train: callbacks must be a sequence, got one {kind}: write [callback]")
    if not isinstance(callbacks, Iterable):
        raise TypeError(f"train: callbacks must be a sequence of functions, got {type(callbacks).__name__}")
    found = list(callbacks)
    for callback in found:
        if isinstance(callback, type) or not (callable(callback) or any(hasattr(callback, hook) for hook in HOOKS)):
            kind = callback.__name__ if isinstance(callback, type) else type(callback).__name__
            raise TypeError(f"train: a callback must be callable, or have on_step_end or on_epoch_end, got {kind}")
    return found


def hooks(callbacks: list[Callback], hook: str) -> list[Callable[[Event], object]]:
    """What is to be called there; a function is called after every step."""
    found = []
    for callback in callbacks:
        plain = callback if hook == "on_step_end" and callable(callback) else None
        function = getattr(callback, hook, plain)
        if function is not None:
            found.append(function)
    return found


def named(callbacks: list[Callback], hook: str) -> str:
    """What is called there, as a message names it."""
    names = [f"{type(c).__name__}.{hook}" if hasattr(c, hook) else called(c) for c in callbacks if hooks([c], hook)]
    return ", ".join(names)


def called(function: Any) -> str:
    """How a message names a function, or an object that is called like one."""
    name = str(getattr(function, "__qualname__", type(function).__name__))
    return name.rpartition("<locals>.")[2]
