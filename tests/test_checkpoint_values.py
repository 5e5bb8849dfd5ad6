"""Values, rules and states of own rules in files: exact, and nothing that a file names is run."""

import json
import subprocess
import sys
from collections import namedtuple
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import optirs
from optirs import _archive

Pair = namedtuple("Pair", "first second")
MODEL = {"w": np.ones(2)}


def saved(path: Path, **what: Any) -> Path:
    optirs.save(path / "file", **what)
    return path / "file"


METADATA = {
    "none": None,
    "bool": True,
    "ints": [0, -1, 2**53, -(2**53), 2**64, 10**5000],
    "floats": [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1e16],
    "infinite": [float("inf"), float("-inf")],
    "text": '\u00e9\u4e2d\U0001f600\n"\\\x00 \ud800 {digest}' + "0" * 64,
    "nested": {"a": [{"b": []}, {}], "$tuple": 1, "": None, "with\nline": {}},
    "tuple": ((), (1, (2.0,))),
    "keys": {1: "a", (1, "x"): "b", None: "c"},
    "bytes": b"\x00\xff",
    "complex": complex(-0.0, 1),
    "numpy": [np.float32(0.1), np.int64(-3), np.bool_(True), np.complex128(1j), ml_dtypes.bfloat16(1.5)],
    "rule": optirs.OptimiserChain(optirs.ClipNorm(p=float("inf")), optirs.Rprop()),
    "for_": "any name",
}


def exact(x: Any) -> Any:
    """Something that is equal for equal types and bits only."""
    if isinstance(x, dict):
        return [(exact(k), exact(v)) for k, v in x.items()]
    if isinstance(x, list | tuple):
        return type(x), [exact(v) for v in x]
    return type(x), x.hex() if type(x) is float else str(x) if isinstance(x, complex) else x


@pytest.mark.parametrize("name", METADATA)
def test_metadata(name: str, tmp_path: Path) -> None:
    found = optirs.load(saved(tmp_path, model=[np.ones(1)], **{name: METADATA[name]}), [np.ones(1)])
    assert exact(found.metadata) == exact({name: METADATA[name]})


def test_not_a_number(tmp_path: Path) -> None:
    (payload,) = np.array([0xFFF8000000000123], np.uint64).view(np.float64).tolist()
    values = [float("nan"), payload]
    found = optirs.load(saved(tmp_path, model=[np.ones(1)], values=values), [np.ones(1)]).metadata["values"]
    assert np.array(found).tobytes() == np.array(values).tobytes()


@pytest.mark.parametrize(
    "value",
    [
        object(),
        optirs.Checkpoint(None, None, {}),
        {1, 2},
        np.ones(2),
        [{"a": abs}],
        {"b": Pair(1, 2)},
        range(3),
        np.str_("a"),
    ],
)
def test_metadata_of_other_types(value: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"metadata\.bad.* cannot be saved"):
        saved(tmp_path, model=[np.ones(1)], good=1, bad=value)
    assert not list(tmp_path.iterdir())


@dataclass(frozen=True)
class Own(optirs.Rule):
    """A rule whose state is whatever it is told."""

    start: Any = None
    made: list[Any] = field(default_factory=list, init=False, compare=False)

    def __post_init__(self) -> None:
        self.made.append(self.start)

    def init(self, x: Any) -> Any:
        return STATES[self.start] if isinstance(self.start, str) else self.start

    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        return state, dx


STATES: dict[Any, Any] = {
    "object": {"a": [1, object()]},
    "function": (None, {"f": print}),
    "objects": np.array([None]),
    "strings": {"names": np.array(["a"])},
    "set": {"s": {1}},
}
PLACES = {
    "object": "state.w.a[1] is a object",
    "function": "state.w[1].f is a builtin_function_or_method",
    "objects": "state.w is a ndarray of object",
    "strings": "state.w.names is a ndarray of <U1",
    "set": "state.w.s is a set",
}


@pytest.mark.parametrize("name", STATES)
def test_states_that_cannot_be_saved(name: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=PLACES[name].replace("[", r"\[")):
        saved(tmp_path, state=optirs.setup(Own(name), MODEL))
    assert not list(tmp_path.iterdir())


class Plain(optirs.Rule):
    def init(self, x: Any) -> Any:
        return None


@dataclass
class Mutable(Plain):
    eta: float = 0.1


@dataclass(frozen=True)
class Forgetful(Plain):
    eta: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "eta", self.eta / 2)


@dataclass(frozen=True, init=False)
class Particular(Plain):
    eta: float

    def __init__(self, half: float) -> None:
        object.__setattr__(self, "eta", 2 * half)


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Particular(0.1), r"state.w.rule is Particular\(eta=0.2\).* its fields do not make it again"),
        (Plain(), r"state.w.rule is a Plain, which cannot be saved: a rule must be a frozen dataclass"),
        (optirs.OptimiserChain(optirs.Adam(), Mutable()), r"state.w.rule.rules\[1\] is a Mutable"),
        (Own(print), r"state.w.rule.start is a builtin_function_or_method"),
        (Own(np.ones(2)), r"state.w.rule.start is a ndarray"),
        (Forgetful(), r"state.w.rule is Forgetful\(eta=0.05\).* its fields do not make it again"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_rules_that_cannot_be_saved(rule: optirs.Rule, text: str, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=text):
        saved(tmp_path, state=optirs.setup(rule, MODEL))
    assert not list(tmp_path.iterdir())


def test_rules_are_rebuilt_by_their_class(tmp_path: Path) -> None:
    class Derived(optirs.Adam):
        pass

    for rule in (Own((1, "a")), Derived(0.5), optirs.OptimiserChain(Own(3), Derived())):
        state = optirs.setup(rule, MODEL)
        found = optirs.load(saved(tmp_path, state=state), MODEL).state
        assert found == state
        assert type(found["w"].rule) is type(rule)


def test_a_rule_of_another_program(tmp_path: Path) -> None:
    program = """
import sys, numpy as np, optirs
from dataclasses import dataclass
@dataclass(frozen=True)
class Elsewhere(optirs.Rule):
    def init(self, x): return 1
    def apply(self, state, x, dx): return state, dx
optirs.save(sys.argv[1], state=optirs.setup(Elsewhere(), {"w": np.ones(2)}))
"""
    subprocess.run([sys.executable, "-c", program, tmp_path / "file"], check=True)
    with pytest.raises(ValueError, match=r"a __main__\.Elsewhere, which this process has not: import the module"):
        optirs.load(tmp_path / "file", MODEL)


def forged(path: Path, change: Any) -> Path:
    """A file whose text was changed by someone who knows about the sum."""
    state = optirs.setup(optirs.OptimiserChain(optirs.Adam()), MODEL)
    text, entries = _archive.read(str(saved(path, model=MODEL, state=state)))
    about = json.loads(text)
    about.pop("crc32")
    change(about, entries)
    _archive.write(str(path / "file"), entries, json.dumps(about)[1:])
    return path / "file"


def set_(*keys: Any) -> Any:
    """A change of a text: the last of `keys` is the value, those before it are the place."""

    def change(about: Any, entries: Any) -> None:
        *path, last, value = keys
        for key in path:
            about = about[key]
        about[last] = value

    return change


RULE = ("rules", 0, "rules", "$tuple", 0)
FORGERIES = {
    "class of the system": set_("rules", 0, {"$rule": "os.system", "command": "touch touched"}),
    "class of the library": set_("rules", 0, {"$rule": "subprocess.Popen", "args": ["touch", "touched"]}),
    "function of ours": set_("rules", 0, {"$rule": "optirs.save", "path": "touched"}),
    "class of ours that is no rule": set_(
        "rules", 0, {"$rule": "optirs.Checkpoint", "model": 1, "state": 1, "metadata": 1}
    ),
    "class of ours in the metadata": set_(
        "metadata", "x", {"$rule": "optirs.Checkpoint", "model": 1, "state": 1, "metadata": 1}
    ),
    "module to import": set_("rules", 0, {"$rule": "antigravity.Rule"}),
    "no rule": set_("rules", 0, 3),
    "unknown rule": set_(*RULE, "$rule", "optirs.Sgd"),
    "bad field": set_(*RULE, "eta", -1.0),
    "unknown field": set_(*RULE, "etta", 1.0),
    "bad type": set_(*RULE, "eta", "0.1"),
    "other rule": set_(*RULE, "$rule", "optirs.NAdam"),
    "other rule, other state": set_("rules", 0, {"$rule": "optirs.Momentum"}),
    "no such rule": set_("state", 0, "rule", 1),
    "wrong shape": set_("state", 0, "shape", [3]),
    "wrong strides": set_("state", 0, "strides", [7]),
    "wrong type": set_("state", 0, "dtype", "float32"),
    "count": set_("state", 0, "state", "$tuple", 0, "t", -1),
    "no count": set_("state", 0, "state", "$tuple", 0, "t", None),
    "no state": set_("state", 0, "state", None),
    "missing entry": set_("state", 0, "state", "$tuple", 0, "m", "$array", "state.w.m"),
    "entry twice": set_("state", 0, "state", "$tuple", 0, "m", "$array", "state.w[0].v"),
    "entry of other type": set_("state", 0, "state", "$tuple", 0, "m", "dtype", "float32"),
    "entry of foreign type": set_("state", 0, "state", "$tuple", 0, "m", "dtype", "object"),
    "entry of no type": set_("state", 0, "state", "$tuple", 0, "m", "dtype", []),
    "bad order": set_("state", 0, "state", "$tuple", 0, "m", "order", [1, 1]),
    "no list": set_("state", 3),
    "no table": set_("model", {"a": 1}),
    "unknown tag": set_("metadata", "x", {"$eval": "1"}),
    "bad number": set_("metadata", "x", {"$float": "00"}),
    "bad scalar": set_("metadata", "x", {"$scalar": ["object", "00" * 8]}),
    "key that cannot be": set_("metadata", "x", {"$dict": [[[], 1]]}),
    "no metadata": set_("metadata", None),
    "later format": set_("format", 2),
    "deep": set_("metadata", "x", eval("[" * 80 + "]" * 80)),
    "extra entry": lambda about, entries: entries.update(x=_archive.Entry("F32", (1,), np.ones(1, np.float32))),
}
FINE = {"other rule", "deep"}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = forged(tmp_path, FORGERIES[name])
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    if name in FINE:
        optirs.load(path, MODEL)
    else:
        with pytest.raises(ValueError):  # noqa: PT011 - each has its own text
            optirs.load(path, MODEL)
    assert set(sys.modules) == modules
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
