"""Trainings in both loops, the compiled one and that in Python, and what they come to."""

from typing import Any

import numpy as np

import optirs

GRADIENT = optirs.supervised(optirs.mse)


def problem(rows: int = 10) -> tuple[Any, tuple[np.ndarray, np.ndarray]]:
    """A layer, and data from another one."""
    rng = optirs.Xoshiro(1)
    truth, model = optirs.Affine.random(3, 2, rng=rng), optirs.Affine.random(3, 2, rng=rng)
    x = rng.rand(rows, 3)
    return model, (x, truth(x))


FALLING = optirs.schedules.Exponential(0.05, 0.9, limit=1e-3)


def bits(training: Any) -> Any:
    """All that a training has come to."""
    leaves = [leaf.state for _, leaf, _ in optirs.trees.tree.leaves(training.state, whole=True) if leaf is not None]
    arrays = [array.tobytes() for array in optirs.trainables(training.model)]
    return repr(leaves), arrays, list(training.history), training.history.logged


def outcome(loss: str, *arguments: Any, **options: Any) -> Any:
    """What `train` comes to, or how it ends."""
    gradient = optirs.supervised(getattr(optirs, loss))
    with np.errstate(all="ignore"):
        try:
            return bits(optirs.train(gradient, *arguments, **options))
        except optirs.NonFiniteLossError as error:
            return bits(error), str(error), error.epoch, error.step, repr(error.loss)
        except FloatingPointError as error:
            return str(error)


def both(started: list[bool], loss: str, *arguments: Any, compiled: bool = True, **options: Any) -> Any:
    """The outcome of both loops, which must be one."""
    fast = outcome(loss, *arguments, **options)
    assert started.pop() is compiled
    slow = outcome(loss, *arguments, callbacks=[lambda event: None], **options)
    assert started.pop() is False
    assert fast == slow
    return fast


class Doubling(optirs.Rule):
    """A rule of the user's own."""

    def init(self, x: Any) -> Any:
        return None

    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        return state, 2 * dx


class Epochs:
    """A callback that keeps what it is told after epochs, and stops after some of them."""

    def __init__(self, stop: int = 0) -> None:
        self.events: list[optirs.Event] = []
        self.seen: list[Any] = []
        self.stop = stop

    def on_epoch_end(self, event: optirs.Event) -> None:
        self.events.append(event)
        self.seen.append(shown(event))
        if event.epoch == self.stop:
            event.stop()


def shown(event: optirs.Event) -> Any:
    """All that an event tells."""
    leaves = [leaf.state for _, leaf, _ in optirs.trees.tree.leaves(event.state, whole=True) if leaf is not None]
    arrays = [array.tobytes() for array in optirs.trainables(event.model)]
    return event.epoch, event.step, event.loss, arrays, repr(leaves)
