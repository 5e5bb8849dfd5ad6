"""What must not crash, corrupt or go half-way: code of others that runs in the middle of an update."""

import gc
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from changing import STEPS, Late

import optirs


def pair() -> tuple[dict[str, Any], Any]:
    model = {"a": np.ones(4), "b": np.ones((2, 50))}
    return model, optirs.setup(optirs.Momentum(0.1), model)


@STEPS
@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.resize(1, refcheck=False),
        lambda x: setattr(x, "shape", (4, 25)),
        lambda x: setattr(x, "dtype", np.uint8),
    ],
    ids=["resize", "shape", "dtype"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_arrays_that_change_under_an_update(step: Any, act: Any) -> None:
    model, state = pair()
    gradient = {"a": Late(np.ones(4), lambda: act(model["b"])), "b": np.ones((2, 50))}
    with pytest.raises((RuntimeError, ValueError, TypeError)):
        step(state, model, gradient)
    assert (model["a"] == 1).all()
    assert (state["a"].state["velocity"] == 0).all()


@STEPS
def test_a_gradient_that_changes_under_an_update(step: Any) -> None:
    model, state = pair()
    early = np.ones(4)
    late = Late(np.ones((2, 50)), lambda: early.resize(1, refcheck=False))
    with pytest.raises(RuntimeError, match="gradient at a was changed"):
        step(state, model, {"a": early, "b": late})


class Shrinking(np.ndarray):
    """An array whose `copy` and dispatch lie."""

    def copy(self, *args: Any) -> Any:
        return np.ones(1)

    def __array_function__(self, *args: Any) -> Any:
        raise KeyboardInterrupt


def test_methods_of_arrays_are_not_trusted() -> None:
    x = np.arange(50.0).view(Shrinking)
    model = {"a": x, "b": np.ones((2, 6))[:, ::2].view(Shrinking)}
    state = optirs.setup(optirs.Descent(0.5), {"a": np.asarray(x), "b": np.ones((2, 3))})
    optirs.update_(state, model, {"a": x, "b": np.ones((2, 3))})
    assert (np.asarray(x) == np.arange(50.0) / 2).all()
    assert (np.asarray(model["b"]) == 0.5).all()


def test_a_rule_that_locks_another_parameter() -> None:
    model: dict[str, Any] = {"a": np.ones(2), "b": np.ones(2)}

    @dataclass(frozen=True)
    class Locks(optirs.Rule):
        def init(self, x: Any) -> None:
            return None

        def apply(self, state: None, x: Any, dx: Any) -> tuple[None, Any]:
            model["b"].flags.writeable = False
            return None, dx

    state = optirs.setup(lambda path, x: Locks() if path == ("b",) else optirs.Momentum(), model)
    with pytest.raises(RuntimeError, match="parameter at b was changed"):
        optirs.update_(state, model, {"a": np.ones(2), "b": np.ones(2)})
    assert (model["a"] == 1).all()
    assert (state["a"].state["velocity"] == 0).all()


def test_a_parameter_may_not_lie_in_the_state() -> None:
    model, state = pair()
    model["a"] = state["a"].state["velocity"]
    with pytest.raises(ValueError, match="parameter at a lies in the memory of the state"):
        optirs.update_(state, model, {"a": np.ones(4)})


def test_memory_that_is_not_there() -> None:
    with pytest.raises(MemoryError):
        optirs.setup(optirs.Adam(), {"w": np.broadcast_to(np.float32(1), (10**15,))})


def test_the_top_has_a_name() -> None:
    with pytest.raises(TypeError, match="the parameter at the top is complex128"):
        optirs.setup(optirs.ClipGrad(), np.ones(2, complex))


def test_frozen_gradients_are_checked() -> None:
    model, state = pair()
    optirs.freeze_(state)
    with pytest.raises(ValueError, match=r"gradient at a has shape \(9,\), the parameter has \(4,\)"):
        optirs.update_(state, model, {"a": np.ones(9)})


INTERRUPTED = """
import signal, sys, threading, time
import numpy as np, optirs

model = [np.zeros(size, np.float32) for size in (3_000_000, 7, 2_000_000)]
gradient = [np.ones_like(x) for x in model]
state = optirs.setup(optirs.Momentum(1.0, rho=0.0), model)
started = threading.Event()
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have switched off

def interrupt():
    started.wait()
    time.sleep(float(sys.argv[1]))
    signal.raise_signal(signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    started.set()
    while True:
        optirs.update_(state, model, gradient)
except KeyboardInterrupt:
    pass
steps = -model[0][0]
assert steps == int(steps) > 0
assert all((x == -steps).all() for x in model)
assert all((leaf.state["velocity"] == 1).all() for leaf in state)
optirs.update_(state, model, gradient)
assert all((x == -steps - 1).all() for x in model)
print("whole")
"""


@pytest.mark.parametrize("delay", [0.03, 0.0512, 0.0777, 0.1])
def test_ctrl_c_leaves_a_whole_step(delay: float) -> None:
    run = subprocess.run([sys.executable, "-c", INTERRUPTED, str(delay)], capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("whole\n", "")


LONG = """
import signal, sys
import numpy as np, optirs

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell may have switched off
optirs.set_num_threads(1)
rule = optirs.OptimiserChain(optirs.ClipNorm(1e9), optirs.Adam(), optirs.Momentum(1.0, rho=0.0))
model = {"a": np.zeros(4_000_000, np.float32), "b": [np.zeros(4_000_000, np.float32), np.zeros(3)]}
gradient = {"a": np.ones_like(model["a"]), "b": [np.ones_like(x) for x in model["b"]]}
state = optirs.setup(rule, model)
steps = 0
print("started", flush=True)
try:
    while True:
        state, new = getattr(optirs, sys.argv[1])(state, model, gradient)
        steps, model = steps + 1, new
except KeyboardInterrupt:
    pass
leaves = [state["a"], *state["b"]]
counts = {leaf.state[1]["t"] for leaf in leaves}
assert len(counts) == 1 and counts <= {steps, steps + 1}, (counts, steps)
assert all(np.unique(x).size == 1 for x in (model["a"], *model["b"]))
assert all(np.unique(leaf.state[1]["m"]).size == 1 for leaf in leaves)
optirs.update_(state, model, gradient)
assert {leaf.state[1]["t"] for leaf in leaves} == {counts.pop() + 1}
print("whole")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT can be sent here")
@pytest.mark.parametrize("step", ["update", "update_"])
@pytest.mark.parametrize("delay", [0.02, 0.11, 0.23])
def test_a_signal_from_outside_is_answered_promptly_and_leaves_a_whole_step(step: str, delay: float) -> None:
    child = subprocess.Popen([sys.executable, "-c", LONG, step], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == "started\n"
        time.sleep(delay)
        child.send_signal(signal.SIGINT)
        try:
            rest, _ = child.communicate(timeout=10)  # a step takes a fraction of a second
        finally:
            child.kill()
    assert (rest, child.returncode) == ("whole\n", 0)


def test_adjusting_and_freezing_are_all_or_nothing_beside_an_update() -> None:
    model, state = pair()

    def adjust() -> None:
        for act in (lambda: optirs.adjust_(state, 0.5), lambda: optirs.freeze_(state)):
            with pytest.raises(RuntimeError, match="in use by another update"):
                act()

    gradient = {"a": np.ones(4), "b": Late(np.ones((2, 50)), adjust)}
    optirs.update_(state, model, gradient)
    rules = {leaf.rule for leaf in state.values()}
    assert rules == {optirs.Momentum(0.1)}
    assert not any(leaf.frozen for leaf in state.values())


def fails(error: BaseException) -> Any:
    raise error


@optirs.functor(children=("W",))
class One:
    def __init__(self, W: Any) -> None:
        self.W = W


@STEPS
def test_gradients_whose_attributes_raise_name_the_place(step: Any) -> None:
    class Raising:
        W = property(lambda self: fails(OSError("gone")))

    model = {"layers": [One(np.ones(2))]}
    state = optirs.setup(optirs.Descent(), model)
    with pytest.raises(ValueError, match=r"Raising at layers\[0\] has no readable attribute W: OSError: gone"):
        step(state, model, {"layers": [Raising()]})
    late = Late(None, lambda: fails(OSError("gone")))
    with pytest.raises(OSError, match="gone") as caught:
        step(state, model, {"layers": [{"W": late}]})
    assert caught.value.__notes__ == ["for the gradient at layers[0].W"]
    assert (model["layers"][0].W == 1).all()


def test_containers_that_cannot_be_copied_are_left_alone() -> None:
    class Same(dict):  # type: ignore[type-arg]
        def __copy__(self) -> Any:
            return self

    x = np.ones(2)
    model = Same(w=x)
    for act in (
        lambda: optirs.setup(optirs.Descent(), model),
        lambda: optirs.update({"w": optirs.setup(optirs.Descent(), x)}, model, {"w": x}),
    ):
        with pytest.raises(TypeError, match=r"copy\.copy of a Same returns the object itself"):
            act()
    assert model["w"] is x
    assert (x == 1).all()


@pytest.mark.parametrize("kept", [[1], [0, 2], [2], []], ids=str)
def test_containers_that_change_while_they_are_copied(kept: list[int]) -> None:
    class Copied(dict):  # type: ignore[type-arg]
        def __copy__(self) -> Any:
            untrained[:] = [untrained[i] for i in kept]
            return Copied(self)

    x, untrained = np.ones(2), [np.full(3, 5.0)]
    untrained += [x, np.full(4, 6.0)]
    model = {"trained": Copied(w=x), "untrained": untrained}
    state = {"trained": {"w": optirs.setup(optirs.Descent(), x)}, "untrained": None}
    with pytest.raises(RuntimeError, match="was changed during the update, at "):
        optirs.update(state, model, {"trained": {"w": np.ones(2)}})
    assert (x == 1).all()


class Cycle:
    """Garbage that only the collector finds, and that does something when it does."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.self, self.act = self, act

    def __del__(self) -> None:
        self.act()


@STEPS
def test_arrays_that_the_collector_resizes(step: Any) -> None:
    # Objects made in the middle of an update may set the collector off, and with it any code. Either the step is made,
    # or the change is noticed and nothing is written.
    threshold = gc.get_threshold()
    rule = optirs.OptimiserChain(optirs.Momentum(), optirs.ClipNorm())
    try:
        for count in range(1, 60):
            model = {"a": np.ones(50_000, np.float32), "b": np.ones(50_000, np.float32)}
            gradient = {k: np.ones_like(x) for k, x in model.items()}
            state = optirs.setup(rule, model)
            gc.collect()
            gc.disable()
            Cycle(lambda x=model["b"]: x.resize((0,), refcheck=False))
            gc.set_threshold(count, 1, 1)
            gc.enable()
            try:
                step(state, model, gradient)
            except (RuntimeError, ValueError):
                assert (model["a"] == 1).all()
    finally:
        gc.set_threshold(*threshold)


def test_an_array_that_overlaps_itself_ten_billion_times() -> None:
    model = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (10**10,), (0,))
    state = optirs.setup(optirs.Descent(), model)
    with pytest.raises(ValueError, match="shares elements with itself"):
        optirs.update_(state, model, None)
