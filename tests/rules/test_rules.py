"""Rules as values: made, checked, shown, compared, changed, pickled."""

import copy
import dataclasses
import math
import pickle
from dataclasses import FrozenInstanceError, dataclass
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import RULES as ALL
from problems import VARIANTS, DecayDescent, Skip

import optirs
from optirs import rules
from optirs.rules import RULES, Rule, adjusted, fields, spec

FIXED = {"centred", "name", "k", "start", "every"}
SIMPLE = [name for name in RULES if name not in ("OptimiserChain", "MixedPrecision", "AccumGrad")]
AMOUNTS = st.floats(0, 1e30)
FRACTIONS = st.floats(0, 1, exclude_max=True)


# --- construction -----------------------------------------------------------------------------------------------------

DEFAULTS = {
    "Descent": "Descent(eta=0.1)",
    "Momentum": "Momentum(eta=0.01, rho=0.9)",
    "Nesterov": "Nesterov(eta=0.001, rho=0.9)",
    "RMSProp": "RMSProp(eta=0.001, rho=0.9, epsilon=1e-08, centred=False)",
    "Rprop": "Rprop(eta=0.001, ell=(0.5, 1.2), gamma=(1e-06, 50.0))",
    "Adam": "Adam(eta=0.001, beta=(0.9, 0.999), epsilon=1e-08)",
    "AdamW": "AdamW(eta=0.001, beta=(0.9, 0.999), lambda_=0.0, epsilon=1e-08, couple=True)",
    "Lion": "Lion(eta=0.001, beta=(0.9, 0.99))",
    "RAdam": "RAdam(eta=0.001, beta=(0.9, 0.999), epsilon=1e-08)",
    "AdaMax": "AdaMax(eta=0.001, beta=(0.9, 0.999), epsilon=1e-08)",
    "OAdam": "OAdam(eta=0.001, beta=(0.5, 0.9), epsilon=1e-08)",
    "AdaGrad": "AdaGrad(eta=0.1, epsilon=1e-08)",
    "AdaDelta": "AdaDelta(rho=0.9, epsilon=1e-08)",
    "AMSGrad": "AMSGrad(eta=0.001, beta=(0.9, 0.999), epsilon=1e-08)",
    "NAdam": "NAdam(eta=0.001, beta=(0.9, 0.999), epsilon=1e-08)",
    "AdaBelief": "AdaBelief(eta=0.001, beta=(0.9, 0.999), epsilon=1e-16)",
    "WeightDecay": "WeightDecay(lambda_=0.0005)",
    "SignDecay": "SignDecay(lambda_=0.001)",
    "ClipGrad": "ClipGrad(delta=10.0)",
    "ClipNorm": "ClipNorm(omega=10.0, p=2.0, throw=True)",
    "OptimiserChain": "OptimiserChain()",
    "ClipGlobalNorm": "ClipGlobalNorm(omega=1.0, name='', throw=True)",
    "SkipNonFinite": "SkipNonFinite(limit=None, name='')",
    "Box": "Box(lower=float('-inf'), upper=float('inf'))",
    "Lookahead": "Lookahead(k=6, alpha=0.5)",
    "Ema": "Ema(decay=0.999, warmup=False)",
    "Swa": "Swa(start=0, every=1)",
}


def test_defaults_are_the_contract() -> None:
    assert {name: repr(RULES[name]()) for name in DEFAULTS} == DEFAULTS
    assert set(RULES) - set(DEFAULTS) == {"AccumGrad", "MixedPrecision"}
    assert repr(rules.AccumGrad(4)) == "AccumGrad(n=4)"
    assert repr(rules.MixedPrecision(rules.Descent())) == "MixedPrecision(rule=Descent(eta=0.1), dtype='float32')"


def test_switches_are_given_by_name() -> None:
    for make in (
        lambda: rules.RMSProp(0.1, 0.9, 1e-8, True),  # type: ignore[call-arg]
        lambda: rules.AdamW(0.1, (0.9, 0.99), 0.0, 1e-8, True),  # type: ignore[call-arg]
        lambda: rules.ClipNorm(1.0, 2.0, True),  # type: ignore[call-arg]
        lambda: rules.ClipGlobalNorm(1.0, "a"),  # type: ignore[call-arg]
        lambda: rules.SkipNonFinite(3, "a"),  # type: ignore[call-arg]
        lambda: rules.Ema(0.9, True),  # type: ignore[call-arg]
    ):
        with pytest.raises(TypeError):
            make()


@pytest.mark.parametrize(
    "number", [1, np.float32(1), np.float64(1), np.int8(1), Fraction(1), np.array(1.0), ml_dtypes.bfloat16(1)]
)
def test_numbers_become_floats(number: Any) -> None:
    rule = rules.Descent(number)
    assert type(rule.eta) is float
    assert rule == rules.Descent(1.0)
    assert type(rules.AccumGrad(np.int64(3)).n) is int  # type: ignore[arg-type]
    assert rules.RMSProp(centred=np.bool_(True)).centred is True  # type: ignore[arg-type]


@pytest.mark.parametrize("pair", [[0.5, 0.25], np.array([0.5, 0.25]), (np.float32(0.5), Fraction(1, 4))])
def test_pairs_become_tuples(pair: Any) -> None:
    beta = rules.Adam(beta=pair).beta
    assert beta == (0.5, 0.25)
    assert type(beta) is tuple
    assert all(type(b) is float for b in beta)


BAD = [
    ("Adam", {"eta": -1.0}, ValueError, "Adam: eta must be >= 0, got -1.0"),
    ("Adam", {"eta": -1}, ValueError, "Adam: eta must be >= 0, got -1.0"),
    ("Descent", {"eta": math.nan}, ValueError, "Descent: eta must be finite, got nan"),
    ("Descent", {"eta": math.inf}, ValueError, "Descent: eta must be finite, got inf"),
    ("Descent", {"eta": 10**400}, ValueError, "Descent: eta must be finite, got 1000"),
    ("Descent", {"eta": "0.1"}, TypeError, "Descent: eta must be a number, got '0.1'"),
    ("Descent", {"eta": True}, TypeError, "Descent: eta must be a number, got True"),
    ("Descent", {"eta": np.True_}, TypeError, "Descent: eta must be a number, got"),
    ("Descent", {"eta": None}, TypeError, "Descent: eta must be a number, got None"),
    ("Descent", {"eta": 1j}, TypeError, "Descent: eta must be a number, got 1j"),
    ("Descent", {"eta": np.complex64(1)}, TypeError, "Descent: eta must be a number, got"),
    ("Descent", {"eta": np.ones(1)}, TypeError, "Descent: eta must be a number, got"),
    ("Momentum", {"rho": 1.0}, ValueError, "Momentum: rho must be in [0, 1), got 1.0"),
    ("Momentum", {"rho": -0.1}, ValueError, "Momentum: rho must be in [0, 1), got -0.1"),
    ("Momentum", {"rho": math.nan}, ValueError, "Momentum: rho must be in [0, 1), got nan"),
    ("AdaDelta", {"epsilon": -1e-8}, ValueError, "AdaDelta: epsilon must be >= 0, got -1e-08"),
    ("Adam", {"beta": (0.9, 1.0)}, ValueError, "Adam: beta[1] must be in [0, 1), got 1.0"),
    ("Adam", {"beta": (0.9,)}, ValueError, "Adam: beta must be two numbers, got (0.9,)"),
    ("Adam", {"beta": 0.9}, TypeError, "Adam: beta must be two numbers, got 0.9"),
    ("Adam", {"beta": "01"}, TypeError, "Adam: beta must be two numbers, got '01'"),
    ("Adam", {"beta": (0.9, "a")}, TypeError, "Adam: beta[1] must be a number, got 'a'"),
    ("AdamW", {"lambda_": -1}, ValueError, "AdamW: lambda_ must be >= 0, got -1.0"),
    ("AdamW", {"couple": 1}, TypeError, "AdamW: couple must be True or False, got 1"),
    ("Rprop", {"ell": (1.5, 1.2)}, ValueError, "Rprop: ell must satisfy 0 < ell[0] < 1 < ell[1], got (1.5, 1.2)"),
    ("Rprop", {"ell": (0.5, 1.0)}, ValueError, "Rprop: ell must satisfy"),
    ("Rprop", {"gamma": (2.0, 1.0)}, ValueError, "Rprop: gamma must satisfy 0 <= gamma[0] <= gamma[1], got (2.0, 1.0)"),
    ("ClipGrad", {"delta": 0.0}, ValueError, "ClipGrad: delta must be > 0, got 0.0"),
    ("ClipNorm", {"omega": 0.0}, ValueError, "ClipNorm: omega must be > 0, got 0.0"),
    ("ClipNorm", {"p": math.nan}, ValueError, "ClipNorm: p must be not NaN, got nan"),
    ("AccumGrad", {"n": 0}, ValueError, "AccumGrad: n must be >= 1, got 0"),
    ("AccumGrad", {"n": 2.0}, TypeError, "AccumGrad: n must be an int, got 2.0"),
    ("AccumGrad", {"n": True}, TypeError, "AccumGrad: n must be an int, got True"),
    ("AccumGrad", {"n": "2"}, TypeError, "AccumGrad: n must be an int, got '2'"),
    ("ClipGlobalNorm", {"omega": 0.0}, ValueError, "ClipGlobalNorm: omega must be > 0, got 0.0"),
    ("ClipGlobalNorm", {"name": 3}, TypeError, "ClipGlobalNorm: name must be a str, got 3"),
    ("ClipGlobalNorm", {"throw": 0}, TypeError, "ClipGlobalNorm: throw must be True or False, got 0"),
    ("SkipNonFinite", {"limit": -1}, ValueError, "SkipNonFinite: limit must be >= 0, got -1"),
    ("SkipNonFinite", {"limit": 2**53}, ValueError, "SkipNonFinite: limit must be < 2**53, got 9007199254740992"),
    ("SkipNonFinite", {"limit": 1.0}, TypeError, "SkipNonFinite: limit must be an int or None, got 1.0"),
    ("SkipNonFinite", {"limit": True}, TypeError, "SkipNonFinite: limit must be an int or None, got True"),
    ("SkipNonFinite", {"name": None}, TypeError, "SkipNonFinite: name must be a str, got None"),
    ("Box", {"lower": math.nan}, ValueError, "Box: lower must be not NaN, got nan"),
    ("Box", {"lower": 1, "upper": 1}, ValueError, "Box: lower must be < upper, got lower 1.0 and upper 1.0"),
    ("Box", {"lower": math.inf}, ValueError, "Box: lower must be < upper, got lower inf and upper inf"),
    ("Box", {"upper": "1"}, TypeError, "Box: upper must be a number, got '1'"),
    ("Lookahead", {"k": 0}, ValueError, "Lookahead: k must be >= 1, got 0"),
    ("Lookahead", {"alpha": 1.5}, ValueError, "Lookahead: alpha must be in [0, 1], got 1.5"),
    ("Lookahead", {"alpha": -0.5}, ValueError, "Lookahead: alpha must be in [0, 1], got -0.5"),
    ("Ema", {"decay": 1.0}, ValueError, "Ema: decay must be in [0, 1), got 1.0"),
    ("Ema", {"decay": -0.1}, ValueError, "Ema: decay must be in [0, 1), got -0.1"),
    ("Ema", {"warmup": 1}, TypeError, "Ema: warmup must be True or False, got 1"),
    ("Swa", {"start": -1}, ValueError, "Swa: start must be >= 0, got -1"),
    ("Swa", {"start": 0.5}, TypeError, "Swa: start must be an int, got 0.5"),
    ("Swa", {"every": 0}, ValueError, "Swa: every must be >= 1, got 0"),
]


@pytest.mark.parametrize(("name", "arguments", "error", "message"), BAD)
def test_bad_values_are_errors_that_name_rule_field_and_value(
    name: str, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error) as caught:
        RULES[name](**arguments)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "rule",
    [
        rules.ClipNorm(p=math.inf),
        rules.ClipNorm(p=-math.inf),
        rules.ClipNorm(p=0),
        rules.ClipGrad(math.inf),
        rules.ClipGlobalNorm(math.inf),
        rules.SkipNonFinite(0),
        rules.Box(-math.inf, 0),
        rules.Lookahead(1, 0),
        rules.Lookahead(1, 1),
        rules.Ema(0),
        rules.Swa(0, 1),
    ],
)
def test_edges_of_ranges(rule: Rule) -> None:
    assert rebuilt(rule) == rule


def test_no_negative_zero() -> None:
    assert repr(rules.Descent(-0.0)) == "Descent(eta=0.0)"


# --- values -----------------------------------------------------------------------------------------------------------


def rebuilt(rule: Rule) -> Rule:
    result: Rule = eval(repr(rule), dict(RULES))
    return result


@pytest.mark.parametrize("rule", ALL)
def test_rules_are_values(rule: Rule) -> None:
    for twin in (rebuilt(rule), pickle.loads(pickle.dumps(rule)), copy.deepcopy(rule), rule.replace()):
        assert twin == rule
        assert hash(twin) == hash(rule)
        assert repr(twin) == repr(rule)
    assert rule != repr(rule)  # type: ignore[comparison-overlap]
    name = dataclasses.fields(rule)[0].name  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        setattr(rule, name, 0.5)


def test_different_rules_differ() -> None:
    many = [p.values[0] for p in ALL]
    assert len(set(many)) == len({repr(rule) for rule in many})
    assert len({rules.Adam(), rules.RAdam()}) == 2


@given(eta=AMOUNTS, beta=st.tuples(FRACTIONS, FRACTIONS), epsilon=AMOUNTS, decay=AMOUNTS, couple=st.booleans())
def test_repr_has_full_precision(
    eta: float, beta: tuple[float, float], epsilon: float, decay: float, couple: bool
) -> None:
    rule = rules.AdamW(eta, beta, decay, epsilon, couple=couple)
    assert rebuilt(rule) == rule


def test_replace() -> None:
    assert rules.Adam().replace(eta=1) == rules.Adam(1.0)
    assert rules.OptimiserChain().replace(rules=[rules.Adam()]) == rules.OptimiserChain(rules.Adam())
    assert rules.MixedPrecision(rules.Adam()).replace(dtype="f8").dtype == "float64"
    assert DecayDescent().replace(eta=0.5) == DecayDescent(0.5)
    with pytest.raises(ValueError, match="Adam: eta must be >= 0"):
        rules.Adam().replace(eta=-1)
    with pytest.raises(TypeError, match="Adam has no field 'lr'; it has eta, beta, epsilon"):
        rules.Adam().replace(lr=0.1)
    with pytest.raises(TypeError, match="OptimiserChain has no field 'eta'; it has rules"):
        rules.OptimiserChain().replace(eta=0.1)
    with pytest.raises(TypeError, match="Skip has no field"):
        Skip().replace(eta=0.1)


# --- composites -------------------------------------------------------------------------------------------------------


def test_chain_keeps_what_it_is_given() -> None:
    inner = rules.OptimiserChain(rules.ClipGrad(), rules.Adam())
    assert rules.OptimiserChain(rules.WeightDecay(), inner).rules == (rules.WeightDecay(), inner)


def test_chain_takes_rules_only() -> None:
    with pytest.raises(TypeError, match=r"OptimiserChain: rules\[1\] must be a rule, got the class Adam: write Adam\("):
        rules.OptimiserChain(rules.Descent(), rules.Adam)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"rules\[0\] must be a rule, got 0.1"):
        rules.OptimiserChain(0.1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"one by one: OptimiserChain\(\*rules\)"):
        rules.OptimiserChain([rules.Adam()])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("float16", "float16"),
        ("bfloat16", "bfloat16"),
        (np.float32, "float32"),
        (float, "float64"),
        (">f4", "float32"),
        (np.dtype("f8"), "float64"),
        (ml_dtypes.bfloat16, "bfloat16"),
        (np.dtype(ml_dtypes.bfloat16), "bfloat16"),
    ],
)
def test_mixed_precision_understands_dtypes(dtype: Any, name: str) -> None:
    rule = rules.MixedPrecision(rules.Adam(), dtype)
    assert rule.dtype == name
    assert rule == rules.MixedPrecision(rules.Adam(), name)


def test_mixed_precision_refuses_other_dtypes() -> None:
    for dtype in ("int32", "no such type", np.complex64, bool):
        with pytest.raises(ValueError, match="MixedPrecision: dtype must be one of float16, bfloat16"):
            rules.MixedPrecision(rules.Adam(), dtype)  # type: ignore[arg-type]
    for nonsense in (None, 3):
        with pytest.raises(TypeError, match="MixedPrecision: dtype must be one of"):
            rules.MixedPrecision(rules.Adam(), nonsense)  # type: ignore[arg-type]


def test_a_schedule_as_a_value_is_told_where_to_go() -> None:
    eta = optirs.schedules.Cosine(0.1, 10)
    hint = r"got .*; what changes with the step goes into Scheduled\(rule, {}=...\)$"
    state = optirs.setup(rules.Adam(), [np.ones(2)])
    for act in (lambda: rules.Adam(eta), lambda: optirs.adjust(rules.Adam(), eta), lambda: optirs.adjust(state, eta)):
        with pytest.raises(TypeError, match="^Adam: eta must be a number, " + hint.format("eta")):
            act()
    for beta in (eta, (0.9, lambda t: 0.9)):
        with pytest.raises(TypeError, match="^Adam: beta.* must be .*, " + hint.format("beta")):
            rules.Adam(beta=beta)  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", [rules.Adam(), rules.Descent(), rules.OptimiserChain(rules.Adam(), rules.Descent())])
def test_apply_with_the_state_last(rule: rules.Rule) -> None:
    x = np.ones(2)
    for r in (rule, rules.MixedPrecision(rule)):
        with pytest.raises(TypeError, match=r"must be an array of numbers, got .*; write apply\(rule, state, x, dx\)$"):
            optirs.apply(r, x, x, optirs.init(r, x))


def test_mixed_precision_is_never_inside() -> None:
    mixed = rules.MixedPrecision(rules.OptimiserChain(rules.Adam()))
    for make in (
        lambda: rules.OptimiserChain(mixed),
        lambda: rules.OptimiserChain(rules.Descent(), mixed),
        lambda: rules.MixedPrecision(mixed),
        lambda: rules.OptimiserChain(rules.OptimiserChain(mixed)),
    ):
        with pytest.raises(ValueError, match="MixedPrecision"):
            make()
    with pytest.raises(TypeError, match="MixedPrecision: rule must be a rule, got the class Adam"):
        rules.MixedPrecision(rules.Adam)  # type: ignore[arg-type]


# --- what the compiled module is told ---------------------------------------------------------------------------------


class Renamed(rules.Adam):
    """Adam by another name."""


@dataclass(frozen=True)
class Labelled(rules.Adam):
    label: str = ""


class Doubled(rules.Adam):
    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        state, dx = super().apply(state, x, dx)
        return state, 2 * dx


def test_spec() -> None:
    adam = ("Adam", {"eta": 0.001, "beta": (0.9, 0.999), "epsilon": 1e-8})
    assert spec(rules.Adam()) == adam
    assert spec(rules.AccumGrad(2)) == ("AccumGrad", {"n": 2})
    assert spec(rules.RMSProp(centred=True)) == (
        "RMSProp",
        {"eta": 0.001, "rho": 0.9, "epsilon": 1e-8, "centred": True},
    )
    chain = rules.OptimiserChain(rules.Adam(), rules.OptimiserChain())
    assert spec(chain) == ("OptimiserChain", (adam, ("OptimiserChain", ())))
    assert spec(rules.MixedPrecision(chain)) == ("MixedPrecision", spec(chain), "float32")
    assert spec(rules.SkipNonFinite()) == ("SkipNonFinite", {"limit": -1, "name": ""})
    assert spec(rules.ClipGlobalNorm(2, name="a")) == ("ClipGlobalNorm", {"omega": 2.0, "name": "a", "throw": True})
    assert spec(Renamed()) == adam
    assert spec(Labelled(label="a")) == adam


@pytest.mark.parametrize("rule", [DecayDescent(), Skip(), Doubled()])
def test_spec_of_a_rule_in_python_is_none(rule: Rule) -> None:
    for outer in (
        rule,
        rules.OptimiserChain(rules.Adam(), rule),
        rules.MixedPrecision(rule),
        rules.MixedPrecision(rules.OptimiserChain(rules.OptimiserChain(rule))),
    ):
        assert spec(outer) is None


def test_spec_takes_rules_only() -> None:
    with pytest.raises(TypeError, match="got the class Adam"):
        spec(rules.Adam)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SIMPLE)
def test_every_field_but_the_fixed_can_be_adjusted(name: str) -> None:
    rule = RULES[name]()
    names = {field.name for field in dataclasses.fields(rule)}  # type: ignore[arg-type]
    assert set(fields(rule)) == names - FIXED
    for other in (RULES[name](**arguments) for arguments in VARIANTS[name]):
        values = {field: getattr(other, field) for field in fields(rule)}
        assert adjusted(rule, **values) == rule.replace(**values)


def test_adjusted_reaches_every_rule_that_has_the_field() -> None:
    rule = rules.MixedPrecision(
        rules.OptimiserChain(
            rules.ClipGrad(), rules.OptimiserChain(rules.AccumGrad(2), rules.Adam()), DecayDescent(), Skip()
        )
    )
    assert fields(rule) == ("delta", "eta", "beta", "epsilon")
    changed = adjusted(rule, eta=0.5, delta=2.0)
    assert changed == rules.MixedPrecision(
        rules.OptimiserChain(
            rules.ClipGrad(2.0),
            rules.OptimiserChain(rules.AccumGrad(2), rules.Adam(0.5)),
            DecayDescent(0.5),
            changed.rule.rules[3],  # type: ignore[attr-defined]
        )
    )
    with pytest.raises(ValueError, match=r"Adam: eta must be >= 0, got -1\.0"):
        adjusted(rules.OptimiserChain(rules.Adam()), eta=-1)
    for fixed, values in ((rules.AccumGrad(2), {"n": 3}), (rules.RMSProp(), {"centred": True})):
        assert adjusted(fixed, **values) == fixed
    assert fields(rules.MixedPrecision(rules.AccumGrad(1))) == ()
