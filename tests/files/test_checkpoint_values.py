"""Values, rules and states of own rules in files: exact, and nothing that a file names is run."""

import re
import subprocess
import sys
import zlib
from collections import namedtuple
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import optirs
from optirs import _core
from optirs.files import _archive

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


def forged(path: Path, change: Any, model: Any = None, state: Any = None) -> Path:
    """A file whose text was changed by someone who knows about the sum."""
    state = state or optirs.setup(optirs.OptimiserChain(optirs.Adam()), MODEL)
    file = _archive.read(str(saved(path, model=model or MODEL, state=state)))
    inventory = _core.Inventory()
    inventory.add(file.arrays, [f"x{i}" for i in range(len(file.arrays))], lambda x, place: None)
    file.about.pop("crc32")
    change(file.about)
    _archive.write(str(path / "file"), file.about, inventory)
    return path / "file"


def set_(*keys: Any) -> Any:
    """A change of a text: the last of `keys` is the value, those before it are the place."""

    def change(about: Any) -> None:
        *path, last, value = keys
        for key in path:
            about = about[key]
        about[last] = value

    return change


def form(old: Any, new: Any) -> Any:
    """A change of a form."""

    def change(about: Any) -> None:
        about["forms"][about["forms"].index(old)] = new

    return change


def nested(*place: Any, behind: Any) -> Any:
    """A change that makes a tree a million nested lists."""

    def change(about: Any) -> None:
        about["forms"].append({"list": 1})
        set_(*place, [-len(about["forms"])] * 1_000_000 + behind)(about)

    return change


RULE = ("rules", 0, "rules", "$tuple", 0)
LEAF = ("state", "leafs", "kinds", 0)
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
    "no such rule": set_(*LEAF, "rule", 1),
    "wrong shape": set_(*LEAF, "shape", [3]),
    "wrong strides": set_(*LEAF, "strides", [7]),
    "wrong type": set_(*LEAF, "dtype", "float32"),
    "no type": set_(*LEAF, "dtype", None),
    "no such kind of Leaf": set_("state", "leafs", "of", [1]),
    "no kind of Leaf": set_("state", "leafs", "of", []),
    "count": form({"value": 0}, {"value": -1}),
    "no count": form({"value": 0}, None),
    "count of another type": form({"value": 0}, {"value": "1"}),
    "no state": form({"dict": ["m", "v", "t"]}, None),
    "other names": form({"dict": ["m", "v", "t"]}, {"dict": ["m", "v", "u"]}),
    "a name twice": form({"dict": ["m", "v", "t"]}, {"dict": ["m", "m", "t"]}),
    "more than there is": form({"tuple": 1}, {"tuple": 2}),
    "less than there is": form({"tuple": 1}, {"tuple": 0}),
    "much more than there is": form({"tuple": 1}, {"tuple": 2**62}),
    "more than any": form({"tuple": 1}, {"tuple": 2**70}),
    "less than none": form({"tuple": 1}, {"tuple": -1}),
    "no number": form({"tuple": 1}, {"tuple": "1"}),
    "a layer in a state": form({"tuple": 1}, {"layer": "Chain", "children": ["layers"], "plain": {}}),
    "an object in a state": form({"tuple": 1}, {"object": ["layers"], "class": "os.system"}),
    "a class in a state": form({"tuple": 1}, {"list": 1, "class": "os.system"}),
    "missing array": set_("state", "leafs", "states", 2, 7),
    "array twice": set_("state", "leafs", "states", 3, 1),
    "array of the model": set_("state", "leafs", "states", 3, 0),
    "array that is nowhere": set_("model", "nodes", [-1, -3]),
    "array that is not there": set_("model", "nodes", [-1, 2**40]),
    "array before the first": set_("model", "nodes", [-1, -(2**70)]),
    "no form": set_("model", "nodes", [-1, -100]),
    "no node": set_("model", "nodes", []),
    "node of another type": set_("model", "nodes", [-1, 0.0]),
    "nodes behind the end": set_("model", "nodes", [-1, 0, 0]),
    "nodes that end too early": set_("model", "nodes", [-1]),
    "no nodes": set_("model", "nodes", None),
    "forms of another type": set_("forms", {}),
    "form of another type": set_("forms", 0, 3),
    "unknown form": set_("forms", 0, {"eval": "1"}),
    "key that cannot be": set_("forms", 0, {"dict": [{"$dict": [[[], 1]]}]}),
    "key of another type": set_("forms", 0, {"dict": [["w"]]}),
    "keys of another type": set_("forms", 0, {"dict": "w"}),
    "array of another type": set_("arrays", "kinds", 0, "code", "F32"),
    "array of a type that is not there": set_("arrays", "kinds", 0, "code", "F4"),
    "array of a type that NumPy lacks": set_("arrays", "kinds", 0, "code", "F8_E4M3"),
    "array of another shape": set_("arrays", "kinds", 0, "shape", [1, 2]),
    "array of less than nothing": set_("arrays", "kinds", 0, "shape", [-2]),
    "array of all memory": set_("arrays", "kinds", 0, "shape", [2**62]),
    "array of more": set_("arrays", "kinds", 0, "shape", [2**40, 2**40]),
    "array of no size": set_("arrays", "kinds", 0, "shape", [2**62, 0, 2**62]),
    "array of foreign type": set_("arrays", "kinds", 0, "dtype", "object"),
    "array of no type": set_("arrays", "kinds", 0, "dtype", []),
    "bad order": set_("arrays", "kinds", 0, "order", [1, 1]),
    "order of another type": set_("arrays", "kinds", 0, "order", 3),
    "no kinds": set_("arrays", "kinds", None),
    "no such kind": set_("arrays", "of", [0, 0, 1]),
    "one array less": set_("arrays", "of", [0, 0]),
    "one array more": set_("arrays", "of", [0, 0, 0, 0]),
    "no list": set_("state", 3),
    "no table": set_("model", {"a": 1}),
    "unknown tag": set_("metadata", "x", {"$eval": "1"}),
    "array among the values": set_("metadata", "x", {"$array": "x0", "dtype": "float64"}),
    "bad number": set_("metadata", "x", {"$float": "00"}),
    "bad scalar": set_("metadata", "x", {"$scalar": ["object", "00" * 8]}),
    "key of a value that cannot be": set_("metadata", "x", {"$dict": [[[], 1]]}),
    "no metadata": set_("metadata", None),
    "later format": set_("format", 3),
    "no format": set_("format", None),
    "deep": set_("metadata", "x", eval("[" * 80 + "]" * 80)),
    "a deep model": nested("model", "nodes", behind=[0]),
    "a deep state": nested("state", "leafs", "states", behind=[1, 2]),
}
FINE = {"other rule", "deep"}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_files(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = forged(tmp_path, FORGERIES[name])
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    for like in (MODEL, None):
        if name in FINE:
            optirs.load(path, like)
        else:
            with pytest.raises(ValueError, match=re.escape(str(path)) + "|state|model"):
                optirs.load(path, like)
    assert set(sys.modules) == modules
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("value", ["[" * 1_000_000, '{"a":' * 1_000_000, '"' + "[" * 10_000_000 + '"'])
def test_headers_that_nest_deeply(value: str, tmp_path: Path) -> None:
    for text in (f'{{"__metadata__":{{"optirs":{value}', f'{{"model.w":{value}', value):
        header = text.encode()
        (tmp_path / "file").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(ValueError, match="is damaged, or was not written by"):
            optirs.load(tmp_path / "file")


@pytest.mark.parametrize("depth", [150, 100_000, 1_000_000])
def test_values_that_nest_deeply(depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of a million nested lists does not overflow the stack, and the error names the file."""
    written = _archive._json
    monkeypatch.setattr(_archive, "_json", lambda value: written(value).replace('"HERE"', "[" * depth + "]" * depth))
    path = saved(tmp_path, model=MODEL, x="HERE")
    if depth < 200:
        assert type(optirs.load(path, MODEL).metadata["x"]) is list
    else:
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} cannot be read"):
            optirs.load(path, MODEL)


SUM = '{"crc32":"00000000"'


@pytest.mark.parametrize("text", [SUM, SUM + ",}", SUM + "}[", SUM + "}", "", "[]", "3", '{"crc32":3}'])
def test_broken_json_names_the_path(text: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_file({"model.w": np.ones(2)}, path, metadata={"optirs": text})
    raw = path.read_bytes()
    if (at := raw.find(b"00000000")) > 0:  # the right sum
        path.write_bytes(raw[:at] + b"%08x" % zlib.crc32(raw) + raw[at + 8 :])
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))} "):
        optirs.load(path, MODEL)


LAYER = {"layer": "Dense", "children": ["W", "b"], "plain": {"activation": {"value": "relu"}}}
LAYERS = {
    "activation": LAYER | {"plain": {"activation": {"value": "exec"}}},
    "no activation": LAYER | {"plain": {"activation": None}},
    "class": LAYER | {"plain": {"__class__": {"value": "int"}}},
    "method": LAYER | {"plain": {"pullback": {"value": 1}}},
    "children": LAYER | {"children": ["b", "W"]},
    "child": LAYER | {"children": ["W", "pullback"]},
    "another layer": LAYER | {"layer": "Checkpoint"},
    "no layer": LAYER | {"layer": 3},
    "values": LAYER | {"plain": 3},
    "no values": {"layer": "Dense", "children": ["W", "b"]},
    "list": {"list": 2, "class": "builtins.list"},
    "dict": {"dict": ["W", "b"], "class": "os.environ"},
}


@pytest.mark.parametrize("name", LAYERS)
def test_forged_layers(name: str, tmp_path: Path) -> None:
    model = [optirs.Dense.glorot(2, 3, "relu", rng=optirs.Xoshiro(1))]
    path = forged(tmp_path, form(LAYER, LAYERS[name]), model, optirs.setup(optirs.Adam(), model))
    with pytest.raises(ValueError, match=r"model|file"):
        optirs.load(path)
