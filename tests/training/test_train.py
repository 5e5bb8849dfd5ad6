"""The training loop: what it computes, what it leaves alone, and how it ends."""

import logging
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from trainings import GRADIENT, problem

import optirs

RATE = 0.1
RULE = optirs.Descent(RATE)


def by_hand(model: Any, batches: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Gradient descent in float64: W, b and the loss of every step."""
    W, b, losses = model.W.astype(float), model.b.astype(float), []
    for x, y in batches:
        error = x.astype(float) @ W.T + b - y
        losses.append(float((error**2).sum() / len(x)))
        W, b = W - RATE * 2 * error.T @ x / len(x), b - RATE * 2 * error.sum(axis=0) / len(x)
    return W, b, losses


def assert_trained(training: optirs.Training, expected: tuple[np.ndarray, np.ndarray, list[float]]) -> None:
    W, b, losses = expected
    np.testing.assert_allclose(training.model.W, W, atol=2e-6)
    np.testing.assert_allclose(training.model.b, b, atol=2e-6)
    np.testing.assert_allclose(training.history, losses, rtol=2e-5)


def same(left: Any, right: Any) -> bool:
    return np.array_equal(left.W, right.W) and np.array_equal(left.b, right.b)


def test_full_batches() -> None:
    model, data = problem()
    assert_trained(optirs.train(GRADIENT, model, data, RULE, epochs=5), by_hand(model, [data] * 5))


def test_mini_batches_end_with_what_is_left() -> None:
    model, (x, y) = problem()
    batches = [(x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)] * 2
    training = optirs.train(GRADIENT, model, (x, y), RULE, epochs=2, batch_size=4)
    assert_trained(training, by_hand(model, batches))
    assert same(optirs.train(GRADIENT, model, batches[:3], RULE, epochs=2).model, training.model)


def test_shuffling_permutes_the_rows_anew_each_epoch() -> None:
    model, (x, y) = problem()
    rng, batches = np.random.default_rng(8), []
    for order in (rng.permutation(10), rng.permutation(10)):
        batches += [(x[order[i : i + 4]], y[order[i : i + 4]]) for i in (0, 4, 8)]
    training = optirs.train(
        GRADIENT, model, (x, y), RULE, epochs=2, batch_size=4, shuffle=True, rng=np.random.default_rng(8)
    )
    assert_trained(training, by_hand(model, batches))
    assert len(optirs.train(GRADIENT, model, (x, y), RULE, shuffle=True).history) == 1


def test_arguments_are_left_alone() -> None:
    model, data = problem()
    first = optirs.train(GRADIENT, model, data, RULE, epochs=2)
    kept = first.model.W.copy(), first.model.b.copy(), model.W.copy()
    for epochs in (0, 3):
        again = optirs.train(GRADIENT, first.model, data, state=first.state, epochs=epochs)
        assert not np.shares_memory(again.model.W, first.model.W)
        assert not np.shares_memory(again.model.b, first.model.b)
    np.testing.assert_array_equal(first.model.W, kept[0])
    np.testing.assert_array_equal(first.model.b, kept[1])
    np.testing.assert_array_equal(model.W, kept[2])


def test_a_state_resumes() -> None:
    model, data = problem()
    whole = optirs.train(GRADIENT, model, data, RULE, epochs=5)
    first = optirs.train(GRADIENT, model, data, RULE, epochs=2)
    for rule in (None, RULE, optirs.Descent(RATE)):
        rest = optirs.train(GRADIENT, first.model, data, rule, state=first.state, epochs=3)
        assert same(rest.model, whole.model)
        assert list(first.history) + list(rest.history) == list(whole.history)
    with pytest.raises(ValueError, match=r"rule and state disagree .*Descent\(eta=0.2\).*Descent\(eta=0.1\)"):
        optirs.train(GRADIENT, first.model, data, optirs.Descent(0.2), state=first.state)


def test_any_tree_and_any_gradient_function() -> None:
    model = {"layers": [np.array([1.0, 2.0]), (np.array(3.0),)], "name": "net"}
    seen = []

    def gradient(model: Any, *batch: Any) -> tuple[Any, Any]:
        seen.append(batch)
        return np.float32(1.5), {"layers": [np.array([1.0, 1.0]), (np.array(2.0),)], "name": None}

    training = optirs.train(gradient, model, [1, (2, 3), [4]], RULE)
    assert seen == [(1,), (2, 3), (4,)]
    np.testing.assert_allclose(training.model["layers"][0], [0.7, 1.7])
    np.testing.assert_allclose(training.model["layers"][1][0], 2.4)
    assert list(training.history) == [1.5] * 3


class Reread:
    """Batches that are read anew each time."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches, self.reads = batches, 0

    def __iter__(self) -> Iterator[Any]:
        self.reads += 1
        return iter(self.batches)


def test_iterables_are_read_anew_each_epoch() -> None:
    model, data = problem()
    source = Reread([data])
    training = optirs.train(GRADIENT, model, source, RULE, epochs=3)
    assert source.reads >= 3
    assert_trained(training, by_hand(model, [data] * 3))


def test_an_iterator_that_is_read_more_than_once_is_told_before_anything_is_done() -> None:
    model, data = problem()
    assert len(optirs.train(GRADIENT, model, iter([data, data]), RULE).history) == 2
    assert len(optirs.train(GRADIENT, model, iter([data, data]), RULE, log_every=2).history) == 2
    for options in ({"epochs": 2}, {"log_every": 1}):
        source = iter([data, data])
        with pytest.raises(ValueError, match=r"data is read 2 times, .*: an iterator can be read once only"):
            optirs.train(GRADIENT, model, source, RULE, **options)
        assert len(list(source)) == 2
    used = iter([data])
    next(used)
    with pytest.raises(ValueError, match="no batch: an iterator can be read once only"):
        optirs.train(GRADIENT, model, used, RULE)


def test_arguments_that_are_swapped_are_told_without_the_whole_model() -> None:
    model, data = problem()
    with pytest.raises(TypeError) as caught:
        optirs.train(model, GRADIENT, data, RULE)
    assert str(caught.value) == (
        "train takes (gradient, model, data) in this order; the first argument is a model, Affine"
    )
    with pytest.raises(TypeError, match=r"train: mse is not a gradient function; use optirs.supervised\(...\)"):
        optirs.train(optirs.mse, model, data, RULE)


def test_data_without_a_batch() -> None:
    model, _ = problem()
    with pytest.raises(ValueError, match=r"data gave no batch$"):
        optirs.train(GRADIENT, model, [], RULE)


def test_the_log_has_the_loss_of_the_updated_model(caplog: pytest.LogCaptureFixture) -> None:
    model, data = problem()
    with caplog.at_level(logging.INFO, logger="optirs"):
        training = optirs.train(GRADIENT, model, data, RULE, epochs=5, log_every=2)
    after = optirs.train(GRADIENT, model, data, RULE, epochs=5).history
    # The loss of the model after epoch 2 is the loss of step 3, before its update.
    assert training.history.logged == [(2, after[2]), (4, after[4])]
    assert [record.name for record in caplog.records] == ["optirs"] * 2
    assert caplog.messages == [f"epoch {epoch}: loss {loss:.8g}" for epoch, loss in training.history.logged]


def test_the_logged_loss_is_the_mean_over_rows() -> None:
    model, (x, y) = problem()
    training = optirs.train(GRADIENT, model, (x, y), RULE, batch_size=4, log_every=1)
    expected = optirs.mse(training.model(x), y)
    assert training.history.logged == [(1, pytest.approx(expected, rel=1e-6))]

    def plain(*arguments: Any) -> Any:  # without the shortcut `.loss`
        return GRADIENT(*arguments)

    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    training = optirs.train(plain, model, batches, RULE, log_every=1)
    assert training.history.logged == [(1, pytest.approx(optirs.mse(training.model(x), y), rel=1e-6))]


def test_callbacks_see_every_step_and_may_stop() -> None:
    model, data = problem()
    events: list[optirs.Event] = []

    def stop_at_five(event: optirs.Event) -> bool:
        if event.step == 5:
            event.stop()
        return True  # is ignored

    training = optirs.train(
        GRADIENT, model, data, RULE, epochs=9, batch_size=5, callbacks=[events.append, stop_at_five], log_every=3
    )
    assert [(event.epoch, event.step) for event in events] == [(1, 1), (1, 2), (2, 3), (2, 4), (3, 5)]
    assert [event.loss for event in events] == list(training.history)
    assert events[-1].model is training.model
    assert events[-1].state is training.state
    assert training.history.logged == []
    assert not training.interrupted
    # What a callback keeps is not overwritten by later steps.
    early = optirs.train(GRADIENT, model, data, RULE, batch_size=5)
    assert same(events[1].model, early.model)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite(bad: float) -> None:
    model, data = problem()

    def gradient(model: Any, x: Any, y: Any) -> tuple[float, Any]:
        calls.append(model)
        loss, grad = GRADIENT(model, x, y)
        return (bad, grad) if len(calls) == 4 else (loss, grad)

    calls: list[Any] = []
    with pytest.raises(FloatingPointError, match=f"loss is {bad} in epoch 2, step 4") as caught:
        optirs.train(gradient, model, data, RULE, epochs=9, batch_size=4)
    error = caught.value
    assert isinstance(error, optirs.NonFiniteLossError)
    assert (error.epoch, error.step, len(error.history)) == (2, 4, 3)
    assert error.loss == bad or math.isnan(bad)
    # The last model that had a finite loss is the one of step 3, before its update.
    assert same(error.model, calls[2])
    assert same(error.model, optirs.train(GRADIENT, model, data, RULE, batch_size=4, callbacks=[stop_after(2)]).model)


def stop_after(steps: int) -> Any:
    return lambda event: event.stop() if event.step == steps else None


def test_a_loss_that_is_not_finite_at_once_or_in_the_log() -> None:
    model, (x, y) = problem()
    with pytest.raises(FloatingPointError, match="epoch 1, step 1") as caught:
        optirs.train(GRADIENT, model, (x * math.nan, y), RULE)
    assert same(caught.value.model, model)  # type: ignore[attr-defined]
    with pytest.raises(FloatingPointError, match="epoch 1, step 1") as caught:
        optirs.train(GRADIENT, model, (x, y), optirs.Descent(3e38), log_every=1)
    assert same(caught.value.model, model)  # type: ignore[attr-defined]


def test_ctrl_c_returns_what_has_been_trained() -> None:
    model, data = problem()

    def interrupt(event: optirs.Event) -> None:
        if event.step == 3:
            raise KeyboardInterrupt

    training = optirs.train(GRADIENT, model, data, RULE, epochs=9, callbacks=[interrupt])
    assert training.interrupted
    assert_trained(training, by_hand(model, [data] * 3))


@pytest.mark.parametrize("after", [False, True])
def test_ctrl_c_leaves_one_loss_for_every_update(after: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = problem()
    append, presses = optirs.History.append, [3]

    def interrupted(history: optirs.History, loss: float) -> None:
        press = presses == [len(history) + 1] and presses.pop()
        if press and not after:
            raise KeyboardInterrupt
        append(history, loss)
        if press:
            raise KeyboardInterrupt

    monkeypatch.setattr(optirs.History, "append", interrupted)
    training = optirs.train(lambda *batch: GRADIENT(*batch), model, data, RULE, epochs=9)
    assert (training.interrupted, presses) == (True, [])
    assert_trained(training, by_hand(model, [data] * 3))


def test_other_exceptions_go_through() -> None:
    model, data = problem()

    def fail(event: optirs.Event) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        optirs.train(GRADIENT, model, data, RULE, callbacks=[fail])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"rule": None}, TypeError, "a rule is needed, or a state"),
        ({"state": RULE}, TypeError, r"^train: state is the rule Descent\(.*\): a rule is the fourth argument"),
        ({"state": RULE, "rule": None}, TypeError, "^train: state is the rule Descent"),
        ({"state": optirs.Adam, "rule": None}, TypeError, "^train: state is the rule <class .*Adam'>"),
        (
            {"state": {"W": np.ones(3)}},
            TypeError,
            "^train: state must be .* setup or train returned, this dict has no L",
        ),
        ({"state": 3, "rule": None}, TypeError, "^train: state must be .* setup or train returned, this int has no L"),
        ({"gradient": optirs.mse}, TypeError, "use optirs.supervised"),
        ({"gradient": 3}, TypeError, "must be callable"),
        ({"gradient": lambda m, x, y: 1.0}, TypeError, r"must return \(loss, gradient\), got float"),
        ({"gradient": lambda m, x, y: ({}, 1.0)}, TypeError, "the loss is dict"),
        ({"gradient": lambda m, x, y: ("1.0", None)}, TypeError, "the loss is str"),
        ({"epochs": -1}, ValueError, "epochs must be >= 0"),
        ({"epochs": 1.0}, TypeError, "epochs must be an integer"),
        ({"epochs": True}, TypeError, "epochs must be an integer"),
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1"),
        ({"batch_size": "4"}, TypeError, "batch_size must be an integer"),
        ({"log_every": 0}, ValueError, "log_every must be >= 1"),
        ({"callbacks": print}, TypeError, "callbacks must be a sequence"),
        ({"callbacks": [3]}, TypeError, "a callback must be callable"),
        ({"callbacks": None}, TypeError, "callbacks must be a sequence of functions, got NoneType"),
        ({"data": np.ones((3, 3))}, TypeError, "data must be a tuple of arrays"),
        ({"data": {"x": 1}}, TypeError, "data must be a tuple of arrays"),
        ({"data": 3}, TypeError, "data must be a tuple of arrays"),
        ({"data": ()}, ValueError, "empty tuple"),
        ({"data": (np.ones((3, 3)), np.ones((4, 2)))}, ValueError, r"data\[0\] has 3 rows, data\[1\] has 4"),
        ({"data": (np.ones((0, 3)), np.ones((0, 2)))}, ValueError, "no rows"),
        ({"data": (np.ones((3, 3)), 1.0)}, ValueError, r"data\[1\] has shape \(\)"),
        ({"data": ((np.ones(3), 1), (np.ones(3), 1))}, TypeError, "batches go into a list"),
        ({"data": [(np.ones((3, 3)), np.ones((3, 2)))], "batch_size": 2}, ValueError, "batch_size needs data to be a"),
        ({"data": [(np.ones((3, 3)), np.ones((3, 2)))], "shuffle": True}, ValueError, "shuffle needs data to be a"),
        ({"model": {"a": np.ones(3)}}, TypeError, r"must have a method pullback\(x\)"),
        ({"data": (np.ones((3, 3)),) * 3}, TypeError, r"a batch must be \(x, y\), got 3 arrays"),
        ({"shuffle": True, "rng": optirs.Xoshiro(1)}, TypeError, "rng must be a numpy.random.Generator"),
        ({"rng": optirs.Xoshiro(1)}, TypeError, "rng must be a numpy.random.Generator"),
        ({"shuffle": True, "rng": -1}, ValueError, "train: rng must be .* a seed for one, got -1"),
        ({"shuffle": np.random.default_rng(0)}, TypeError, "shuffle must be True or False, got Generator; .* as rng"),
        ({"progress": "yes"}, TypeError, "progress must be True or False, got str"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    model, data = problem()
    arguments = {"gradient": GRADIENT, "model": model, "data": data, "rule": RULE, **change}
    with pytest.raises(error, match=message):
        optirs.train(**arguments)


def test_lists_of_numbers_are_arrays() -> None:
    model, (x, y) = problem()
    training = optirs.train(GRADIENT, model, (x.tolist(), y.tolist()), RULE, batch_size=4)
    assert same(training.model, optirs.train(GRADIENT, model, (x, y), RULE, batch_size=4).model)
