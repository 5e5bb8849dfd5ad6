"""The callbacks that come with the package: what they see, when, and what they keep."""

import copy
import itertools
import logging
import math
import pickle
import re
from typing import Any

import numpy as np
import pytest

import optirs

GRADIENT = optirs.supervised(optirs.mse)
RULE = optirs.Descent(0.1)


def problem(rows: int = 10) -> tuple[Any, tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """A layer, and training and held-out data from another one."""
    rng = optirs.Xoshiro(1)
    truth, model = optirs.Affine.random(3, 2, rng=rng), optirs.Affine.random(3, 2, rng=rng)
    x, x_held = rng.rand(rows, 3), rng.rand(7, 3)
    return model, (x, truth(x)), (x_held, truth(x_held) + 0.1)


def same(left: Any, right: Any) -> bool:
    return np.array_equal(left.W, right.W) and np.array_equal(left.b, right.b)


class Scripted:
    """Data and loss with held-out values of one's choice: the n-th evaluation gives the n-th of them."""

    def __init__(self, values: list[float], **options: Any) -> None:
        self.values = iter(values)
        self.held_out = optirs.HeldOut(lambda model, x: next(self.values), (np.ones(1),), **options)


def stopped(stopping: optirs.EarlyStopping, *more: Any, epochs: int = 20, **options: Any) -> optirs.Training:
    model, data, _ = problem()
    return optirs.train(GRADIENT, model, data, RULE, epochs=epochs, callbacks=[*more, stopping], **options)


# --- the hooks of train


class Hooked:
    """A callback with both hooks, which stops where it is told to."""

    def __init__(self, stop: tuple[str, int] | None = None) -> None:
        self.stop, self.calls = stop, []

    def on_step_end(self, event: optirs.Event) -> None:
        self.note("step", event)

    def on_epoch_end(self, event: optirs.Event) -> None:
        self.note("epoch", event)

    def note(self, kind: str, event: optirs.Event) -> None:
        self.calls.append((kind, event.epoch, event.step, event.loss))
        if self.stop == (kind, event.step):
            event.stop()


def test_hooks_are_called_after_steps_and_after_epochs() -> None:
    model, data, _ = problem()
    hooked = Hooked()
    training = optirs.train(GRADIENT, model, data, RULE, epochs=2, batch_size=4, callbacks=[hooked])
    losses = list(training.history)
    expected = []
    for epoch in (1, 2):
        steps = range(3 * epoch - 2, 3 * epoch + 1)
        expected += [("step", epoch, step, losses[step - 1]) for step in steps]
        expected.append(("epoch", epoch, steps[-1], pytest.approx(np.mean([losses[step - 1] for step in steps]))))
    assert hooked.calls == expected


@pytest.mark.parametrize(("stop", "steps", "logged"), [(("step", 4), 4, 1), (("epoch", 6), 6, 2), (("epoch", 4), 9, 3)])
def test_a_stop_after_a_step_or_an_epoch(stop: tuple[str, int], steps: int, logged: int) -> None:
    model, data, _ = problem()
    training = optirs.train(GRADIENT, model, data, RULE, epochs=3, batch_size=4, callbacks=[Hooked(stop)], log_every=1)
    assert (len(training.history), len(training.history.logged)) == (steps, logged)


def test_a_hook_that_is_none_or_missing_is_not_called() -> None:
    class Epochs:
        on_step_end = None

        def on_epoch_end(self, event: optirs.Event) -> None:
            seen.append((event.epoch, event.step))

    model, data, _ = problem()
    seen: list[tuple[int, int]] = []
    optirs.train(GRADIENT, model, [data, data], RULE, epochs=2, callbacks=[Epochs()])
    assert seen == [(1, 2), (2, 4)]


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (Hooked(), r"must be a sequence, got one Hooked: write \[callback\]"),
        ([optirs.EarlyStopping], "must be callable, or have on_step_end or on_epoch_end, got EarlyStopping"),
        ([None], "got NoneType"),
    ],
)
def test_wrong_callbacks(callbacks: Any, message: str) -> None:
    model, data, _ = problem()
    with pytest.raises(TypeError, match=message):
        optirs.train(GRADIENT, model, data, RULE, callbacks=callbacks)


# --- HeldOut


def accuracy(model: Any, x: Any, y: Any) -> Any:
    return (np.abs(model(x) - y) < 0.5).mean()


@pytest.mark.parametrize(("unit", "every", "where"), [
    ("epoch", 1, [(1, 3), (2, 6), (3, 9), (4, 12)]),
    ("epoch", 2, [(2, 6), (4, 12)]),
    ("step", 5, [(2, 5), (4, 10)]),
    ("step", 1, [(1 + step // 3, step + 1) for step in range(12)]),
])  # fmt: skip
def test_held_out_evaluates_the_updated_model_in_its_turn(unit: str, every: int, where: list[tuple[int, int]]) -> None:
    model, data, held = problem()
    models: list[Any] = []
    held_out = optirs.HeldOut(GRADIENT, held, metric=accuracy, every=every, unit=unit)
    optirs.train(
        GRADIENT, model, data, RULE, epochs=4, batch_size=4,
        callbacks=[held_out, lambda event: models.append(event.model)],
    )  # fmt: skip
    assert [(result.epoch, result.step) for result in held_out.results] == where
    for _, step, loss, metric in held_out.results:
        assert loss == optirs.mse(models[step - 1](held[0]), held[1])
        assert metric == pytest.approx(accuracy(models[step - 1], *held))


def test_held_out_does_not_change_the_training() -> None:
    model, data, held = problem()
    options: dict[str, Any] = {"epochs": 3, "batch_size": 4, "shuffle": True}
    plain = optirs.train(GRADIENT, model, data, RULE, rng=np.random.default_rng(1), **options)
    for unit in ("epoch", "step"):
        callbacks = [optirs.HeldOut(GRADIENT, held, unit=unit)]
        watched = optirs.train(
            GRADIENT, model, data, RULE, rng=np.random.default_rng(1), callbacks=callbacks, **options
        )
        assert same(watched.model, plain.model)
        assert watched.history == plain.history


def test_held_out_takes_batches_and_any_function() -> None:
    model, _, (x, y) = problem()

    def gradient(model: Any, x: Any, y: Any) -> Any:  # without the shortcut `.loss`
        return GRADIENT(model, x, y)

    def loss(model: Any, x: Any, y: Any) -> Any:
        return np.float32(GRADIENT.loss(model, x, y))

    whole = GRADIENT.loss(model, x, y)
    share = accuracy(model, x, y)
    for data, size in (((x, y), None), ((x, y), 3), ([(x[:3], y[:3]), (x[3:], y[3:])], None)):
        for function in (GRADIENT, gradient, loss):
            found = optirs.HeldOut(function, data, metric=accuracy, batch_size=size).evaluate(model)
            assert found == (pytest.approx(whole, rel=1e-6), pytest.approx(share))
    assert optirs.HeldOut(GRADIENT, (x, y)).evaluate(model) == (whole, None)


def test_held_out_is_logged_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    model, data, held = problem()
    held_out = optirs.HeldOut(GRADIENT, held, metric=accuracy)
    nameless = optirs.HeldOut(GRADIENT, held, metric=lambda *batch: 0.5)
    assert repr(held_out) == "<HeldOut with 0 results>"
    with caplog.at_level(logging.INFO, logger="optirs"):
        optirs.train(GRADIENT, model, data, RULE, callbacks=[held_out, nameless])
    (_, _, loss, share) = held_out.results[0]
    assert caplog.messages == [
        f"epoch 1, step 1: held-out loss {loss:.8g}, accuracy {share:.8g}",
        f"epoch 1, step 1: held-out loss {loss:.8g}, metric 0.5",
    ]
    assert repr(held_out) == f"<HeldOut with 1 result, last loss {loss:.8g}>"


def test_held_out_plots_into_the_axes_of_the_history() -> None:
    figure = pytest.importorskip("matplotlib.figure").Figure
    model, data, held = problem()
    held_out = optirs.HeldOut(GRADIENT, held, every=2)
    training = optirs.train(GRADIENT, model, data, RULE, epochs=6, batch_size=5, callbacks=[held_out])
    axes = held_out.plot(training.history.plot(figure().subplots()))
    _, line = axes.get_lines()
    assert line.get_label() == "held out"
    np.testing.assert_array_equal(line.get_xydata(), [[r.step, r.loss] for r in held_out.results])
    assert line.get_xdata().tolist() == [4, 8, 12]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"loss": 3}, TypeError, "HeldOut: loss must be a function of model and batch, got int"),
        ({"loss": optirs.mse}, TypeError, r"use optirs.supervised\(...\) of a loss"),
        ({"metric": 3}, TypeError, "HeldOut: metric must be a function of model and batch, got int"),
        ({"unit": "batch"}, ValueError, 'HeldOut: unit must be "epoch" or "step", got \'batch\''),
        ({"every": 0}, ValueError, "HeldOut: every must be >= 1, got 0"),
        ({"every": 1.0}, TypeError, "HeldOut: every must be an integer, got float"),
        ({"every": True}, TypeError, "HeldOut: every must be an integer, got bool"),
        ({"batch_size": 0}, ValueError, "HeldOut: batch_size must be >= 1"),
        ({"data": np.ones(3)}, TypeError, "HeldOut: data must be a tuple of arrays"),
        ({"data": (np.ones(3), np.ones(4))}, ValueError, r"HeldOut: data\[0\] has 3 rows, data\[1\] has 4"),
        ({"data": [], "batch_size": 3}, ValueError, "HeldOut: batch_size needs data to be a tuple"),
    ],
)
def test_wrong_arguments_of_held_out(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optirs.HeldOut(**{"loss": GRADIENT, "data": (np.ones((3, 3)), np.ones((3, 2))), **change})


def test_what_is_no_number_and_data_that_is_used_up() -> None:
    model, data, held = problem()
    with pytest.raises(TypeError, match="HeldOut: the loss must be a number, got dict"):
        optirs.HeldOut(lambda *batch: {}, held).evaluate(model)
    with pytest.raises(TypeError, match="HeldOut: the metric must be a number, got ndarray"):
        optirs.HeldOut(GRADIENT, held, metric=lambda m, x, y: x).evaluate(model)
    with pytest.raises(
        ValueError, match="HeldOut: data is read at every evaluation: an iterator can be read once only"
    ):
        optirs.HeldOut(GRADIENT, iter([held]))
    with pytest.raises(ValueError, match="HeldOut: data gave no batch"):
        optirs.train(GRADIENT, model, data, RULE, epochs=2, callbacks=[optirs.HeldOut(GRADIENT, [])])


# --- EarlyStopping


@pytest.mark.parametrize(
    ("values", "options", "end", "best"),
    [
        ([5, 4, 3, 3.5, 3.2, 3.1, 0], {}, 6, 3),
        ([5, 4, 3, 3.5, 3.2, 2, 2, 2, 2], {}, 9, 6),  # the count begins anew
        ([5, 5, 5, 5], {}, 4, 1),  # the same value is no improvement
        ([3, 4], {"patience": 1}, 2, 1),
        ([5, 4.5, 4.2, 4.1], {"min_delta": 1.0}, 4, 1),
        ([5, 4.5, 3.9, 3.8, 3.7, 3.6], {"min_delta": 1.0}, 6, 3),  # measured from the best, so small steps add up
        ([5, math.nan, math.nan, math.nan], {}, 4, 1),
        ([math.nan, 2, 1, math.nan, 3, 3], {}, 6, 3),
        ([math.inf, 2, 2, 2, 2], {}, 5, 2),
        ([1, 2, 3, 2.5, 2.9, 3], {"mode": "max"}, 6, 3),
    ],
)
def test_when_early_stopping_stops(values: list[float], options: dict[str, Any], end: int, best: int) -> None:
    stopping = optirs.EarlyStopping(Scripted(values).held_out, **options)
    training = stopped(stopping)
    assert stopping.stopped
    assert len(training.history) == end
    assert (stopping.epoch, stopping.step, stopping.best) == (best, best, values[best - 1])
    model, data, _ = problem()
    again = optirs.train(GRADIENT, model, data, RULE, epochs=best)
    assert same(stopping.model, again.model)
    assert stopping.state.W == again.state.W


def test_only_nan_stops_without_a_best_model() -> None:
    stopping = optirs.EarlyStopping(Scripted([math.nan] * 9).held_out, patience=2)
    assert len(stopped(stopping).history) == 2
    assert (stopping.best, stopping.model) == (None, None)


def test_a_training_may_end_before_it_is_stopped() -> None:
    stopping = optirs.EarlyStopping(Scripted([3, 2, 1, 2, 2, 2, 2]).held_out, patience=3)
    first = stopped(stopping, epochs=4)
    assert (stopping.stopped, stopping.waited, stopping.epoch) == (False, 1, 3)
    _, data, _ = problem()
    rest = optirs.train(GRADIENT, first.model, data, state=first.state, epochs=9, callbacks=[stopping])
    assert (stopping.stopped, len(rest.history), stopping.epoch) == (True, 2, 3)


def test_the_metric_is_watched_upwards() -> None:
    values = iter([0.1, 0.5, 0.9, 0.8, 0.9, 0.7])
    held_out = optirs.HeldOut(GRADIENT, problem()[2], metric=lambda *batch: next(values))
    stopping = optirs.EarlyStopping(held_out, monitor="metric")
    stopped(stopping)
    assert (stopping.stopped, stopping.best, stopping.epoch, len(held_out.results)) == (True, 0.9, 3, 6)


@pytest.mark.parametrize("order", [(), (0,), (1,)])
@pytest.mark.parametrize(("unit", "every"), [("epoch", 1), ("epoch", 2), ("step", 2), ("step", 3)])
def test_the_held_out_set_may_be_a_callback_too(order: tuple[int, ...], unit: str, every: int) -> None:
    scripted = Scripted([5, 4, 6, 7, 8, 9], unit=unit, every=every)
    stopping = optirs.EarlyStopping(scripted.held_out, patience=2)
    callbacks: list[Any] = [stopping]
    for place in order:
        callbacks.insert(place, scripted.held_out)
    model, data, _ = problem()
    training = optirs.train(GRADIENT, model, data, RULE, epochs=40, batch_size=4, callbacks=callbacks)
    length = 3 if unit == "epoch" else 1
    assert [result.step for result in scripted.held_out.results] == [length * every * n for n in (1, 2, 3, 4)]
    assert (len(training.history), stopping.step, stopping.best) == (length * every * 4, length * every * 2, 4)


def test_without_a_held_out_set_the_training_loss_is_watched() -> None:
    model, data, _ = problem()
    losses = itertools.chain([4.0, 2.0], [3.0, 2.0], [1.0, 4.0], [9.0, 9.0], [9.0, 9.0])

    def gradient(model: Any, x: Any, y: Any) -> tuple[float, Any]:
        return next(losses), None

    stopping = optirs.EarlyStopping(patience=2)
    training = optirs.train(gradient, model, data, RULE, epochs=9, batch_size=5, callbacks=[stopping])
    assert (stopping.best, stopping.epoch, len(training.history)) == (2.5, 2, 8)


def test_early_stopping_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    stopping = optirs.EarlyStopping(Scripted([1, 2, 2]).held_out, patience=2)
    with caplog.at_level(logging.INFO, logger="optirs"):
        stopped(stopping)
    assert caplog.messages[-1] == "epoch 3, step 3: stopped early; best: 1 in epoch 1, step 1"


# --- EarlyStopping with a threshold


@pytest.mark.parametrize(
    ("values", "options", "end", "best"),
    [
        ([5, 4, 3, 2], {"threshold": 3.5}, 3, 3),
        ([5, 4, 3.5, 2], {"threshold": 3.5}, 3, 3),  # at most, not below
        ([5, 6, 6, 6, 6, 6, 1, 0], {"threshold": 2}, 7, 7),  # no patience by default
        ([5, 6, 6, 6, 6, 6, 1, 0], {"threshold": 2, "patience": 4}, 5, 1),
        ([5, 4, 3, 2], {"threshold": 3.5, "patience": 1}, 3, 3),
        ([1, 2, 3, 4], {"threshold": 3, "mode": "max"}, 3, 3),
        ([-2, 3], {"threshold": -1}, 1, 1),
        ([0, 3], {"threshold": 0}, 1, 1),
        ([5, 4.9, 4.7], {"threshold": 4.8, "min_delta": 1.0}, 3, 3),  # what was asked for is kept
        ([math.nan, 5, math.nan, 1], {"threshold": 2}, 4, 4),
        ([math.inf, 5, 9], {"threshold": 8, "mode": "max"}, 3, 1),
    ],
)
def test_a_threshold_ends_the_training(values: list[float], options: dict[str, Any], end: int, best: int) -> None:
    stopping = optirs.EarlyStopping(Scripted(values).held_out, **options)
    training = stopped(stopping)
    assert stopping.stopped
    assert len(training.history) == end
    assert (stopping.epoch, stopping.best) == (best, values[best - 1])
    model, data, _ = problem()
    assert same(stopping.model, optirs.train(GRADIENT, model, data, RULE, epochs=best).model)


@pytest.mark.parametrize("options", [{"patience": None}, {"threshold": -1.0}, {"threshold": -1.0, "patience": None}])
def test_without_patience_it_waits_for_ever(options: dict[str, Any]) -> None:
    values = [3.0, 2.0, *[4.0, math.nan] * 9]
    stopping = optirs.EarlyStopping(Scripted(values).held_out, **options)
    assert len(stopped(stopping, epochs=20).history) == 20
    assert (stopping.stopped, stopping.best, stopping.epoch, stopping.waited) == (False, 2.0, 2, 18)


def test_the_training_loss_reaches_a_threshold() -> None:
    model, data, _ = problem()
    losses = list(optirs.train(GRADIENT, model, data, RULE, epochs=9).history)
    assert losses == sorted(losses, reverse=True)
    stopping = optirs.EarlyStopping(threshold=losses[4])
    assert len(stopped(stopping).history) == 5
    assert stopping.best == losses[4]


def test_a_threshold_after_steps_and_when_a_training_is_resumed(caplog: pytest.LogCaptureFixture) -> None:
    scripted = Scripted([5, 4, 3, 2, 2.5, 9], unit="step", every=2)
    stopping = optirs.EarlyStopping(scripted.held_out, threshold=2.5)
    model, data, _ = problem()
    with caplog.at_level(logging.INFO, logger="optirs"):
        first = optirs.train(GRADIENT, model, data, RULE, epochs=9, batch_size=4, callbacks=[stopping])
    assert (len(first.history), stopping.step, stopping.best) == (8, 8, 2)
    text = "epoch 3, step 8: stopped early at the threshold 2.5; best: 2 in epoch 3, step 8"
    assert caplog.messages[-1] == text
    # A value at the threshold that is not the best one ends the next training, too.
    rest = optirs.train(
        GRADIENT, first.model, data, state=first.state, epochs=9, batch_size=4, callbacks=[stopping]
    )  # fmt: skip
    assert (len(rest.history), stopping.step, stopping.best, stopping.waited) == (2, 8, 2, 1)


# --- what rules have to tell


NORM = "ClipGlobalNorm.norm"
CLIPPED = optirs.OptimiserChain(optirs.ClipGlobalNorm(0.5), RULE)


def told(epoch: int, **metrics: float) -> optirs.Event:
    """An event after an epoch whose state has these metrics."""
    kind = type("Told", (optirs.Event,), {"metrics": {name.replace("_", "."): metrics[name] for name in metrics}})
    event: optirs.Event = kind(epoch, epoch, 7.0, {"epoch": np.array(float(epoch))}, None)
    return event


@pytest.mark.parametrize(
    ("values", "options", "end", "best"),
    [
        ([5, 4, 3, 2], {"threshold": 3.5}, 3, 3),
        ([5, 6, 6, 6], {}, 4, 1),
        ([5, 6, 7, 6], {"mode": "max", "threshold": 7}, 3, 3),
        ([math.nan, 5, math.inf, -math.inf, 2, 1], {"threshold": 3}, 5, 5),
        ([math.inf, -math.inf, math.nan, 5], {"patience": 3}, 3, None),
        ([math.inf, -math.inf, 5, 6, math.nan, 8], {"patience": 3}, 6, 3),
        ([math.inf, 5, 6, -math.inf, math.nan, 8], {"patience": 3}, 5, 2),
        ([math.inf, 5, math.inf, math.nan, 6, 8], {"threshold": 6, "mode": "max"}, 5, 5),
    ],
)
def test_metrics_that_are_watched(values: list[float], options: dict[str, Any], end: int, best: int | None) -> None:
    stopping = optirs.EarlyStopping(monitor="a.norm", **options)
    assert stopping.on_epoch_end is not None
    for epoch, value in enumerate(values, 1):
        event = told(epoch, a_norm=value)
        stopping.on_epoch_end(event)
        if event.stopped:
            break
    assert (epoch, stopping.stopped) == (end, True)
    assert stopping.best == (None if best is None else values[best - 1])
    assert stopping.model == (None if best is None else {"epoch": best})


@pytest.mark.parametrize("every", [None, 3])
def test_a_monitor_that_there_is_not_is_told_at_the_first_event(every: int | None) -> None:
    held_out = None if every is None else optirs.HeldOut(GRADIENT, problem()[2], every=every)
    for names, known in (({}, ""), ({"b_norm": 1.0, "c_skipped": 2.0}, ', "b.norm", "c.skipped"')):
        stopping = optirs.EarlyStopping(held_out, monitor="a.norm")
        assert stopping.on_epoch_end is not None
        text = 'EarlyStopping: there is no \'a.norm\' to monitor; there are: "loss", "metric"'
        with pytest.raises(ValueError, match=f"^{re.escape(text + known)}$"):
            stopping.on_epoch_end(told(1, **names))


def test_events_have_the_metrics_of_their_state() -> None:
    model, data, _ = problem()
    events: list[optirs.Event] = []
    optirs.train(GRADIENT, model, data, CLIPPED, epochs=4, callbacks=[events.append])
    norms = []
    for event in events:
        assert event.metrics == optirs.metrics(event.state) == {NORM: event.metrics[NORM]}
        norms.append(event.metrics[NORM])
    # The norm is that of the gradient before the step, and falls while the model is trained.
    _, gradient = GRADIENT(model, *data)
    assert norms[0] == pytest.approx(np.sqrt((gradient.W**2).sum() + (gradient.b**2).sum()), rel=1e-6)
    assert norms == sorted(norms, reverse=True)
    assert len(set(norms)) == 4
    with pytest.raises(AttributeError, match=r"Event\.metrics cannot be set: the training would not see it"):
        events[0].metrics = {}  # type: ignore[misc]
    assert optirs.Event(epoch=1, step=7, loss=0.5, model=None, state=None).metrics == {}


def test_the_log_shows_metrics(caplog: pytest.LogCaptureFixture) -> None:
    model, data, _ = problem()
    skip = optirs.SkipNonFinite()
    with caplog.at_level(logging.INFO, logger="optirs"):
        training = optirs.train(GRADIENT, model, data, optirs.OptimiserChain(skip, CLIPPED), epochs=4, log_every=2)
    states = [optirs.train(GRADIENT, model, data, CLIPPED, epochs=epochs).state for epochs in (2, 4)]
    assert [epoch for epoch, _ in training.history.logged] == [2, 4]
    for message, (epoch, loss), state in zip(caplog.messages, training.history.logged, states, strict=True):
        head, *metrics = message.split(", ")
        assert head == f"epoch {epoch}: loss {loss:.8g}"
        norm = f"{NORM} {optirs.metrics(state)[NORM]:.8g}"
        assert sorted(metrics) == [norm, "SkipNonFinite.consecutive 0", "SkipNonFinite.skipped 0"]


def test_groups_without_names_do_not_end_a_training_that_logs(caplog: pytest.LogCaptureFixture) -> None:
    def rule(path: optirs.KeyPath, _: Any) -> optirs.Rule:
        return optirs.OptimiserChain(optirs.ClipGlobalNorm(1.0 if path[-1] == "W" else 2.0), RULE)

    model, data, _ = problem()
    with caplog.at_level(logging.INFO, logger="optirs"):
        training = optirs.train(GRADIENT, model, data, rule, epochs=2, log_every=2)
    with pytest.raises(ValueError, match="ClipGlobalNorm") as caught:
        optirs.metrics(training.state)
    assert caplog.messages == [f"epoch 2: loss {training.history.logged[0][1]:.8g} ({caught.value})"]


@pytest.mark.parametrize("every", [None, 1, 3])
def test_a_training_ends_when_the_norm_of_the_gradient_is_small(every: int | None) -> None:
    model, data, held = problem()
    norms: list[float] = []
    optirs.train(GRADIENT, model, data, CLIPPED, epochs=40, callbacks=[lambda event: norms.append(event.metrics[NORM])])
    assert norms == sorted(norms, reverse=True)
    threshold = norms[10]
    held_out = None if every is None else optirs.HeldOut(GRADIENT, held, every=every)
    stopping = optirs.EarlyStopping(held_out, monitor=NORM, threshold=threshold)
    training = optirs.train(GRADIENT, model, data, CLIPPED, epochs=40, callbacks=[stopping])
    assert len(training.history) == stopping.epoch == (12 if every == 3 else 11)
    assert (stopping.stopped, stopping.best) == (True, norms[stopping.epoch - 1])
    assert optirs.metrics(stopping.state) == {NORM: stopping.best}
    with pytest.raises(ValueError, match='there is no \'norm\' to monitor; there are: "loss", "metric", "ClipGlobal'):
        optirs.train(GRADIENT, model, data, CLIPPED, callbacks=[optirs.EarlyStopping(monitor="norm")])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"held_out": 3}, TypeError, "held_out must be an optirs.HeldOut, got int"),
        ({"patience": 0}, ValueError, "patience must be >= 1, got 0"),
        ({"patience": 1.5}, TypeError, "patience must be an integer, got float"),
        ({"min_delta": -1}, ValueError, "min_delta must be finite and >= 0, got -1"),
        ({"min_delta": math.nan}, ValueError, "min_delta must be finite and >= 0, got nan"),
        ({"min_delta": "a"}, TypeError, "min_delta must be a number, got str"),
        ({"monitor": 3}, TypeError, "monitor must be a str, got int"),
        ({"threshold": "a"}, TypeError, "threshold must be a number, got str"),
        ({"threshold": True}, TypeError, "threshold must be a number, got bool"),
        ({"threshold": math.nan}, ValueError, "threshold must be finite, got nan"),
        ({"threshold": math.inf}, ValueError, "threshold must be finite, got inf"),
        ({"threshold": 1.0, "patience": 0}, ValueError, "patience must be >= 1, got 0"),
        ({"monitor": "metric"}, ValueError, "needs a HeldOut that has a metric"),
        ({"mode": "auto"}, ValueError, 'mode must be "min" or "max"'),
    ],
)
def test_wrong_arguments_of_early_stopping(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        optirs.EarlyStopping(**change)


@pytest.mark.parametrize("name", ["model", "state", "loss", "epoch", "learning_rate"])
def test_an_event_takes_no_orders_but_to_stop(name: str) -> None:
    event = optirs.Event(epoch=1, step=7, loss=0.5, model=None, state=None)
    with pytest.raises(AttributeError, match=f"Event.{name} cannot be set: the training would not see it"):
        setattr(event, name, 1)
    event.stop()
    assert event.stopped
    assert copy.copy(event) == event
    assert pickle.loads(pickle.dumps(event)) == event


def test_a_norm_that_no_step_has_taken_ends_no_training() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)).astype(np.float32), rng.normal(size=(8, 2)).astype(np.float32)
    model = optirs.Affine.random(3, 2, rng=optirs.Xoshiro(1))
    rule = optirs.OptimiserChain(optirs.AccumGrad(4), optirs.ClipGlobalNorm(1.0), optirs.Descent(0.1))
    for options in ({"threshold": 1e-3}, {"patience": 2}):
        stopping = optirs.EarlyStopping(monitor="ClipGlobalNorm.norm", **options)
        result = optirs.train(optirs.supervised(optirs.mse), model, (x, y), rule, epochs=6, callbacks=[stopping])
        assert stopping.best is not None
        assert stopping.best > 1e-3
        assert stopping.epoch == 4  # the first one whose step has a norm
        assert not stopping.stopped or len(result.history) >= 4
