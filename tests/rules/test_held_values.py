"""Hyper-parameters that the type of a step cannot hold are refused, by whatever road they come."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import optirs
from optirs import schedules
from optirs.schedules import Piecewise

SINGLE = ("float16", "bfloat16", "float32", "complex64")
LARGE, SMALL = 1e39, 1e-46
VALUES: list[tuple[str, dict[str, Any], str]] = [
    ("Descent", {"eta": LARGE}, "eta = 1e+39 is infinite"),
    ("Adam", {"eta": LARGE}, "eta = 1e+39 is infinite"),
    ("Adam", {"epsilon": SMALL}, "epsilon = 1e-46 is zero"),
    ("Adam", {"epsilon": LARGE}, "epsilon = 1e+39 is infinite"),
    ("AdaGrad", {"epsilon": SMALL}, "epsilon = 1e-46 is zero"),
    ("AMSGrad", {"epsilon": SMALL}, "epsilon = 1e-46 is zero"),
    ("AdaBelief", {"epsilon": 2.5e-50}, r"epsilon = 2.5e-50 is zero"),
    ("AdamW", {"lambda_": LARGE}, "lambda_ = 1e+39 is infinite"),
    ("WeightDecay", {"lambda_": LARGE}, "lambda_ = 1e+39 is infinite"),
    ("ClipGrad", {"delta": SMALL}, "delta = 1e-46 is zero"),
    ("ClipGrad", {"delta": LARGE}, "delta = 1e+39 is infinite"),
    ("ClipNorm", {"omega": SMALL}, "omega = 1e-46 is zero"),
    ("Rprop", {"eta": LARGE}, "eta = 1e+39 is infinite"),
    ("Rprop", {"gamma": (SMALL, 1.0)}, r"gamma\[0\] = 1e-46 is zero"),
    ("Rprop", {"gamma": (0.0, SMALL)}, r"gamma\[1\] = 1e-46 is zero"),
    ("Rprop", {"gamma": (0.0, LARGE)}, r"gamma\[1\] = 1e\+39 is infinite"),
    ("Rprop", {"ell": (0.5, LARGE)}, r"ell\[1\] = 1e\+39 is infinite"),
]
HELD: list[tuple[str, dict[str, Any]]] = [
    ("Adam", {"epsilon": 0.0}),
    ("Adam", {"epsilon": 1e-45}),
    ("Descent", {"eta": SMALL}),
    ("Descent", {"eta": 3.4e38}),
    ("ClipGrad", {"delta": float("inf")}),
    ("ClipNorm", {"omega": float("inf")}),
    ("ClipNorm", {"omega": LARGE}),  # it is compared with norms, which are float64
    ("ClipNorm", {"p": LARGE}),
    ("Rprop", {"gamma": (0.0, float("inf"))}),
]
EACH_VALUE = pytest.mark.parametrize(("name", "fields", "text"), VALUES, ids=lambda v: str(v))


def kind(dtype: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)


def ones(dtype: str) -> Any:
    return np.ones(2).astype(kind(dtype))


def computed(dtype: str) -> str:
    return dtype if dtype == "complex64" else "float32"


@dataclass(frozen=True)
class Own(optirs.Rule):
    """Makes a chain run in Python. Its values are its own affair."""

    epsilon: float = SMALL

    def init(self, x: Any) -> None:
        return None

    def apply(self, state: None, x: Any, dx: Any) -> Any:
        return None, dx


def built(name: str, fields: dict[str, Any]) -> optirs.Rule:
    return optirs.RULES[name](**fields)


@EACH_VALUE
@pytest.mark.parametrize("dtype", SINGLE)
def test_refused_where_state_is_made(name: str, fields: dict[str, Any], text: str, dtype: str) -> None:
    rule, x = built(name, fields), ones(dtype)
    if dtype == "complex64" and name in ("Rprop", "ClipGrad"):
        return
    text = f"^{name}: {text.replace('1e+39', r'1e[+]39')} in {computed(dtype)}, "
    wrapped = [rule, optirs.OptimiserChain(optirs.Descent(), rule), optirs.MixedPrecision(rule)]
    wrapped += [optirs.OptimiserChain(Own(), rule), optirs.MixedPrecision(optirs.OptimiserChain(rule, Own()))]
    for r in wrapped:
        with pytest.raises(ValueError, match=text + r".*\)$"):
            optirs.init(r, x)
        with pytest.raises(ValueError, match=text + r".*, for the parameter at layers\[1\].w$"):
            optirs.setup(r, {"layers": [None, {"w": x}]})
        with pytest.raises(ValueError, match=text + ".*, for the parameter at the top$"):
            optirs.setup(r, x)


@EACH_VALUE
def test_wide_types_hold_all(name: str, fields: dict[str, Any], text: str) -> None:
    rule = built(name, fields)
    for dtype in ("float64", "complex128"):
        if dtype == "float64" or name not in ("Rprop", "ClipGrad"):
            optirs.setup(rule, ones(dtype))
    for dtype in ("float32", "bfloat16"):
        optirs.setup(optirs.MixedPrecision(rule, "float64"), ones(dtype))
    with pytest.raises(ValueError, match="in float32"):
        optirs.setup(optirs.MixedPrecision(rule, "float16"), ones("float64"))


@pytest.mark.parametrize(("name", "fields"), HELD, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_what_is_meant_so_is_held(name: str, fields: dict[str, Any], dtype: str) -> None:
    x = ones(dtype)
    state = optirs.setup(built(name, fields), x)
    optirs.adjust_(optirs.adjust(state, **fields), **fields)
    optirs.update_(state, x, x.copy())


@EACH_VALUE
@pytest.mark.parametrize("own", [False, True])
def test_adjust_refuses(name: str, fields: dict[str, Any], text: str, own: bool) -> None:
    before = optirs.RULES[name]()
    rule: optirs.Rule = optirs.OptimiserChain(Own(0.5), before) if own else before
    good, bad = np.ones(2), ones("float32")
    state = optirs.setup(rule, {"a": good, "b": bad})
    for adjust in (optirs.adjust, optirs.adjust_):
        with pytest.raises(ValueError, match=f"^{name}: {text.replace('1e+39', '1e[+]39')} in float32.* at b$"):
            adjust(state, **fields)
        assert state["a"].rule == state["b"].rule == rule
    (field,) = fields
    assert getattr(optirs.adjust(rule, **fields).rules[1] if own else optirs.adjust(rule, **fields), field)
    for adjust in (optirs.adjust, optirs.adjust_):
        adjust(state["a"], **fields)


@EACH_VALUE
def test_apply_refuses(name: str, fields: dict[str, Any], text: str) -> None:
    rule, x = optirs.RULES[name](), ones("float32")
    for r, wrap in ((rule, None), (optirs.OptimiserChain(Own(), rule), Own())):
        state = optirs.init(r, x)
        bad = built(name, fields)
        with pytest.raises(ValueError, match=f"^{name}: .*in float32"):
            optirs.apply(bad if wrap is None else optirs.OptimiserChain(wrap, bad), state, x, x)


LATER = Piecewise((0.5, LARGE), (2,))
SCHEDULED = {
    "schedule": optirs.Scheduled(optirs.Descent(), eta=LATER),
    "around a chain": optirs.Scheduled(optirs.OptimiserChain(optirs.ClipNorm(), optirs.Momentum()), eta=LATER),
    "function": optirs.Scheduled(optirs.Descent(), eta=lambda t: 0.5 if t < 2 else LARGE),
    "of a pair": optirs.Scheduled(optirs.Rprop(), gamma=(Piecewise((0.0, SMALL), (2,)), 1.0)),
    "own": optirs.OptimiserChain(Own(), optirs.Scheduled(optirs.Descent(), eta=LATER)),
    "master": optirs.MixedPrecision(optirs.Scheduled(optirs.Descent(), eta=LATER)),
    "omega": optirs.Scheduled(optirs.ClipNorm(), omega=Piecewise((0.5, SMALL), (2,))),
}


@pytest.mark.parametrize("rule", SCHEDULED.values(), ids=SCHEDULED)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_schedule_is_refused_at_its_step(rule: optirs.Rule, in_place: bool) -> None:
    model: Any = {"wide": np.ones(2), "narrow": ones("float32"), "next": ones("float32")}
    state, step = optirs.setup(rule, model), optirs.update_ if in_place else optirs.update
    for _ in range(2):
        state, model = step(state, model, {k: np.full(2, 0.25) for k in model})
    before = {k: x.copy() for k, x in model.items()}
    shown = repr([leaf.state for leaf in state.values()])
    master = isinstance(rule, optirs.MixedPrecision)
    where = "wide" if master else "narrow"
    with pytest.raises(ValueError, match=f"is (infinite|zero) in float32.*, for the parameter at {where}$"):
        step(state, model, {k: np.full(2, 0.25) for k in model})
    assert all(np.array_equal(before[k], model[k]) for k in model)
    assert shown == repr([leaf.state for leaf in state.values()])
    step(state, model, {"wide": None if master else np.ones(2)})


def test_the_step_of_a_schedule_is_named() -> None:
    x = ones("float32")
    state = optirs.setup(SCHEDULED["schedule"], x)
    for _ in range(2):
        optirs.update_(state, x, x)
    with pytest.raises(ValueError, match=r"^Descent: eta = 1e\+39 .* by its schedule at step 2, for the parameter"):
        optirs.update_(state, x, x)
    with pytest.raises(ValueError, match=r"^Descent: eta = 1e\+39 "):
        optirs.setup(optirs.Scheduled(optirs.Descent(), eta=schedules.Constant(LARGE)), x)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", ["schedule", "around a chain", "omega"])
def test_training_refuses_at_the_step(started: list[bool], compiled: bool, name: str) -> None:
    x, y = np.ones((4, 3), np.float32), np.zeros((4, 1), np.float32)
    model = optirs.Affine(np.ones((1, 3), np.float32), np.zeros(1, np.float32))
    loss = optirs.supervised(optirs.mse)
    gradient = loss if compiled else lambda *args: loss(*args)
    with pytest.raises(ValueError, match=r"is (infinite|zero) in float32.*, by its schedule at step 2.* at W$"):
        optirs.train(gradient, model, (x, y), SCHEDULED[name], epochs=5)
    assert started == [compiled]
    with pytest.raises(ValueError, match=r"eta = 1e.39 is infinite in float32.* at W$"):
        optirs.train(gradient, model, (x, y), optirs.Descent(LARGE))


def test_own_classes_are_not_asked() -> None:
    class Mine(optirs.Adam):
        def init(self, x: Any) -> None:
            return None

        def apply(self, state: None, x: Any, dx: Any) -> Any:
            return None, dx

    x = ones("float32")
    state = optirs.setup(Mine(eta=LARGE), x)
    optirs.update_(optirs.adjust_(state, epsilon=SMALL), x, x)
