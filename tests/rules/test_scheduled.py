"""`Scheduled`: a rule like any other, equal to the plain one adjusted before every step."""

import copy
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from problems import DTYPES, RULES, bits, draw, fits, generator, gradients

import optirs
from optirs import AccumGrad, Adam, Descent, MixedPrecision, Momentum, OptimiserChain, Scheduled, adjust, schedules
from optirs.rules import fields
from optirs.schedules import Constant, Cosine, Exponential, Piecewise, Polynomial, Step, Warmup

Array = NDArray[Any]
STEPS = 7
SHAPES: list[tuple[int, ...]] = [(), (3, 5), (300,)]

# What each hyper-parameter follows in these tests.
FOLLOWS: dict[str, Any] = {
    "eta": Warmup(Cosine(0.3, 4, 0.01), 2, start=0.05),
    "rho": Polynomial(0.5, 5, 0.95),
    "beta": (Polynomial(0.5, 5, 0.9), Piecewise((0.9, 0.99), (3,))),
    "epsilon": Exponential(1e-6, 10.0, limit=0.1),
    "lambda_": Step(0.4, 0.5, 2),
    "delta": Cosine(2.0, 5, 0.1),
    "omega": Cosine(9.0, 5, 0.1),
    "p": Piecewise((2.0, 1.0, 0.0), (2, 4)),
    "ell": (Polynomial(0.5, 5, 0.9), 1.2),
    "gamma": (1e-6, Polynomial(50.0, 5, 1.0)),
    "lower": Polynomial(-1.0, 5, -0.1),
    "upper": Polynomial(2.0, 5, 0.5),
    "alpha": Polynomial(0.2, 5, 0.9),
    "decay": Polynomial(0.5, 5, 0.9),
}


def values(setting: Any, t: int) -> Any:
    """What the hyper-parameter is at step `t`."""
    if isinstance(setting, tuple):
        return tuple(values(part, t) for part in setting)
    return setting(t) if callable(setting) else setting


def schedulable(rule: optirs.Rule) -> list[str]:
    return [name for name in fields(rule) if rule._schedulable(name)]


def cases() -> Iterator[Any]:
    """Every rule in every variant, with each of its fields alone, and with all together."""
    for parameter in RULES:
        (rule,) = parameter.values
        names = schedulable(rule)
        for some in [[name] for name in names] + ([names] if len(names) > 1 else []):
            yield pytest.param(rule, some, id=f"{parameter.id}-{'-'.join(some)}")


CASES = pytest.mark.parametrize(("rule", "names"), list(cases()))
ONE_RULE_EACH = [
    (Adam(), ["eta", "beta"]),
    (Momentum(), ["rho", "eta"]),
    (optirs.ClipNorm(throw=False), ["omega", "p"]),
    (OptimiserChain(optirs.WeightDecay(), optirs.ClipNorm(1.0), optirs.RAdam()), ["eta", "lambda_", "omega"]),
    (MixedPrecision(optirs.Lion()), ["eta"]),
]
SOME = pytest.mark.parametrize(("rule", "names"), ONE_RULE_EACH, ids=lambda p: type(p).__name__)


def scheduled(rule: optirs.Rule, names: list[str]) -> Scheduled:
    return Scheduled(rule, **{name: FOLLOWS[name] for name in names})


def problem(rule: optirs.Rule, dtype: str) -> tuple[list[Array], list[list[Array]]]:
    rng = generator("scheduled", repr(rule), dtype)
    model = [draw(rng, shape, dtype) for shape in SHAPES]
    return model, [list(gs) for gs in zip(*(gradients(rng, s, dtype, STEPS) for s in SHAPES), strict=True)]


def own(model: list[Array]) -> list[Array]:
    return [x.copy() for x in model]


@pytest.fixture
def threads() -> Iterator[None]:
    before = optirs.get_num_threads()
    yield
    optirs.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "complex64"])
@CASES
def test_a_step_is_that_of_the_rule_adjusted_before_it(rule: optirs.Rule, names: list[str], dtype: str) -> None:
    if not fits(rule, dtype):
        pytest.skip("complex")
    model, grads = problem(rule, dtype)
    state, mine = optirs.setup(scheduled(rule, names), model), own(model)
    in_place, there = optirs.setup(scheduled(rule, names), model), own(model)
    plain = optirs.setup(adjust(rule, **{name: values(FOLLOWS[name], 0) for name in names}), model)
    expected = own(model)
    for grad in grads:
        t = state[0].state[0]
        plain = adjust(plain, **{name: values(FOLLOWS[name], t) for name in names})
        plain, expected = optirs.update(plain, expected, grad)
        state, mine = optirs.update(state, mine, grad)
        in_place, there = optirs.update_(in_place, there, grad)
        assert bits(mine) == bits(there) == bits(expected)
    for leaf, twin, other in zip(state, in_place, plain, strict=True):
        assert leaf == twin
        assert bits(leaf.state[1]) == bits(other.state)
    if "AccumGrad" not in repr(rule):
        assert state[0].state[0] == STEPS


@SOME
def test_as_a_function_of_the_step(rule: optirs.Rule, names: list[str]) -> None:
    model, grads = problem(rule, "float32")
    mine, theirs = own(model), own(model)
    state = optirs.setup(scheduled(rule, names), model)
    following = {name: (lambda t, name=name: values(FOLLOWS[name], t)) for name in names}
    other = optirs.setup(Scheduled(rule, **following), model)
    for grad in grads:
        state, mine = optirs.update(state, mine, grad)
        other, theirs = optirs.update_(other, theirs, grad)
    assert bits(mine) == bits(theirs)
    assert bits([leaf.state for leaf in state]) == bits([leaf.state for leaf in other])


@pytest.mark.parametrize("dtype", DTYPES)
def test_everywhere_in_chains_and_in_mixed_precision(dtype: str) -> None:
    eta = FOLLOWS["eta"]
    wrapped = [
        Scheduled(OptimiserChain(optirs.WeightDecay(0.1), Adam()), eta=eta),
        OptimiserChain(optirs.WeightDecay(0.1), Scheduled(Adam(), eta=eta)),
        OptimiserChain(
            OptimiserChain(Scheduled(optirs.WeightDecay(), lambda_=Constant(0.1))), Scheduled(Adam(), eta=eta)
        ),
        Scheduled(OptimiserChain(Scheduled(optirs.WeightDecay(), lambda_=Constant(0.1)), Adam()), eta=eta),
        Scheduled(Scheduled(OptimiserChain(optirs.WeightDecay(), Adam()), lambda_=Constant(0.1)), eta=eta),
        Scheduled(OptimiserChain(optirs.WeightDecay(), Adam()), lambda_=lambda t: 0.1, eta=lambda t: eta(t)),
    ]
    if dtype in ("float16", "bfloat16", "float32"):
        mixed = [MixedPrecision(rule, "float64") for rule in wrapped[:3]]
        mixed.append(Scheduled(MixedPrecision(OptimiserChain(optirs.WeightDecay(0.1), Adam()), "float64"), eta=eta))  # type: ignore[arg-type]
        check_equal(mixed, dtype)
    check_equal(wrapped, dtype)


def check_equal(rules: list[Any], dtype: str) -> None:
    """The same parameters, bit for bit, after some steps by each of the rules."""
    model, grads = problem(Adam(), dtype)
    answers = []
    for rule in rules:
        mine, state = own(model), optirs.setup(rule, model)
        for grad in grads:
            state, mine = optirs.update(state, mine, grad)
        answers.append(bits(mine))
    assert all(answer == answers[0] for answer in answers)


def test_state_is_the_count_and_the_state_of_the_rule() -> None:
    rule = Scheduled(
        MixedPrecision(OptimiserChain(Scheduled(Descent(), eta=Constant(1.0)), Momentum())), rho=Constant(0.5)
    )
    t, (master, ((inner, nothing), momentum)) = optirs.setup(rule, np.ones(2, np.float16)).state
    assert (t, inner, nothing) == (0, 0, None)
    assert master.dtype == np.float32
    assert list(momentum) == ["velocity"]


@pytest.mark.parametrize("step", [optirs.update, optirs.update_])
def test_only_steps_that_are_passed_on_count(step: Any) -> None:
    eta = Polynomial(1.0, 10)
    around = Scheduled(OptimiserChain(AccumGrad(3), Descent()), eta=eta)
    behind = OptimiserChain(AccumGrad(3), Scheduled(Descent(), eta=eta))
    before = OptimiserChain(Scheduled(optirs.WeightDecay(), lambda_=eta), AccumGrad(3), Descent(1.0))
    states = [optirs.setup(rule, np.zeros(1)) for rule in (around, behind, before)]
    models = [np.zeros(1) for _ in states]
    for i in range(7):
        for k in range(3):
            states[k], models[k] = step(states[k], models[k], np.ones(1))
        assert states[0].state[0] == (i + 1) // 3
        assert states[1].state[1][0] == (i + 1) // 3
        assert states[2].state[0][0] == i + 1
    assert models[0] == models[1] == -(1.0 + 0.9)


def test_leaves_that_are_not_stepped_stay_at_their_step() -> None:
    model = {"a": np.zeros(2), "b": np.zeros(2), "c": np.zeros(2)}
    state = optirs.setup(Scheduled(Descent(), eta=Polynomial(1.0, 10)), model)
    optirs.freeze_(state["b"])
    for grad in ({"a": np.ones(2), "b": np.ones(2)}, {"a": np.ones(2), "b": np.ones(2), "c": np.ones(2)}):
        state, model = optirs.update(state, model, grad)
    assert [state[key].state[0] for key in "abc"] == [2, 0, 1]
    assert [model[key][0] for key in "abc"] == [-1.9, 0.0, -1.0]


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s)), lambda s: adjust(s, epsilon=1e-8)]
)
@pytest.mark.parametrize("inner", [Adam(), OptimiserChain(AccumGrad(2), optirs.ClipNorm(1.0), Adam())])
def test_resume_is_exact(inner: optirs.Rule, copied: Any) -> None:
    model, grads = problem(Adam(), "float32")
    rule = Scheduled(inner, eta=FOLLOWS["eta"], beta=FOLLOWS["beta"])
    state, through = optirs.setup(rule, model), own(model)
    broken, other = optirs.setup(rule, model), own(model)
    for grad in grads:
        state, through = optirs.update(state, through, grad)
        broken, other = optirs.update(copied(broken), other, grad)
    assert bits(through) == bits(other)
    assert state == broken


def test_apply_is_update() -> None:
    model, grads = problem(Adam(), "float64")
    for rule in (
        scheduled(Adam(), ["eta"]),
        Scheduled(Adam(), eta=lambda t: FOLLOWS["eta"](t)),
        scheduled(HalfStep(), ["eta"]),
    ):
        leaf, y = optirs.setup(rule, model[2]), model[2].copy()
        state, x = optirs.init(rule, y), y.copy()
        twin = rule.init(y)
        for grad in grads:
            leaf, y = optirs.update(leaf, y, grad[2])
            twin, _ = rule.apply(twin, x, grad[2])
            state, dx = optirs.apply(rule, state, x, grad[2])
            x = x - dx
            assert bits(twin) == bits(state) == bits(leaf.state)
        assert bits(x) == bits(y)


@pytest.mark.parametrize("own", [False, True])
def test_threads(own: bool, threads: None) -> None:
    rng = generator("threads")
    model, grad = [[draw(rng, (n,), "float32") for n in (700_001, 3, 90_000)] for _ in range(2)]
    eta = FOLLOWS["eta"]
    answers = []
    for n in (1, 2, 5):
        optirs.set_num_threads(n)
        for step in (optirs.update, optirs.update_):
            state = optirs.setup(Scheduled(Adam(), eta=(lambda t: eta(t)) if own else eta), model)
            mine = [x.copy() for x in model]
            for _ in range(3):
                state, mine = step(state, mine, grad)
            answers.append(bits(mine))
    assert all(answer == answers[0] for answer in answers)


@dataclass(frozen=True)
class HalfStep(optirs.Rule):
    """A rule of one's own."""

    eta: float = 0.1
    name: str = "half"

    def __post_init__(self) -> None:
        if self.eta < 0:
            raise ValueError(f"HalfStep: eta must be >= 0, got {self.eta}")

    def init(self, x: Array) -> int:
        return 0

    def apply(self, state: int, x: Array, dx: Array) -> tuple[int, Array]:
        return state + 1, dx * (self.eta / 2)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_rule_of_ones_own(dtype: str) -> None:
    eta = FOLLOWS["eta"]
    x = np.ones(5, dtype)
    for rule in (
        Scheduled(HalfStep(), eta=eta),
        OptimiserChain(optirs.WeightDecay(0.0), Scheduled(HalfStep(), eta=lambda t: eta(t))),
        Scheduled(OptimiserChain(AccumGrad(1), HalfStep()), eta=eta),
        Scheduled(MixedPrecision(HalfStep(), dtype), eta=eta),
        MixedPrecision(Scheduled(HalfStep(), eta=eta), dtype),
    ):
        state, y = optirs.setup(rule, x), x
        expected = x
        for t in range(5):
            state, y = optirs.update(state, y, np.ones(5))
            wide = expected.astype("float32")
            expected = (wide - np.float32(eta(t) / 2) * np.ones(5, "float32")).astype(dtype)
        np.testing.assert_allclose(y, expected, rtol=1e-6 if dtype == "float32" else 2e-3)
    with pytest.raises(ValueError, match=r"HalfStep: eta must be >= 0, got -1\.0"):
        Scheduled(HalfStep(), eta=Cosine(1.0, 5, -1.0))


def test_per_parameter_rules() -> None:
    rule = Scheduled(Descent(), eta=Polynomial(1.0, 2))
    model = {"a": np.zeros(1), "b": np.zeros(1)}
    state = optirs.setup(lambda path, _: rule if path == ("a",) else Descent(1.0), model)
    for _ in range(3):
        state, model = optirs.update(state, model, {"a": np.ones(1), "b": np.ones(1)})
    assert (model["a"], model["b"]) == (-1.5, -3.0)


# --- values ----------------------------------------------------------------------------------------------------------


@CASES
def test_a_scheduled_rule_is_a_value(rule: optirs.Rule, names: list[str]) -> None:
    one = scheduled(rule, names)
    again = eval(repr(one), {**vars(optirs), "inf": np.inf})
    assert again == one
    assert hash(again) == hash(one)
    assert repr(again) == repr(one)
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one)
    assert one != rule
    assert fields(one) == fields(rule)
    assert one.replace() is one
    with pytest.raises(AttributeError):
        one.rule = rule  # type: ignore[misc]


def test_the_value_that_is_scheduled_does_not_matter() -> None:
    eta = FOLLOWS["eta"]
    assert Scheduled(Adam(0.5), eta=eta) == Scheduled(Adam(0.1), eta=eta)
    assert Scheduled(Adam(), eta=eta).rule == Adam(0.05)
    assert Scheduled(Adam(), beta=FOLLOWS["beta"], eta=eta) == Scheduled(Adam(), eta=eta, beta=list(FOLLOWS["beta"]))
    accumulator = optirs.init(Scheduled(optirs.AdaGrad(), epsilon=Constant(0.5)), np.zeros(1))[1]["acc"]
    assert accumulator == 0.5


def test_replace() -> None:
    rule = Scheduled(Adam(), eta=Constant(0.1))
    assert rule.replace(eta=Constant(0.2)) == Scheduled(Adam(), eta=Constant(0.2))
    assert rule.replace(rule=Momentum()) == Scheduled(Momentum(), eta=Constant(0.1))
    assert rule.replace(epsilon=Constant(1.0)) == Scheduled(Adam(), eta=Constant(0.1), epsilon=Constant(1.0))
    with pytest.raises(ValueError, match="no field 'rho'"):
        rule.replace(rho=Constant(0.1))


def test_adjust() -> None:
    eta = Polynomial(1.0, 10)
    x = np.zeros(1)
    rule = Scheduled(OptimiserChain(Momentum(rho=0.0), optirs.WeightDecay(0.0)), eta=eta)
    state, x = optirs.update(optirs.setup(rule, x), x, np.ones(1))
    changed = adjust(state, rho=0.5)
    assert changed.rule == Scheduled(OptimiserChain(Momentum(rho=0.5), optirs.WeightDecay(0.0)), eta=eta)
    assert bits(changed.state) == bits(state.state)
    _, y = optirs.update(changed, x, np.ones(1))
    assert y == x - (0.5 * 1.0 + 0.9)
    with pytest.raises(
        ValueError, match=r"eta is scheduled, by schedules.Polynomial\(.*: give another schedule, not 0.1"
    ):
        adjust(state, 0.1)
    other = adjust(state, Constant(3.0))
    assert other.state[0] == 1
    _, y = optirs.update(other, x, np.ones(1))
    assert y == x - 3.0
    optirs.adjust_(state, eta=lambda t: 10.0 * t)
    _, y = optirs.update(state, x, np.ones(1))
    assert y == x - 10.0
    optirs.adjust_(state, eta=eta)
    assert adjust(rule, lambda_=0.5).rule.rules[1] == optirs.WeightDecay(0.5)
    assert adjust(Scheduled(rule, rho=Constant(0.25)), eta=Constant(2.0)).rule.schedules == (("eta", Constant(2.0)),)


GOOD = Constant(0.1)
WRONG: list[tuple[Any, type[Exception], str]] = [
    (lambda: Scheduled(Adam, eta=GOOD), TypeError, r"Scheduled: the first argument must be a rule, got the class Adam"),
    (lambda: Scheduled(Adam()), TypeError, r"Scheduled needs a schedule"),
    (
        lambda: Scheduled(Adam(), eta=0.1),
        TypeError,
        r"eta must be a schedule or a function .* got 0.1; set what does not",
    ),
    (lambda: Scheduled(Adam(), eta=Cosine), TypeError, r"Scheduled: eta must be a schedule or a function of the step"),
    (lambda: Scheduled(Adam(), eta=Adam()), TypeError, r"Scheduled: eta must be a schedule or a function of the step"),
    (lambda: Scheduled(Adam(), beta=(0.9, 0.99)), TypeError, r"Scheduled: beta must be a schedule or a function"),
    (lambda: Scheduled(Adam(), beta=GOOD), TypeError, r"Adam: beta must be two numbers, got 0.1"),
    (lambda: Scheduled(Adam(), eta=(GOOD, GOOD)), TypeError, r"Adam: eta must be a number, got \(0.1, 0.1\)"),
    (lambda: Scheduled(Adam(), beta=(GOOD, GOOD, 0.5)), ValueError, r"Adam: beta must be two numbers"),
    (lambda: Scheduled(Adam(), rho=GOOD), ValueError, r"no field 'rho' .* there are: eta, beta, epsilon"),
    (lambda: Scheduled(AccumGrad(2), n=GOOD), ValueError, r"no field 'n' that can be scheduled .* there are none"),
    (lambda: Scheduled(optirs.RMSProp(), centred=GOOD), ValueError, r"no field 'centred' that can be scheduled"),
    (
        lambda: Scheduled(optirs.ClipNorm(), throw=lambda t: True),
        ValueError,
        r"no field 'throw' .* there are: omega, p$",
    ),
    (lambda: Scheduled(optirs.Rprop(), eta=GOOD), ValueError, r"no field 'eta' that can be scheduled .*: ell, gamma"),
    (lambda: Scheduled(MixedPrecision(Adam()), dtype=GOOD), ValueError, r"no field 'dtype' that can be scheduled"),
    (
        lambda: Scheduled(Scheduled(Adam(), eta=GOOD), eta=GOOD),
        ValueError,
        r"eta is scheduled already, by schedules.Const",
    ),
    (
        lambda: Scheduled(Adam(), eta=Polynomial(1.0, 5, -1.0)),
        ValueError,
        r"Adam: eta must be >= 0, got -1.0; schedules",
    ),
    (
        lambda: Scheduled(Adam(), eta=Cosine(-1.0, 5)),
        ValueError,
        r"Adam: eta must be >= 0, got -1.0, by its .* at step 0",
    ),
    (lambda: Scheduled(Momentum(), rho=Cosine(0.9, 5, 1.0)), ValueError, r"Momentum: rho must be in \[0, 1\), got 1.0"),
    (lambda: Scheduled(Adam(), beta=(0.9, Step(0.5, 2.0, 3))), ValueError, r"Adam: beta\[1\] must be in \[0, 1\)"),
    (
        lambda: Scheduled(optirs.ClipGrad(), delta=Step(1.0, 0.5, 3)),
        ValueError,
        r"delta must be > 0, got 0.0; schedules.St",
    ),
    (
        lambda: OptimiserChain(Scheduled(MixedPrecision(Adam()), eta=GOOD)),
        ValueError,
        r"MixedPrecision, which goes around",
    ),
    (lambda: MixedPrecision(Scheduled(MixedPrecision(Adam()), eta=GOOD)), ValueError, r"is a MixedPrecision itself"),
    (lambda: adjust(Adam(), GOOD), TypeError, r"Adam: eta must be a number, got schedules.Constant"),
]


@pytest.mark.parametrize(("make", "error", "text"), WRONG)
def test_errors(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


@pytest.mark.parametrize("step", [optirs.update, optirs.update_])
@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        (-1.0, ValueError, "Adam: eta must be >= 0, got -1.0, by its schedule at step 2"),
        (np.nan, ValueError, "Adam: eta must be finite, got nan, by its schedule at step 2"),
        ("x", TypeError, "Adam: eta must be a number, got 'x', by its schedule at step 2"),
        (None, ZeroDivisionError, "division"),
    ],
)
def test_a_function_that_goes_wrong_changes_nothing(bad: Any, error: type[Exception], text: str, step: Any) -> None:
    def eta(t: int) -> Any:
        return 0.1 if t < 2 else 1 / 0 if bad is None else bad

    model = {"a": np.ones(2), "b": np.ones(2)}
    state = optirs.setup(lambda path, _: Descent() if path == ("a",) else Scheduled(Adam(), eta=eta), model)
    grad = {"a": np.ones(2), "b": np.ones(2)}
    for _ in range(2):
        state, model = step(state, model, grad)
    before = bits([model, state["a"].state, state["b"].state])
    with pytest.raises(error, match=text) as caught:
        step(state, model, grad)
    if bad is None:  # the function's own error
        assert caught.value.__notes__ == ["for the parameter at b"]
    else:
        assert str(caught.value) == f"{text}, for the parameter at b"
    assert bits([model, state["a"].state, state["b"].state]) == before
    with pytest.raises(error, match=text):
        optirs.apply(state["b"].rule, state["b"].state, np.ones(2), np.ones(2))


def test_a_state_of_another_form_is_refused() -> None:
    leaf = optirs.setup(Scheduled(Descent(), eta=GOOD), np.ones(2))
    for state in (None, (1,), ("x", None), (-1, None), (0, {})):
        with pytest.raises((ValueError, TypeError, OverflowError)):
            optirs.apply(leaf.rule, state, np.ones(2), np.ones(2))


def test_train_follows_the_schedule() -> None:
    data = np.ones((6, 3), np.float32), np.ones((6, 2), np.float32)
    gradient = optirs.supervised(optirs.mse)
    model = optirs.Affine(np.zeros((2, 3), np.float32), np.zeros(2, np.float32))
    rule = Scheduled(Adam(), eta=Cosine(0.1, 10))
    done = optirs.train(gradient, model, data, rule, epochs=4, batch_size=2)
    state, mine = optirs.setup(rule, model), model
    for _ in range(12):
        _, grad = gradient(mine, data[0][:2], data[1][:2])
        state, mine = optirs.update(state, mine, grad)
    assert done.state.W.state[0] == 12
    assert bits([done.model.W, done.model.b]) == bits([mine.W, mine.b])
    more = optirs.train(gradient, done.model, data, epochs=1, batch_size=2, state=done.state)
    assert more.state.W.state[0] == 15


def test_it_is_no_entry_of_the_registry() -> None:
    assert "Scheduled" not in optirs.RULES
    assert optirs.Scheduled is Scheduled
    assert schedules is optirs.schedules
