"""What `train` promises beyond its arithmetic: the same bits, resumption at any point, Ctrl-C in earnest."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
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


FLOOR = 64 << 20
"""So many bytes may be kept at any time."""


def wide(rows: int, hidden: int = 512) -> tuple[optirs.Chain, tuple[np.ndarray, np.ndarray]]:
    """A training that takes much memory for its layers: their output, its gradient and room for another one."""
    rng = optirs.Xoshiro(0)
    layers = optirs.Dense.glorot(1, hidden, "tanh", rng=rng), optirs.Dense.glorot(hidden, 1, rng=rng)
    x = np.zeros((rows, 1), np.float32)
    return optirs.Chain(*layers), (x, x)


@pytest.mark.parametrize("end", [None, KeyboardInterrupt, KeyError])
def test_the_memory_of_a_step_is_kept_for_the_next_one_and_given_back_at_the_end(end: type | None) -> None:
    rows, hidden = 40_000, 512
    model, data = wide(rows, hidden)

    def train(after_step: Callable[[], object]) -> None:
        def callback(event: optirs.Event) -> None:
            after_step()
            if event.step == 3 and end is not None:
                raise end

        with pytest.raises(KeyError) if end is KeyError else contextlib.nullcontext():
            optirs.train(
                optirs.supervised(optirs.mse), model, data, optirs.Descent(0.1), epochs=3, callbacks=[callback]
            )

    optirs.release_memory()
    kept: list[int] = []
    train(lambda: kept.append(optirs.release_memory()))
    assert len(kept) == 3
    assert all(3 <= size / (4 * hidden * rows) < 4 for size in kept)
    train(lambda: None)
    assert optirs.release_memory() <= FLOOR


@pytest.mark.parametrize("where", ["loss", "callback", "callback, in Python"])
def test_an_error_that_is_kept_keeps_no_memory_of_layers(where: str) -> None:
    class Fail:
        def on_epoch_end(self, event: optirs.Event) -> None:
            if "Python" in where:
                event.model[0].W = np.asfortranarray(event.model[0].W)
            if event.epoch == 2:
                raise KeyError

    model, (x, y) = wide(40_000)
    callbacks = [Fail()] if "callback" in where else []
    if where == "loss":
        y = np.where(np.arange(len(y)) == 30_000, np.float32(np.nan), y.T).T
    kept = []
    for _ in range(2):
        with pytest.raises((KeyError, optirs.NonFiniteLossError)) as caught:
            optirs.train(
                optirs.supervised(optirs.mse), model, (x, y), optirs.Descent(0.1), batch_size=20_000, epochs=3,
                callbacks=callbacks,
            )  # fmt: skip
        kept.append(caught.value)
        # Of what is in use, as much again may be kept: were the layers' memory in use, here would be more.
        optirs.supervised(optirs.mse)(model, x, y)
        assert optirs.release_memory() <= FLOOR


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_made_during_a_training_keeps_no_more_than_others() -> None:
    model, data = wide(40_000)
    children = []

    def fork(event: optirs.Event) -> None:
        children.append(os.fork())
        if children[-1] == 0:
            optirs.supervised(optirs.mse)(model, *data)
            os._exit(optirs.release_memory() > FLOOR)

    tiny = optirs.Affine(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
    optirs.train(
        optirs.supervised(optirs.mse), tiny, (np.ones((1, 1)), np.ones((1, 1))), optirs.Descent(), callbacks=[fork]
    )
    _, status = os.waitpid(children[0], 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="Linux tells how large a process is")
def test_what_is_released_the_system_gets() -> None:
    code = """
import numpy, optirs
page = 4096
def size():
    return page * int(open("/proc/self/statm").read().split()[1])
model = optirs.Chain(optirs.Dense.glorot(64, 1024, "relu"), optirs.Dense.glorot(1024, 2))
gradient = optirs.supervised(optirs.mse)
x, y = numpy.ones((4000, 64), "f4"), numpy.ones((4000, 2), "f4")
gradient(model, x[:1], y[:1])
before = size()
for _ in range(3):
    for rows in (4000, 1000, 1000, 2000):
        optirs.train(gradient, model, (x, y), optirs.Adam(), epochs=2, batch_size=rows)
        optirs.release_memory()
print((size() - before) >> 20)
"""
    environment = {**os.environ, "OPTIRS_NUM_THREADS": "2"}  # each keeps a megabyte
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 12


def test_small_integers_of_numpy_count_far() -> None:
    model, data = problem(20)
    training = optirs.train(GRADIENT, model, data, RULE, epochs=np.uint8(200), log_every=np.uint8(130))
    assert (len(training.history), [epoch for epoch, _ in training.history.logged]) == (200, [130])
