"""Callbacks after epochs: in the compiled training loop they are told, and heard, as in the loop in Python."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from networks import data, network
from trainings import Epochs, bits, outcome, shown

import optirs


@pytest.mark.parametrize(
    ("stop", "log_every", "shuffle"), [(0, None, False), (0, 2, True), (3, 2, True), (2, 2, False)]
)
def test_callbacks_after_epochs_do_not_need_the_other_loop(
    started: list[bool], stop: int, log_every: int | None, shuffle: bool
) -> None:
    gradient, model, pair = optirs.supervised(optirs.mse), network(), data("mse", 20)
    found = []
    for more in ([], [lambda event: None]):
        epochs = Epochs(stop)
        training = optirs.train(
            gradient, model, pair, optirs.Adam(0.1), epochs=5, batch_size=7, shuffle=shuffle, rng=3,
            log_every=log_every, callbacks=[epochs, *more],
        )  # fmt: skip
        assert set(started) == {not more}
        started.clear()
        found.append((bits(training), [event[:4] for event in epochs.seen]))
        # What was kept has not been changed since, and is the training's own answer at the end.
        assert [shown(event) for event in epochs.events] == epochs.seen
        arrays = [array.tobytes() for array in optirs.trainables(training.model)]
        assert epochs.seen[-1][3] == arrays
        assert len(epochs.events) == (stop or 5)
    assert found[0] == found[1]


class Change:
    """A callback that changes what it is told after an epoch, and keeps it."""

    def __init__(self, change: Callable[[optirs.Event], None]) -> None:
        self.change, self.events = change, list[tuple[optirs.Event, Any]]()

    def on_epoch_end(self, event: optirs.Event) -> None:
        if event.epoch in (2, 3):
            self.change(event)
        self.events.append((event, shown(event)))


def slower(event: optirs.Event) -> None:
    optirs.adjust_(event.state, 0.01 / event.epoch)


def turn(event: optirs.Event) -> None:
    """Freezes a layer, and thaws it again."""
    (optirs.freeze_ if event.epoch == 2 else optirs.thaw_)(event.state[1])


def halve(event: optirs.Event) -> None:
    event.model[0].W *= 0.5


def blow_up(event: optirs.Event) -> None:
    if event.epoch == 3:
        event.model[0].W[0, 0] = np.nan


@pytest.mark.parametrize("change", [slower, turn, halve, blow_up])
@pytest.mark.parametrize("shuffle", [False, True])
def test_what_a_callback_changes_is_trained_on(
    started: list[bool], change: Callable[[optirs.Event], None], shuffle: bool
) -> None:
    model, pair, found = network(), data("mse", 20), []
    for more in ([], [lambda event: None]):
        changed = Change(change)
        found.append(
            outcome(
                "mse", model, pair, optirs.Adam(0.1), epochs=5, batch_size=7, shuffle=shuffle, rng=3,
                log_every=3, callbacks=[changed, *more],
            )
        )  # fmt: skip
        assert set(started) == {not more}
        started.clear()
        assert [shown(event) for event, _ in changed.events] == [seen for _, seen in changed.events]
    assert found[0] == found[1]
    assert found[0] != outcome("mse", model, pair, optirs.Adam(0.1), epochs=5, batch_size=7, shuffle=shuffle, rng=3)


def test_a_callback_may_make_the_training_one_that_needs_python(started: list[bool]) -> None:
    def turn_round(event: optirs.Event) -> None:
        event.model[0].W = np.asfortranarray(event.model[0].W)

    found = []
    for more in ([], [lambda event: None]):
        options: Any = {"epochs": 4, "callbacks": [Change(turn_round), *more]}
        found.append(outcome("mse", network(), data("mse", 20), optirs.Adam(0.1), **options))
    assert found[0] == found[1]
    assert started == [True, True, False, False]


def test_early_stopping_runs_compiled(started: list[bool]) -> None:
    gradient, model, pair = optirs.supervised(optirs.mse), network(), data("mse", 20)
    stopping = optirs.EarlyStopping(optirs.HeldOut(gradient, data("mse", 9)), patience=2)
    training = optirs.train(gradient, model, pair, optirs.Adam(0.1), epochs=500, callbacks=[stopping])
    assert set(started) == {True}
    assert stopping.stopped
    assert len(training.history) == stopping.epoch + 2 < 500
    again = optirs.train(gradient, model, pair, optirs.Adam(0.1), epochs=stopping.epoch)
    for kept, expected in zip(optirs.trainables(stopping.model), optirs.trainables(again.model), strict=True):
        np.testing.assert_array_equal(kept, expected)


def test_ctrl_c_in_a_callback_after_an_epoch(started: list[bool]) -> None:
    class Interrupt:
        def on_epoch_end(self, event: optirs.Event) -> None:
            if event.epoch == 2:
                raise KeyboardInterrupt

    gradient, model, pair = optirs.supervised(optirs.mse), network(), data("mse", 20)
    training = optirs.train(gradient, model, pair, optirs.Adam(0.1), epochs=9, callbacks=[Interrupt()])
    assert started == [True, True]
    assert training.interrupted
    plain = optirs.train(gradient, model, pair, optirs.Adam(0.1), epochs=2)
    assert bits(training) == bits(plain)
