"""Rules of the user's own in `setup` and `update`: errors name the place, and states are not shared."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from changing import STEPS

import optirs


@dataclass
class Own(optirs.Rule):
    """Neither frozen nor hashable."""

    eta: float = 1.0

    def init(self, x: Any) -> dict[str, Any]:
        return {"v": np.zeros_like(x)}

    def apply(self, state: dict[str, Any], x: Any, dx: Any) -> tuple[dict[str, Any], Any]:
        if dx.max() > 1e9:
            raise OSError("too much")
        return {"v": state["v"] + dx}, self.eta * dx


def test_errors_of_own_rules_name_the_place() -> None:
    model = {"layers": [np.ones(2), np.ones(2)]}
    state = optirs.setup(optirs.OptimiserChain(optirs.ClipNorm(1.0), Own()), model)
    with pytest.raises(FloatingPointError, match=r"ClipNorm.* for the parameter at layers\[1\]$"):
        optirs.update_(state, model, {"layers": [np.ones(2), np.array([np.inf, 0])]})
    state = optirs.setup(Own(), model)
    with pytest.raises(OSError, match="too much") as caught:
        optirs.update_(state, model, {"layers": [np.ones(2), np.array([1e10, 0])]})
    assert caught.value.__notes__ == ["for the parameter at layers[1]"]


def test_errors_of_own_rules_at_setup_name_the_place() -> None:
    class Fails(Own):
        def init(self, x: Any) -> dict[str, Any]:
            raise OSError("no state")

    with pytest.raises(OSError, match="no state") as caught:
        optirs.setup(Fails(), {"layers": [np.ones(2)]})
    assert caught.value.__notes__ == ["for the parameter at layers[0]"]


@STEPS
@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, r"Odd\.apply must return \(state, dx\), got NoneType"),
        ((1, np.zeros(1)), r"Odd: its dx has shape \(1,\), the parameter has \(3,\)"),
        ((1, "ab"), "Odd: its dx must be an array of numbers, got <U2"),
        ((1, np.zeros(3, complex)), "Odd: its dx is complex128, the parameter is float64"),
    ],
    ids=["pair", "shape", "text", "complex"],
)
@pytest.mark.parametrize(
    "around",
    [lambda r: r, lambda r: optirs.OptimiserChain(r, optirs.Adam()), lambda r: optirs.MixedPrecision(r, "float64")],
    ids=["alone", "chain", "mixed"],
)
def test_what_an_own_rule_returns_amiss_names_the_place(result: Any, text: str, around: Any, step: Any) -> None:
    class Odd(Own):
        def apply(self, state: Any, x: Any, dx: Any) -> Any:
            return result

    model = {"layers": [np.ones(3), np.ones(3)]}
    state = optirs.setup(around(Odd()), model)
    with pytest.raises((TypeError, ValueError), match=rf"^{text}, for the parameter at layers\[1\]$") as caught:
        step(state, model, {"layers": [None, np.ones(3)]})
    assert not hasattr(caught.value, "__notes__")


@STEPS
@pytest.mark.parametrize("error", [ValueError("mine"), TypeError("mine"), FloatingPointError("mine"), KeyError("mine")])
def test_an_own_rules_error_keeps_type_and_text(error: Exception, step: Any) -> None:
    class Raises(Own):
        def apply(self, state: Any, x: Any, dx: Any) -> Any:
            raise error

    text = str(error)
    model = {"w": np.ones(3)}
    with pytest.raises(type(error)) as caught:
        step(optirs.setup(Raises(), model), model, model)
    assert caught.value is error
    assert str(error) == text
    assert "for the parameter at w" in error.__notes__


def test_own_states_are_not_shared() -> None:
    model = {"w": np.ones(2)}
    state = optirs.setup(Own(), model)
    kept, _ = optirs.update(state, model, None)
    adjusted = optirs.adjust(state, 0.5)
    for other in (kept, adjusted):
        other["w"].state["v"][:] = 7
    assert (state["w"].state["v"] == 0).all()
    assert adjusted["w"].rule == Own(0.5)


def test_a_master_copy_around_an_own_rule_sees_the_whole_gradient() -> None:
    model = {"w": np.ones(2, np.float16)}
    state = optirs.setup(optirs.MixedPrecision(Own(1e-5)), model)
    state, model = optirs.update(state, model, {"w": np.full(2, 70000, np.float32)})
    assert np.allclose(state["w"].state[0], 0.3, atol=1e-6)
