"""What `train` takes for its layers: used again in the next step, and given back however it ends."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

import optirs

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
