"""`Training.compiled` and `Training.reason`: which loop ran, and why it was not the compiled one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from networks import data, layer, network
from trainings import Doubling

import optirs
from optirs import _core, rules
from optirs.training._compiled import CONVERTED, Compiled

GRADIENT = optirs.supervised(optirs.mse)
X, Y = data("mse", 20)
SQUARE = layer(4, 4, "tanh")


class Recorder:
    def on_step_end(self, event: optirs.Event) -> None:
        pass


class Tripling(optirs.Descent):
    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        return state, 3 * dx


class Absolute:
    """A loss that is none of this library."""

    def __call__(self, yhat: Any, y: Any) -> float:
        return float(np.abs(yhat - y).mean())

    def pullback(self, yhat: Any, y: Any) -> Any:
        return self(yhat, y), np.sign(yhat - y) / yhat.size


class Own(optirs.Affine):
    pass


optirs.functor(children=("W", "b"))(Own)


def watch(event: optirs.Event) -> None:
    pass


def own() -> Own:
    return Own(np.ones((3, 4), np.float32), np.zeros(3, np.float32))


def changed(change: Callable[[Any], None]) -> optirs.Chain:
    """The network of these tests with a change."""
    model = network()
    change(model)
    return model


def deep(chains: int) -> Any:
    model: Any = layer(4, 3, "identity")
    for _ in range(chains):
        model = optirs.Chain(model)
    return model


def only_first(path: optirs.KeyPath, _: Any) -> optirs.Rule | None:
    return optirs.Adam() if path[1] == 0 else None


def set_W(array: Any) -> Callable[[Any], None]:
    return lambda model: setattr(model[0], "W", array(model[0].W))


FALLING = optirs.schedules.Exponential(0.05, 0.9)
HELD_OUT = optirs.HeldOut(GRADIENT, (X, Y), unit="step")
MINE = "is one of your own"
NO_LAYER = "which is not of this library"
REASONS: dict[str, tuple[dict[str, Any], str]] = {
    "a function after steps": ({"callbacks": [watch]}, "callbacks run after every step: watch"),
    "a lambda after steps": ({"callbacks": [lambda event: None]}, "callbacks run after every step: <lambda>"),
    "objects after steps": (
        {"callbacks": [Recorder(), optirs.HeldOut(GRADIENT, (X, Y)), HELD_OUT]},
        "callbacks run after every step: Recorder.on_step_end, HeldOut.on_step_end",
    ),
    "a gradient function": (
        {"gradient": lambda *batch: GRADIENT(*batch)},
        "the gradient function is no supervised(...) of a built-in loss: <lambda>",
    ),
    "a loss": ({"gradient": optirs.supervised(Absolute())}, f"the loss in supervised(...) {MINE}: Absolute"),
    "batches": ({"data": [(X, Y)]}, "data is no tuple of arrays, but an iterable of batches"),
    "an array's class": (
        {"data": (X, Y.view(np.ma.MaskedArray))},
        "data[1] is of the class MaskedArray, no plain NumPy array",
    ),
    "a layer": (
        {"model": optirs.Chain(layer(4, 4, "tanh"), optirs.Chain(own()))},
        f"the layer at layers[1].layers[0] is of the class Own, {NO_LAYER}",
    ),
    "a model": ({"model": own()}, f"the model is of the class Own, {NO_LAYER}"),
    "layers in a list": (
        {"model": changed(lambda model: setattr(model[1], "layers", list(model[1].layers)))},
        "the layer at layers[1] has its layers in a list, not in a tuple",
    ),
    "many chains": (
        {"model": deep(101)},
        f"the layer at {optirs.KeyPath(('layers', 0) * 100)} is more than 100 chains deep",
    ),
    "a rule": ({"rule": Doubling()}, f"the rule at layers[0].W {MINE}: Doubling"),
    "a rule in a chain": (
        {"rule": optirs.OptimiserChain(optirs.ClipNorm(), optirs.OptimiserChain(optirs.Adam(), Doubling()))},
        f"the rule at layers[0].W {MINE}: Doubling",
    ),
    "a rule in wrappers": (
        {"rule": optirs.MixedPrecision(optirs.OptimiserChain(optirs.Scheduled(Tripling(), eta=FALLING)))},
        f"the rule at layers[0].W {MINE}: Tripling",
    ),
    "a rule of some": (
        {"rule": lambda path, _: Tripling() if path[-1] == "b" else optirs.Adam()},
        f"the rule at layers[0].b {MINE}: Tripling",
    ),
    "a function as a schedule": (
        {"rule": optirs.Scheduled(optirs.Descent(), eta=lambda t: 0.1 / (t + 1))},
        "a schedule of the rule at layers[0].W is a function",
    ),
    "an order": (
        {"model": changed(set_W(np.asfortranarray))},
        "the parameter at layers[0].W is not C-contiguous",
    ),
    "a transpose": (
        {"model": optirs.Chain(SQUARE, optirs.Dense(SQUARE.W.T, SQUARE.b.copy())), "data": (X, X)},
        "the parameter at layers[1].W is not C-contiguous",
    ),
    "a tie in float64": (
        {
            "model": optirs.Chain(*[optirs.Dense(SQUARE.W.astype(float), SQUARE.b.astype(float), "tanh")] * 2),
            "data": (X, X),
        },
        "layers[1].W stands at several places, whose gradients are added up in float64",
    ),
    "a tie to what is not trained": (
        {
            "model": optirs.Chain(SQUARE, optirs.Dense(SQUARE.W, SQUARE.b.copy())),
            "data": (X, X),
            "state": optirs.setup(only_first, optirs.Chain(SQUARE, layer(4, 4, "tanh", 1))),
        },
        "the parameter at layers[0].W also stands at layers[1].W, where it is not trained",
    ),
}


def trained(**changes: Any) -> optirs.Training:
    options = {"gradient": GRADIENT, "model": network(), "data": (X, Y), "rule": optirs.Adam(0.01), "epochs": 2}
    options |= {"rule": None} if "state" in changes else {}
    return optirs.train(**(options | changes))


@pytest.mark.parametrize(("changes", "reason"), REASONS.values(), ids=REASONS)
def test_why_the_loop_ran_in_python(started: list[bool], changes: dict[str, Any], reason: str) -> None:
    for epochs in (2, 0):  # without a step it is the one that would have run
        training = trained(**changes, epochs=epochs)
        assert (training.compiled, training.reason) == (False, reason)
        assert len(training.history) == epochs
    assert started == [False, False]


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_the_compiled_loop_has_no_reason(started: list[bool], epochs: int) -> None:
    training = trained(epochs=epochs)
    assert (training.compiled, training.reason) == (True, "")
    assert started == [True]


LONG = np.broadcast_to(np.zeros(1), (CONVERTED // 4 + 1, 4))
NEVER: dict[str, tuple[dict[str, Any], str]] = {
    "three arrays": ({"data": (X, Y, Y)}, "data must be two arrays, (x, y), and has 3"),
    "large data": (
        {"data": (LONG, LONG[:, :3].astype(np.float32))},
        f"data[0] is float64 and larger than is converted as a whole: {LONG.size} elements",
    ),
    "one row": ({"data": (X[0], X[0])}, "data[0] has shape (4,), it must have rows and columns"),
    "other columns": ({"data": (X[:, :3], Y)}, "x has shape (20, 3), the model takes (4,) or (batch, 4)"),
    "other targets": ({"data": (X, Y[:, :2])}, "mse: yhat has shape (20, 3), y has (20, 2)"),
    "no layers": ({"model": optirs.Chain(optirs.Chain())}, "the model has no layers of this library"),
    "a dict": ({"model": {"a": np.ones(3)}}, f"the model is of the class dict, {NO_LAYER}"),
}


@pytest.mark.filterwarnings("ignore:setup found no trainable parameters")
@pytest.mark.parametrize(("changes", "reason"), NEVER.values(), ids=NEVER)
def test_what_no_loop_trains_has_a_reason_before_the_first_step(changes: dict[str, Any], reason: str) -> None:
    training = trained(**changes, epochs=0)
    assert (training.compiled, training.reason) == (False, reason)


@pytest.mark.skipif(np.dtype(np.longdouble).itemsize == 8, reason="longdouble is float64 here")
def test_an_array_that_no_rule_steps() -> None:
    model = network()
    model[1][0].b = model[1][0].b.astype(np.longdouble)
    reason = "the array at layers[1].layers[0].b is of a type that no rule steps"
    assert trained(model=model, epochs=0).reason == reason


class Change:
    """A callback that changes something after epoch 2."""

    def __init__(self, change: Callable[[optirs.Event], None]) -> None:
        self.change = change

    def on_epoch_end(self, event: optirs.Event) -> None:
        if event.epoch == 2:
            self.change(event)


def turn(event: optirs.Event) -> None:
    event.model[0].W = np.asfortranarray(event.model[0].W)


def bend(event: optirs.Event) -> None:
    event.model[0].activation = "relu"


def replace(event: optirs.Event) -> None:
    for tree in (event.model, event.state):
        tree[1].layers = (Own(tree[1].layers[0].W, tree[1].layers[0].b),)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (turn, "the parameter at layers[0].W is not C-contiguous"),
        (bend, "the model has other layers than before"),
        (replace, f"the layer at layers[1].layers[0] is of the class Own, {NO_LAYER}"),
    ],
)
def test_a_loop_that_goes_on_in_python_says_since_when(
    started: list[bool], change: Callable[[optirs.Event], None], reason: str
) -> None:
    training = trained(epochs=4, callbacks=[Change(change)])
    assert (training.compiled, training.reason) == (False, f"from epoch 3 on: {reason}")
    assert len(training.history) == 4
    assert started == [True, True, False]
    # What would have come after the last epoch does not matter.
    training = trained(epochs=2, callbacks=[Change(change)])
    assert (training.compiled, training.reason) == (True, "")


def test_ctrl_c_before_and_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupt:
        def on_epoch_end(self, event: optirs.Event) -> None:
            raise KeyboardInterrupt

    training = trained(callbacks=[Interrupt()])
    assert (training.interrupted, training.compiled, training.reason) == (True, True, "")
    monkeypatch.setattr(Compiled, "start", classmethod(lambda cls, run: Interrupt().on_epoch_end(run)))
    training = trained()
    assert (training.interrupted, training.compiled) == (True, False)
    assert training.reason == "it was interrupted before it began"


def test_a_training_made_by_hand_needs_neither() -> None:
    assert optirs.Training("model", "state", optirs.History(), True) == optirs.Training(
        model="model", state="state", history=optirs.History(), interrupted=True, reason=""
    )


def pairs(models: list[Any], states: list[Any] | None = None) -> list[tuple[Any, Any]]:
    """Sets for the compiled loop as `train` never makes them."""
    states = [optirs.setup(optirs.Adam(), model) for model in models] if states is None else states
    return list(zip(states, models, strict=True))


def test_the_compiled_loop_refuses_sets_that_do_not_fit() -> None:
    def refused(sets: list[tuple[Any, Any]], batch: int = 7) -> Any:
        return _core.Fit.start("mse", sets, X, X, batch)

    one, two = (layer(4, 4, "tanh", seed) for seed in (1, 2))
    assert isinstance(refused(pairs([one, two])), _core.Fit)
    assert refused(pairs([one, two]), 0) == "a batch of 0 rows is no batch"
    states = [
        optirs.setup(rule, one) for rule in (optirs.Adam(), lambda path, _: None if path[-1] == "b" else optirs.Adam())
    ]
    assert refused(pairs([one, two], states)) == "the two states at b differ"
    deeper = optirs.setup(optirs.Adam(), {"layer": one, "more": np.ones(2)})
    assert refused(pairs([one, two], [deeper] * 2)) == "the layers of model or state have other children than W and b"
    tied = [optirs.Chain(square, square) for square in (one, two)]
    loose = [optirs.Chain(square, layer(4, 4, "tanh")) for square in (one, two)]
    states = [optirs.setup(optirs.Adam(), model) for model in tied]
    reason = "layers[0].W and layers[1].W are one parameter in the state, but different arrays"
    assert refused(pairs(loose, states)) == reason
    for array, words in (
        (np.ones((4, 4)), "is of another type than its Leaf"),
        (one.W.astype(one.W.dtype.newbyteorder()), "is in the byte order of other machines"),
        (np.frombuffer(b"\0" * 65, np.uint8)[1:].view(np.float32).reshape(4, 4), "is not aligned"),
        (np.ones((4, 8), np.float32)[:, ::2], "is not C-contiguous"),
    ):
        other = optirs.Dense(one.W, one.b)
        state = optirs.setup(optirs.Adam(), other)
        other.W = array
        assert refused(pairs([other, two], [state] * 2)) == f"the parameter at W {words}"
    other = layer(3, 4, "tanh")
    states = [optirs.setup(optirs.Adam(), other)] * 2
    assert refused(pairs([one, two], states)) == "the parameter at W has another shape than its Leaf"
    turned = optirs.setup(optirs.Adam(), optirs.Dense(np.asfortranarray(one.W), one.b))
    assert refused(pairs([one, two], [turned] * 2)) == "the parameter at W lies in another order than its Leaf says"


@dataclass(frozen=True)
class Around(optirs.Rule):
    """A rule of one's own that holds another one."""

    inner: optirs.Rule

    def init(self, x: Any) -> Any:
        return optirs.init(self.inner, x)

    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        return optirs.apply(self.inner, state, x, dx)


def test_the_rule_of_ones_own_is_found() -> None:
    chain, around = optirs.OptimiserChain, Around(Doubling())
    for rule, name in (
        (Doubling(), "Doubling"),
        (around, "Around"),
        (chain(optirs.Adam(), around, Doubling()), "Around"),
        (optirs.MixedPrecision(optirs.Scheduled(Tripling(), eta=FALLING)), "Tripling"),
    ):
        assert rules.own(rule) == name
