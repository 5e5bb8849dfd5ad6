"""Files know the structure: models are made again without one like it, and one that differs is refused."""

import re
import sys
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import DTYPES, bits, draw, generator

import optirs
from optirs import Affine, Chain, Dense, Xoshiro

Pair = namedtuple("Pair", "first second")


@optirs.functor
@dataclass
class Block:
    a: Any
    b: Any


@optirs.functor
@dataclass
class Other:
    a: Any
    b: Any


@optirs.functor
@dataclass
class Longer:
    a: Any
    b: Any
    c: Any = None


def saved(path: Path, **what: Any) -> Path:
    optirs.save(path / "file", **what)
    return path / "file"


def exact(x: Any) -> Any:
    """Something that is equal for trees of equal classes, values, bits and memory orders."""
    if isinstance(x, np.ndarray):
        order = x.strides if x.size > 1 else None
        return type(x), x.dtype.str, x.shape, order, np.ascontiguousarray(x).tobytes()
    if isinstance(x, dict):
        return type(x), [(exact(k), exact(v)) for k, v in x.items()]
    if isinstance(x, list | tuple):
        return type(x), [exact(v) for v in x]
    if type(x) in (Affine, Chain, Dense):
        return type(x), exact(vars(x))
    if isinstance(x, optirs.Leaf):
        return exact([x.state, x.frozen]), x.rule, x.shape, x.dtype
    return type(x), x.hex() if type(x) is float else repr(x)


def network(activation: str = "relu") -> Any:
    rng = Xoshiro(1)
    return Chain(Dense.glorot(3, 4, activation, rng=rng), Chain(Affine.random(4, 2, rng=rng)))


MODELS: dict[str, Any] = {
    "layers": network(),
    "array": np.arange(3.0),
    "containers": {
        "a": [np.ones(2), (np.zeros((), np.float32), ())],
        "b": {},
        "c": [],
        "d": OrderedDict(z=np.ones(1), a=1),
    },
    "keys": {0: np.ones(1), (1, "a b"): np.ones(2), None: 3, 2.5: [np.ones(3)], b"x": "y", True: 1, "$x": 2, "": 3},
    "values": [
        np.ones(1),
        None,
        True,
        3,
        10**400,
        -0.0,
        float("inf"),
        1 - 2j,
        "text\u00e9 \ud800",
        b"\x00",
        np.float32(0.1),
        np.int8(3),
    ],
    "rules": [np.ones(1), optirs.Adam(0.5), optirs.schedules.Constant(0.1)],
    "dtypes": [draw(generator(name), (3, 2), name) for name in DTYPES],
    "whole numbers": [np.arange(2, dtype=name) for name in ("bool", "int8", "uint16", "int32", "uint64")],
    "orders": [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.moveaxis(np.arange(24, dtype=np.float32).reshape(3, 2, 4), 0, 1).copy(order="K"),
        np.asfortranarray(np.ones((2, 3), complex)),
        np.arange(3, dtype=">f4"),
        np.asfortranarray(np.arange(6, dtype=">i8").reshape(2, 3)),
    ],
    "empty": [np.zeros((0, 3), np.float32), np.zeros((0, 2), np.float32), np.zeros((2, 0))],
    "nothing": {},
}


@pytest.mark.parametrize("name", MODELS)
def test_models_are_made_again(name: str, tmp_path: Path) -> None:
    model = MODELS[name]
    found = optirs.load(saved(tmp_path, model=model))
    assert exact(found.model) == exact(model)
    assert found.state is None
    if name == "layers":
        x = np.ones(3, np.float32)
        assert bits(found.model(x)) == bits(model(x))


@pytest.mark.filterwarnings("ignore:setup found no trainable")
@pytest.mark.parametrize("name", [name for name in MODELS if name != "nothing"])
@pytest.mark.parametrize("with_model", [True, False], ids=["both", "state"])
def test_states_are_made_again(name: str, with_model: bool, tmp_path: Path) -> None:
    model = MODELS[name]
    state = optirs.setup(optirs.OptimiserChain(optirs.Momentum(), optirs.AccumGrad(2)), model)
    optirs.freeze_(state)
    path = saved(tmp_path, state=state, **({"model": model} if with_model else {}))
    found = optirs.load(path)
    assert exact(found.state) == exact(state) == exact(optirs.load(path, like=model).state)
    if with_model:
        state, model = optirs.update(optirs.thaw_(found.state), found.model, None)
        assert exact(model) == exact(MODELS[name])


def test_what_stands_twice_is_one_object_again(tmp_path: Path) -> None:
    x = np.arange(6.0).reshape(2, 3)
    dense, some, pair = Dense.glorot(2, 2, rng=Xoshiro(1)), {"x": x}, (np.ones(1),)
    model = {
        "a": dense,
        "b": [dense, some],
        "c": some,
        "d": Chain(dense, dense),
        "e": x.T,
        "f": [pair, pair],
        "g": {"x": x},
    }
    found = optirs.load(saved(tmp_path, model=model, state=optirs.setup(optirs.Adam(), model)))
    new = found.model
    assert exact(new) == exact(model)
    assert new["a"] is new["b"][0] is new["d"][0] is new["d"][1]
    assert new["b"][1] is new["c"] is not new["g"]
    assert new["f"][0] is new["f"][1]
    assert new["c"]["x"] is new["g"]["x"]
    assert np.shares_memory(new["e"], new["c"]["x"])
    assert found.state["a"].W is found.state["b"][0].W is found.state["d"][0].W
    assert found.state["e"] is found.state["c"]["x"]
    new["c"]["x"][0, 0] = 7
    assert new["e"][0, 0] == 7


class Opaque:
    pass


MORE = {
    "class": ({"m": [Block(np.ones(1), 2)]}, "Block"),
    "named tuple": ({"m": Pair(np.ones(1), 2)}, "Pair"),
    "dict subclass": ({"m": defaultdict(list, a=np.ones(1))}, "m is a collections.defaultdict"),
    "function": ({"w": np.ones(1), "f": [abs]}, "f[0] is a builtins.builtin_function_or_method"),
    "object": ({"w": np.ones(1), "f": Opaque()}, "Opaque, "),
    "set": ({"w": np.ones(1), "f": {1}}, "f is a builtins.set"),
    "key": ({"w": np.ones(1), Opaque: 3}, " has a key <class"),
    "type": ({"w": np.ones(1), "t": np.array(["a"])}, "t is an array of <U1"),
}


@pytest.mark.parametrize("name", MORE)
def test_what_only_a_model_like_it_can_tell(name: str, tmp_path: Path) -> None:
    model, text = MORE[name]
    path = saved(tmp_path, model=model)
    with pytest.raises(
        ValueError, match=f"^model.*{re.escape(text)}.*: load needs like, a model of the same structure$"
    ):
        optirs.load(path)
    found = optirs.load(path, like=model).model
    assert [type(x) for x in found.values()] == [type(x) for x in model.values()]


def test_an_attribute_of_a_layer_that_cannot_be_written(tmp_path: Path) -> None:
    model = network()
    model[0].call = abs
    path = saved(tmp_path, model=model)
    with pytest.raises(ValueError, match=r"^model\.layers\[0\]\.call is a builtins\.builtin_function"):
        optirs.load(path)
    assert optirs.load(path, like=model).model[0].call is abs
    model[0].call = ["a", (1.5, None)]
    assert optirs.load(saved(tmp_path, model=model)).model[0].call == ["a", (1.5, None)]


def test_plain_values_are_those_of_like(tmp_path: Path) -> None:
    path = saved(tmp_path, model={"w": np.ones(1), "n": 3, "name": "a", "more": [1]})
    like = {"w": np.zeros(1), "n": 4, "name": None, "other": "b", "more": "none"}
    found = optirs.load(path, like=like).model
    assert found == like | {"w": np.ones(1)}
    assert optirs.load(path).model["n"] == 3


W, B = np.ones((2, 3), np.float32), np.ones(2, np.float32)
DIFFERENT: dict[str, Any] = {
    "activation": (
        [Dense(W, B, "relu")],
        [Dense(W, B, "tanh")],
        "model[0] has activation relu in the file, tanh in like",
    ),
    "layer": ([Dense(W, B)], [Affine(W, B)], "model[0] is a Dense in the file, an Affine in like"),
    "layer and dict": (
        {"m": Affine(W, B)},
        {"m": {"W": W, "b": B}},
        "model.m is an Affine in the file, a dict in like",
    ),
    "layer and class": (
        [Affine(W, B)],
        [Block(W, B)],
        "model[0] is an Affine in the file, an object with children a, b in",
    ),
    "list and dict": ({"m": [W]}, {"m": {0: W}}, "model.m is a list in the file, a dict in like"),
    "empty ones": ({"w": W, "m": []}, {"w": W, "m": {}}, "model.m is a list in the file, a dict in like"),
    "children": ([Block(W, B)], [Longer(W, B)], "model[0] has children a, b in the file, a, b, c in like"),
    "dict and class": (
        {"m": {"a": W, "b": B}},
        {"m": Block(W, B)},
        "model.m is a dict in the file, an object with children",
    ),
    "named tuple": (
        {"m": Pair(W, B)},
        {"m": {"first": W, "second": B}},
        "model.m is a named tuple in the file, a dict in",
    ),
    "array and list": ({"m": [W]}, {"m": W}, "model.m is a list in the file, an array in like"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_node_that_differs(name: str, tmp_path: Path) -> None:
    model, like, text = DIFFERENT[name]
    path = saved(tmp_path, model=model, state=optirs.setup(optirs.Adam(), model))
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        optirs.load(path, like)
    if name != "activation":  # which a state has not
        path = saved(tmp_path, state=optirs.setup(optirs.Adam(), model))
        with pytest.raises(
            ValueError, match=rf"^{re.escape(text.replace('model', 'state', 1))}|the file has a Leaf at"
        ):
            optirs.load(path, like)


ALIKE = {
    "list and tuple": ({"m": [W, (B,)]}, {"m": (W, [B])}),
    "classes": ([Block(W, B)], [Other(W, B)]),
    "dicts": ({"a": W, "b": B}, OrderedDict(b=B, a=W)),
    "dict of a default": ({"a": W}, defaultdict(list, a=W)),
}


@pytest.mark.parametrize("name", ALIKE)
def test_nodes_that_are_interchangeable(name: str, tmp_path: Path) -> None:
    model, like = ALIKE[name]
    path = saved(tmp_path, model=model, state=optirs.setup(optirs.Adam(), model))
    found = optirs.load(path, like)
    assert type(found.model) is type(like)
    assert bits(optirs.trainables(found.model)) == bits(optirs.trainables(like))
    assert type(found.state) is type(like)


def test_nothing_is_imported(tmp_path: Path) -> None:
    """A file names classes; those of the user's are only compared."""
    model = {"o": OrderedDict(a=np.ones(1)), "b": Block(np.ones(1), 2)}
    path = saved(tmp_path, model=model)
    Block.__module__, name = "antigravity", Block.__module__
    try:
        path = saved(tmp_path, model=model)
    finally:
        Block.__module__ = name
    with pytest.raises(ValueError, match=r"model\.b is a antigravity\.Block"):
        optirs.load(path)
    assert "antigravity" not in sys.modules


def test_deep_models(tmp_path: Path) -> None:
    """As deep as trees may be, without running out of stack."""
    model: Any = np.ones(1)
    for i in range(900):
        model = [model] if i % 2 else {"a": model}
    node = optirs.load(saved(tmp_path, model=model)).model
    for i in reversed(range(900)):
        node = node[0] if i % 2 else node["a"]
    assert bits(node) == bits(np.ones(1))
