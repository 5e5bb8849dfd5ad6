"""What `train` promises beyond its arithmetic: the same bits, resumption at any point, Ctrl-C in earnest."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import optirs

GRADIENT = optirs.supervised(optirs.crossentropy)
RULE = optirs.OptimiserChain(optirs.ClipNorm(1.0), optirs.AdamW(1e-2, lambda_=1e-3))


def problem(rows: int = 600) -> tuple[optirs.Chain, tuple[np.ndarray, np.ndarray]]:
    """A network whose products and updates are large enough to be shared out among threads."""
    rng = optirs.Xoshiro(3)
    model = optirs.Chain(optirs.Dense.glorot(64, 256, "relu", rng=rng), optirs.Dense.glorot(256, 10, rng=rng))
    x = rng.rand(rows, 64)
    return model, (x, x[:, :10].argmax(axis=1))


def bits(tree: Any) -> list[bytes]:
    return [array.tobytes() for array in optirs.trainables(tree)]


@pytest.fixture
def threads() -> Iterator[None]:
    before = optirs.get_num_threads()
    yield
    optirs.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_any_number_of_threads_gives_the_same_bits() -> None:
    model, data = problem()
    found = []
    for count in (1, 2, 3, 5):
        optirs.set_num_threads(count)
        training = optirs.train(
            GRADIENT,
            model,
            data,
            RULE,
            epochs=2,
            batch_size=256,
            shuffle=True,
            rng=np.random.default_rng(0),
            log_every=1,
        )
        found.append((bits(training.model), list(training.history), training.history.logged))
    assert all(answer == found[0] for answer in found)


def test_a_seed_and_a_generator_give_the_same_training() -> None:
    model, data = problem(50)
    options: dict[str, Any] = {"epochs": 2, "batch_size": 20, "shuffle": True}
    first = optirs.train(GRADIENT, model, data, RULE, rng=7, **options)
    for rng in (7, np.random.default_rng(7)):
        again = optirs.train(GRADIENT, model, data, RULE, rng=rng, **options)
        assert bits(again.model) == bits(first.model)
    other = optirs.train(GRADIENT, model, data, RULE, rng=8, **options)
    assert bits(other.model) != bits(first.model)


def test_shuffled_training_resumes_with_its_generator() -> None:
    model, data = problem(50)
    options: dict[str, Any] = {"batch_size": 20, "shuffle": True}
    whole = optirs.train(GRADIENT, model, data, RULE, epochs=4, rng=np.random.default_rng(5), **options)
    rng = np.random.default_rng(5)
    first = optirs.train(GRADIENT, model, data, RULE, epochs=3, rng=rng, **options)
    rest = optirs.train(GRADIENT, first.model, data, state=first.state, epochs=1, rng=rng, **options)
    assert bits(rest.model) == bits(whole.model)
    assert [*first.history, *rest.history] == list(whole.history)


def test_schedules_go_on_where_they_were() -> None:
    model, data = problem(50)
    eta = optirs.schedules.Warmup(optirs.schedules.Cosine(0.1, steps=8), steps=4)
    rule = optirs.Scheduled(optirs.Momentum(), eta=eta)
    whole = optirs.train(GRADIENT, model, data, rule, epochs=6, batch_size=25)
    first = optirs.train(GRADIENT, model, data, rule, epochs=3, batch_size=25)
    rest = optirs.train(GRADIENT, first.model, data, state=first.state, epochs=3, batch_size=25)
    assert bits(rest.model) == bits(whole.model)


@pytest.mark.usefixtures("bare_collector")
@pytest.mark.skipif(os.name != "posix", reason="signals are sent to the process")
@pytest.mark.parametrize("built_in", [True, False])
def test_a_real_ctrl_c_ends_the_training(built_in: bool) -> None:
    model, data = problem()
    gradient: Any = GRADIENT if built_in else lambda *arguments: GRADIENT(*arguments)

    def press() -> None:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    presser.start()
    training = optirs.train(gradient, model, data, RULE, epochs=10_000_000, batch_size=100)
    presser.join()
    assert training.interrupted
    steps = len(training.history)
    assert 0 < steps < 60_000_000
    # What comes back is whole: model and state are those of the last step in the history.
    assert training.state.layers[0].W.state[1]["t"] == steps
    again = optirs.train(GRADIENT, model, data, RULE, epochs=-(-steps // 6), batch_size=100, callbacks=[stop_at(steps)])
    assert bits(again.model) == bits(training.model)


@pytest.mark.usefixtures("bare_collector")
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="signals come from a timer")
@pytest.mark.parametrize("built_in", [True, False])
@pytest.mark.parametrize("options", [{}, {"log_every": 1}, {"shuffle": True, "rng": 0}], ids=str)
def test_ctrl_c_at_any_time(built_in: bool, options: dict[str, Any]) -> None:
    model, data = problem(20)
    gradient: Any = GRADIENT if built_in else lambda *arguments: GRADIENT(*arguments)
    delays = np.random.default_rng(0).uniform(0.002, 0.01, 40)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    returned = 0
    try:
        for delay in delays:
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                training = optirs.train(gradient, model, data, optirs.Adam(), epochs=10**9, batch_size=8, **options)
            except KeyboardInterrupt:  # before the first step
                continue
            returned += 1
            counts = {layer.W.state["t"] for layer in training.state} | {layer.b.state["t"] for layer in training.state}
            assert (training.interrupted, counts) == (True, {len(training.history)})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert returned > 0


def stop_at(steps: int) -> Any:
    return lambda event: event.stop() if event.step == steps else None


def test_an_interrupted_training_goes_on() -> None:
    model, data = problem(50)

    def interrupt(event: optirs.Event) -> None:
        if event.step == 3:
            raise KeyboardInterrupt

    first = optirs.train(GRADIENT, model, data, RULE, epochs=9, callbacks=[interrupt])
    rest = optirs.train(GRADIENT, first.model, data, state=first.state, epochs=6)
    assert bits(rest.model) == bits(optirs.train(GRADIENT, model, data, RULE, epochs=9).model)


@pytest.mark.usefixtures("threads")
def test_trainings_in_many_threads_at_once() -> None:
    optirs.set_num_threads(2)
    model, data = problem(200)
    rates = [1e-3, 3e-3, 1e-2, 3e-2]

    def run(rate: float) -> list[bytes]:
        return bits(optirs.train(GRADIENT, model, data, optirs.Adam(rate), epochs=3, batch_size=50).model)

    found: dict[float, list[bytes]] = {}
    workers = [threading.Thread(target=lambda rate=rate: found.update({rate: run(rate)})) for rate in rates]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == {rate: run(rate) for rate in rates}


def test_an_error_of_the_data_names_the_place_and_leaves_nothing_running() -> None:
    model, (x, y) = problem(50)
    wrong = np.where(np.arange(50) == 49, 10, y)
    with pytest.raises((ValueError, IndexError), match="10"):
        optirs.train(GRADIENT, model, (x, wrong), RULE, batch_size=20)
    assert len(optirs.train(GRADIENT, model, (x, y), RULE, batch_size=20).history) == 3


@pytest.mark.parametrize("log_every", [None, 2])
@pytest.mark.parametrize("more", [[], [lambda event: None]])
def test_the_last_good_model_is_not_one_that_a_callback_has_spoilt(log_every: int | None, more: list[Any]) -> None:
    class Spoil:
        def on_epoch_end(self, event: optirs.Event) -> None:
            if event.epoch == 2:
                event.model[0].W[0, 0] = np.nan

    model, data = problem(20)
    with pytest.raises(optirs.NonFiniteLossError) as caught:
        optirs.train(GRADIENT, model, data, RULE, epochs=4, log_every=log_every, callbacks=[Spoil(), *more])
    assert all(np.isfinite(array).all() for array in optirs.trainables(caught.value.model))
    assert (caught.value.epoch, caught.value.step) == (3, 3)


@pytest.mark.parametrize("hook", ["on_step_end", "on_epoch_end"])
def test_any_exception_of_a_callback_comes_through(hook: str) -> None:
    class End:
        def end(self, event: optirs.Event) -> None:
            raise StopIteration(event.step)

    callback: Any = End()
    setattr(callback, hook, callback.end)
    model, data = problem(20)
    with pytest.raises(StopIteration):
        optirs.train(GRADIENT, model, data, RULE, epochs=2, callbacks=[callback])


def test_a_failed_training_can_be_pickled() -> None:
    with pytest.raises(FloatingPointError) as caught:
        optirs.train(lambda m, x: (float("nan"), None), {"w": np.ones(2)}, (np.ones(3),), optirs.Adam())
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert (again.model["w"] == 1).all()


def test_small_integers_of_numpy_count_far() -> None:
    model, data = problem(20)
    training = optirs.train(GRADIENT, model, data, RULE, epochs=np.uint8(200), log_every=np.uint8(130))
    assert (len(training.history), [epoch for epoch, _ in training.history.logged]) == (200, [130])
