"""What `train` takes for its layers: used again in the next step, and given back however it ends."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

import optirs
from optirs.training._compiled import Compiled
from optirs.training.progress import Progress

FLOOR = 64 << 20
"""So many bytes may be kept at any time."""


def wide(rows: int, hidden: int = 512) -> tuple[optirs.Chain, tuple[np.ndarray, np.ndarray]]:
    """A training that takes much memory for its layers: their output, its gradient and room for another one."""
    rng = optirs.Xoshiro(0)
    layers = optirs.Dense.glorot(2, hidden, "tanh", rng=rng), optirs.Dense.glorot(hidden, 2, rng=rng)
    x = np.zeros((rows, 2), np.float32)
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


def turn_round(event: optirs.Event) -> None:
    """Makes the training one that goes on in Python."""
    event.model[0].W = np.asfortranarray(event.model[0].W)


class Fail:
    """A callback that ends the training after its second epoch."""

    def __init__(self, change: Callable[[optirs.Event], None] | None) -> None:
        self.change = change

    def on_epoch_end(self, event: optirs.Event) -> None:
        if self.change is not None:
            self.change(event)
        if event.epoch == 2:
            raise KeyError


@pytest.mark.parametrize("where", ["loss", "callback", "callback, in Python", "bar"])
def test_an_error_that_is_kept_keeps_no_memory_of_layers(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise KeyError

    model, (x, y) = wide(40_000)
    callbacks = [Fail(turn_round if "Python" in where else None)] if "callback" in where else []
    if where == "loss":
        y = np.where(np.arange(len(y)) == 30_000, np.float32(np.nan), y.T).T
    if where == "bar":
        monkeypatch.setattr(Progress, "advance", refuse)
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


def test_a_training_that_goes_on_in_python_lets_the_compiled_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    restarted, found = Compiled.restarted, []

    def seen(compiled: Compiled) -> Compiled | None:
        answer = restarted(compiled)
        found.append((answer, dict(vars(compiled))))
        return answer

    monkeypatch.setattr(Compiled, "restarted", seen)
    model, data = wide(20)
    with pytest.raises(KeyError):
        optirs.train(
            optirs.supervised(optirs.mse), model, data, optirs.Descent(0.1), epochs=3, callbacks=[Fail(turn_round)]
        )
    assert found == [(None, {})]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_made_during_a_training_keeps_no_more_than_others() -> None:
    model, data = wide(40_000)
    children = []

    def fork(event: optirs.Event) -> None:
        children.append(os.fork())
        if children[-1] == 0:
            code = 1
            try:
                optirs.supervised(optirs.mse)(model, *data)
                code = 0 if optirs.release_memory() <= FLOOR else 2
            finally:
                os._exit(code)

    tiny = optirs.Affine(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
    one = np.ones((1, 1), np.float32)
    optirs.train(optirs.supervised(optirs.mse), tiny, (one, one), optirs.Descent(), callbacks=[fork])
    _, status = os.waitpid(children[0], 0)
    assert os.waitstatus_to_exitcode(status) == 0


GROWTH = """
import resource
import numpy as np, optirs

def size():
    return resource.getpagesize() * int(open("/proc/self/statm").read().split()[1])

model = optirs.Chain(*[optirs.Dense.glorot(64, 64, "relu") for _ in range(10)])
gradient = optirs.supervised(optirs.mse)
x = np.ones((60_000, 64), np.float32)
gradient(model, x[:1], x[:1])
before = size()
for rows in (60_000, 20_000, 40_000, 60_000):
    {step}
print((size() - before) >> 20)
"""
TRAIN = "optirs.train(gradient, model, (x, x), optirs.Descent(), batch_size=rows{})"


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="Linux tells how large a process is")
@pytest.mark.parametrize(
    ("step", "bound"),
    [
        (TRAIN.format("") + "; optirs.release_memory()", 0),
        (TRAIN.format(""), FLOOR),
        (TRAIN.format(", callbacks=[print]"), FLOOR),
        ("gradient(model, x[:rows], x[:rows])", FLOOR),
    ],
)
def test_what_is_given_back_the_system_gets(step: str, bound: int) -> None:
    environment = {**os.environ, "OPTIRS_NUM_THREADS": "2"}  # each keeps a megabyte
    code = GROWTH.format(step=step)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) <= (bound >> 20) + 12
