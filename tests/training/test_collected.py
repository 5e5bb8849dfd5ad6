"""Gradients that an `AccumGrad` holds when a training ends are told of, once."""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import optirs
from optirs import AccumGrad, Adam, MixedPrecision, OptimiserChain, Scheduled

GRADIENT = optirs.supervised(optirs.mse)


def text(count: int, n: int) -> str:
    return (
        f"AccumGrad holds {count} of {n} gradients that no step has used: they stay in the state, and a training that "
        "resumes from it goes on with them"
    )


@dataclass(frozen=True)
class Own(optirs.Rule):
    def init(self, x: Any) -> dict[str, int]:
        return {"count": 1}  # no AccumGrad's

    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        return state, dx


def scheduled(rule: optirs.Rule) -> Scheduled:
    return Scheduled(rule, eta=optirs.schedules.Constant(0.1))


CHAIN = OptimiserChain(AccumGrad(4), Adam())
RULES = {
    "alone": (AccumGrad(4), [(2, 4)]),
    "in a chain": (CHAIN, [(2, 4)]),
    "nested": (OptimiserChain(optirs.ClipGrad(1.0), OptimiserChain(CHAIN), OptimiserChain()), [(2, 4)]),
    "scheduled": (scheduled(CHAIN), [(2, 4)]),
    "behind a scheduled one": (OptimiserChain(scheduled(optirs.Descent()), AccumGrad(7)), [(6, 7)]),
    "mixed": (MixedPrecision(CHAIN), [(2, 4)]),
    "all around": (scheduled(MixedPrecision(OptimiserChain(CHAIN))), [(2, 4)]),
    "with an own rule": (OptimiserChain(Own(), AccumGrad(4), Own()), [(2, 4)]),
    "two": (OptimiserChain(AccumGrad(4), AccumGrad(2), Adam()), [(2, 4), (1, 2)]),
    "used up": (OptimiserChain(AccumGrad(3), Adam()), []),
    "one": (OptimiserChain(AccumGrad(1), Adam()), []),
    "none": (Adam(), []),
    "two kinds": (lambda path, _: AccumGrad(4) if path == ("W",) else AccumGrad(5), [(2, 4), (1, 5)]),
    "some": (lambda path, _: CHAIN if path == ("W",) else None, [(2, 4)]),
}


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_said_once_at_the_end(rule: str, compiled: bool, started: list[bool], caplog: pytest.LogCaptureFixture) -> None:
    chosen, expected = RULES[rule]
    model = optirs.Affine(np.zeros((2, 3), "f"), np.zeros(2, "f"))
    data = np.ones((6, 3), "f"), np.ones((6, 2), "f")
    callbacks = [] if compiled else [lambda event: None]
    with caplog.at_level(logging.INFO, logger="optirs"):
        optirs.train(GRADIENT, model, data, chosen, epochs=3, batch_size=3, callbacks=callbacks)
    assert [(r.name, r.levelname, r.message) for r in caplog.records] == [
        ("optirs", "INFO", text(*pair)) for pair in expected
    ]
    assert started == [compiled and rule != "with an own rule"]


def trained(caplog: pytest.LogCaptureFixture, gradient: Any, **options: Any) -> Any:
    with caplog.at_level(logging.INFO, logger="optirs"):
        return optirs.train(gradient, {"w": np.zeros(2), "v": np.zeros(3)}, [(1.0,)], **options)


def constant(model: Any, x: float) -> Any:
    return x, {"w": np.ones(2), "v": np.ones(3)}


def test_they_go_on_in_a_resumed_training(caplog: pytest.LogCaptureFixture) -> None:
    rule = OptimiserChain(AccumGrad(4), optirs.Descent(1.0))
    first = trained(caplog, constant, rule=rule, epochs=3)
    assert caplog.messages == [text(3, 4)]
    rest = optirs.train(constant, first.model, [(1.0,)], state=first.state)
    assert caplog.messages == [text(3, 4)]
    assert (first.model["w"] == 0).all()
    assert (rest.model["w"] == -1).all()


def test_ctrl_c_and_stop_and_no_step_at_all(caplog: pytest.LogCaptureFixture) -> None:
    def press(event: optirs.Event) -> None:
        if event.step == 2:
            raise KeyboardInterrupt

    first = trained(caplog, constant, rule=CHAIN, epochs=9, callbacks=[press])
    assert caplog.messages[1:] == [text(2, 4)]
    caplog.clear()
    trained(caplog, constant, rule=CHAIN, epochs=9, callbacks=[lambda event: event.step == 3 and event.stop()])
    assert caplog.messages == [text(3, 4)]
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="optirs"):
        optirs.train(constant, first.model, [(1.0,)], state=first.state, epochs=0)
    assert caplog.messages == [text(2, 4)]


def test_an_error_says_enough(caplog: pytest.LogCaptureFixture) -> None:
    losses = iter([1.0, 1.0, float("nan")])
    with pytest.raises(optirs.NonFiniteLossError):
        trained(caplog, lambda model, x: (next(losses), constant(model, x)[1]), rule=CHAIN, epochs=9)
    assert caplog.messages == []


def test_parameters_with_different_numbers(caplog: pytest.LogCaptureFixture) -> None:
    grads = iter([{"w": np.ones(2), "v": np.ones(3)}, {"w": np.ones(2)}, {"v": None}])
    trained(caplog, lambda model, x: (1.0, next(grads)), rule=CHAIN, epochs=3)
    assert sorted(caplog.messages) == [text(1, 4), text(2, 4)]
