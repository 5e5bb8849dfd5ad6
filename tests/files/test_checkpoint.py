"""What goes into a file, what comes out of it, and what is refused."""

import json
import re
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from problems import DTYPES, bits, draw, generator
from safetensors.numpy import load_file, save_file

import optirs

Pair = namedtuple("Pair", "first second")


@optirs.functor(children=("weight", "mean"), trainable=("weight",))
class Norm:
    def __init__(self, n: int) -> None:
        self.weight = np.ones(n)
        self.mean = np.zeros(n)
        self.label = "norm"


@optirs.functor
@dataclass(frozen=True)
class Block:
    inner: Any
    norm: Any


def tree() -> Any:
    """A model with every kind of node."""
    rng = generator("tree")
    x = draw(rng, (3, 2), "float32")
    return {
        "layers": [Block(optirs.Affine.random(3, 2, rng=optirs.Xoshiro(1)), Norm(2)), (x, [])],
        "pair": Pair(draw(rng, (), "float64"), OrderedDict(b=draw(rng, (2,), "complex128"), a=None)),
        "tied": x.T,
        "same": x,
        "count": np.arange(5),
        "mask": np.array([True, False]),
        "name": "model",
        "call": abs,
        "n": 3,
        0: {(1, "a b"): draw(rng, (0, 2), "bfloat16")},
    }


def arrays(model: Any) -> list[Any]:
    return [leaf for _, leaf, _ in optirs.trees.tree.leaves(model, whole=True) if isinstance(leaf, np.ndarray)]


def saved(path: Path, **what: Any) -> Path:
    optirs.save(path / "file", **what)
    return path / "file"


def test_every_kind_of_node(tmp_path: Path) -> None:
    model = tree()
    model["layers"][0].norm.mean += 3  # not trained, and kept all the same
    state = optirs.setup(optirs.Adam(), model)
    state, model = optirs.update(state, model, {"same": np.ones((3, 2)), "pair": [1.0, None]})
    path = saved(tmp_path, model=model, state=state)
    like = tree()
    before = bits(arrays(like))
    found = optirs.load(path, like)
    assert bits(arrays(found.model)) == bits(arrays(model))
    assert bits(arrays(like)) == before
    assert not {id(x) for x in arrays(found.model)} & {id(x) for x in arrays(like)}
    assert found.state["layers"][0].norm.weight == state["layers"][0].norm.weight
    assert found.state["pair"] == state["pair"]
    assert type(found.model["pair"]) is Pair
    assert type(found.model["pair"].second) is OrderedDict
    assert (found.model["name"], found.model["call"], found.model["n"]) == ("model", abs, 3)
    assert found.model["layers"][0].norm.label == "norm"
    gradient = {"tied": np.ones((2, 3)), "count": None}
    assert bits(arrays(optirs.update(found.state, found.model, gradient)[1])) == bits(
        arrays(optirs.update(state, model, gradient)[1])
    )


@pytest.mark.parametrize("order", [("a", "b", "c"), ("b", "a", "c"), ("c", "b", "a"), ("b", "c", "a")])
def test_ties_in_another_order(tmp_path: Path, order: tuple[str, ...]) -> None:
    x = np.arange(6.0).reshape(2, 3)
    model = {"a": x, "b": x, "c": x.T}
    path = saved(tmp_path, model=model)
    found = optirs.load(path, {key: model[key] for key in order}).model
    assert tuple(found) == order
    for key, value in model.items():
        np.testing.assert_array_equal(found[key], value)
    assert found["a"] is found["b"]
    assert np.shares_memory(found["a"], found["c"])


def test_a_state_of_ties_in_another_order(tmp_path: Path) -> None:
    x, rule = np.arange(4.0).reshape(2, 2), optirs.Adam()
    model = {"a": x, "b": x, "c": x.T}
    state, model = optirs.update(optirs.setup(rule, model), model, {"a": np.arange(4.0).reshape(2, 2)})
    path = saved(tmp_path, model=model, state=state)
    found = optirs.load(path, {key: model[key] for key in "bac"})
    grad = {"b": np.ones((2, 2)), "a": None, "c": None}
    _, again = optirs.update(found.state, found.model, grad)
    _, expected = optirs.update(state, model, grad)
    for key in "abc":
        np.testing.assert_array_equal(again[key], expected[key])
    with pytest.raises(ValueError, match=r"^state.c is the transpose of state.a, which comes first in the file, but"):
        optirs.load(path, {key: model[key] for key in "cab"})


def test_ties(tmp_path: Path) -> None:
    model = tree()
    state = optirs.setup(optirs.Momentum(), model)
    path = saved(tmp_path, model=model, state=state)
    found = optirs.load(path, like=tree())
    x = found.model["layers"][1][0]
    assert found.model["same"] is x
    assert np.shares_memory(found.model["tied"], x)
    assert found.model["tied"].strides == x.strides[::-1]
    assert found.state["tied"] is found.state["same"]
    assert [n for n in load_file(path) if n.startswith("model.")].count("model.same") == 0
    untied = tree() | {"same": np.zeros((3, 2), np.float32)}
    with pytest.raises(
        ValueError,
        match=r"model.layers\[1\]\[0\] has ties model.tied \(transposed\), model.same in the file, model.tied",
    ):
        optirs.load(path, untied)
    with pytest.raises(
        ValueError, match=r"state.layers\[1\]\[0\] has ties state.tied, state.same in the file, state.tied in like"
    ):
        optirs.load(saved(tmp_path, state=state), untied)


def test_other_programs_read_it(tmp_path: Path) -> None:
    model = {name: draw(generator(name), (3, 2), name) for name in DTYPES}
    model["fortran"] = np.asfortranarray(model["float32"])
    model["strided"] = np.arange(12)[::2]
    entries = load_file(saved(tmp_path, model=model, state=optirs.setup(optirs.Adam(), model), epoch=1))
    assert len(entries) == len(model) + 2 * (len(model) - 1)
    model["complex128"] = np.stack([model["complex128"].real, model["complex128"].imag], -1)
    for name, x in model.items():
        assert bits(np.ascontiguousarray(entries[f"model.{name}"])) == bits(np.ascontiguousarray(x))
    assert not entries["state.fortran.m"].any()


def test_the_text_of_a_file(tmp_path: Path) -> None:
    from safetensors import safe_open

    model = {"w": np.ones(2)}
    state = optirs.setup(optirs.OptimiserChain(optirs.ClipGrad(), optirs.Adam()), model)
    state, model = optirs.update(state, model, model)
    with safe_open(saved(tmp_path, model=model, state=state, epoch=4), "np") as file:
        text = json.loads(file.metadata()["optirs"])
    assert text["metadata"] == {"epoch": 4}
    assert text["arrays"] == {"kinds": [{"code": "F64", "shape": [2]}], "of": [0, 0, 0]}
    assert {"tuple": 2} in text["forms"]
    assert {"dict": ["m", "v", "t"]} in text["forms"]
    assert text["model"] == {"nodes": [text["forms"].index({"dict": ["w"]}) * -1 - 1, 0], "same": []}
    assert text["rules"][0]["rules"]["$tuple"][1]["$rule"] == "optirs.Adam"


def test_the_same_bytes_each_time(tmp_path: Path) -> None:
    files = []
    for _ in range(2):
        model = tree()
        files.append(saved(tmp_path, model=model, state=optirs.setup(optirs.Adam(), model), epoch=1).read_bytes())
    assert files[0] == files[1]


def test_parts(tmp_path: Path) -> None:
    model = {"w": np.ones(2)}
    state = optirs.setup(optirs.Adam(), model)
    assert optirs.load(saved(tmp_path, model=model), model).state is None
    found = optirs.load(saved(tmp_path, state=state), model)
    assert found.model is None
    assert found.state == state
    (leaf,) = optirs.load(saved(tmp_path, state=[state["w"]]), [np.ones(2)]).state
    assert leaf == state["w"]
    x = np.ones(3)
    assert bits(optirs.load(saved(tmp_path, model=x, state=optirs.setup(optirs.Adam(), x)), x).model) == bits(x)


def test_repr_is_short(tmp_path: Path) -> None:
    model = {"w": np.ones(10_000)}
    path = saved(tmp_path, model=model, epoch=1)
    assert repr(optirs.load(path, model)) == "Checkpoint(model=dict, state=None, metadata={'epoch': 1})"
    path = saved(tmp_path, model=model, losses=[0.1] * 1000, epoch=1)
    assert repr(optirs.load(path, model)) == "Checkpoint(model=dict, state=None, metadata={'losses', 'epoch'})"


BUFFERS = [
    np.array(["a", "bcd\u00e9"]),
    np.array(["2026-01-01", "NaT"], "datetime64[ns]"),
    np.array([(1, 2.0)], [("a", ">i2"), ("b", "<f8")]),
    np.arange(6, dtype=np.longdouble).reshape(2, 3).T,
    np.array([1.5, -2], ml_dtypes.float8_e4m3fn),
    np.arange(3, dtype=">u4"),
    np.array(b"abc"),
]


@pytest.mark.parametrize("x", BUFFERS, ids=lambda x: str(x.dtype))
def test_arrays_of_other_types(x: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, model={"x": x, "w": np.ones(1)})
    found = optirs.load(path, {"x": np.zeros_like(x), "w": np.ones(1)}).model["x"]
    assert found.dtype == x.dtype
    assert (found.shape, found.tobytes()) == (x.shape, x.tobytes())
    with pytest.raises(ValueError, match=r"model.x has dtype .* in the file, float64 in like"):
        optirs.load(path, {"x": np.zeros(x.shape), "w": np.ones(1)})


class Printed:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


W = np.ones(4)
SELF: list[Any] = []
SELF.append(SELF)
REFUSED = [
    ({}, TypeError, "needs a model, a state or both"),
    ({"model": {"x": np.array([None])}}, TypeError, "model.x is a ndarray of object"),
    ({"model": {object(): W}}, ValueError, "differs by run"),
    ({"model": {0: W, Printed("0"): W + 1}}, ValueError, r"model\[0\] cannot be saved under this name"),
    ({"model": {"a": W[1:], "b": W[:-1]}}, ValueError, "a and b share memory"),
    ({"model": SELF}, RecursionError, "contains itself"),
    ({"model": [W], "deep": SELF}, RecursionError, "metadata.deep nests deeper than 200 levels, or contains itself"),
    (
        {"model": optirs.setup(optirs.Adam(), {"a": [W]})},
        TypeError,
        r"model.a\[0\] is a Leaf, not a part of a model: write save\(path, model=..., state=...\)",
    ),
    ({"model": object()}, TypeError, "model is a object, of which nothing would be saved: register it with functor"),
    ({"model": 3}, TypeError, "model is a int, of which nothing would be saved"),
    ({"state": [W]}, TypeError, r"state\[0\] is a ndarray, not a Leaf"),
    ({"state": optirs.setup(optirs.Adam(), [W]), "model": [W[:3]]}, ValueError, r"shape \(4,\) in the state, \(3,\)"),
    ({"state": optirs.setup(optirs.Adam(), [W]), "model": {"a": W}}, ValueError, r"state has a Leaf at state\[0\]"),
    ({"state": optirs.setup(optirs.Adam(), [W]), "model": [W.astype("f4")]}, ValueError, "dtype float64 in the state"),
    (
        {"state": optirs.setup(optirs.Adam(), [W, W]), "model": [W, W + 1]},
        ValueError,
        r"state\[0\] has ties state\[1\] in the state, none in model",
    ),
    (
        {"state": optirs.setup(optirs.Adam(), {"w": W}), "model": {"w": W, "v": W + 1}},
        ValueError,
        "model has a parameter at state.v, where the state has neither a Leaf nor None",
    ),
]


@pytest.mark.parametrize(("what", "error", "text"), REFUSED)
def test_what_cannot_be_saved(what: Any, error: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=text):
        optirs.save(tmp_path / "file", **what)
    assert not list(tmp_path.iterdir())


LIKES = [
    ({"w": np.ones(3), "b": np.ones(1)}, "model.w has shape (2, 3) in the file, (3,) in like"),
    ({"w": np.ones((2, 3), "f4"), "b": np.ones(1)}, "model.w has dtype float64 in the file, float32 in like"),
    ({"w": np.ones((2, 3))}, "the file has an array at model.b, like has none"),
    ({"w": np.ones((2, 3)), "b": None}, "the file has an array at model.b, like has none"),
    ({"w": np.ones((2, 3)), "b": np.ones(1), "c": np.ones(1)}, "like has an array at model.c, the file has none"),
    ([np.ones((2, 3)), np.ones(1)], "model is a dict in the file, a list in like"),
    ({"w": [np.ones((2, 3))], "b": np.ones(1)}, "model.w is an array in the file, a list in like"),
    (3, "the file has an array at model.w, like has none"),
]


@pytest.mark.parametrize(("like", "text"), LIKES)
def test_a_model_of_another_structure(like: Any, text: str, tmp_path: Path) -> None:
    model = {"w": np.ones((2, 3)), "b": np.ones(1)}
    path = saved(tmp_path, model=model, state=optirs.setup(optirs.Adam(), model))
    with pytest.raises(ValueError, match=re.escape(text)):
        optirs.load(path, like)


STATE_LIKES = [
    ({"w": np.ones(3)}, "state.w has shape (2, 3) in the file, (3,) in like"),
    ({"w": np.ones((2, 3), np.float32)}, "state.w has dtype float64 in the file, float32 in like"),
    ({"w": 1}, "the file has a Leaf at state.w, where like has no parameter"),
    ([np.ones((2, 3))], "state is a dict in the file, a list in like"),
    (3, "the file has a Leaf at state.w, where like has no parameter"),
    (
        {"w": np.ones((2, 3)), "v": np.ones(2)},
        "like has a parameter at state.v, where the file has neither a Leaf nor None",
    ),
]


@pytest.mark.parametrize(("like", "text"), STATE_LIKES)
def test_a_state_of_another_structure(like: Any, text: str, tmp_path: Path) -> None:
    path = saved(tmp_path, state=optirs.setup(optirs.Adam(), {"w": np.ones((2, 3))}))
    with pytest.raises(ValueError, match=re.escape(text)):
        optirs.load(path, like)


def test_places_without_a_leaf_stay_without(tmp_path: Path) -> None:
    x = np.ones(2)
    model = {"w": np.ones(3), "kept": [x, 1.5, "text"], "again": x, "fixed": np.arange(2)}
    state = optirs.setup(lambda path, _: optirs.Adam() if path == ("w",) else None, model)
    for both in ({}, {"model": model}):
        found = optirs.load(saved(tmp_path, state=state, **both), model).state
        assert found == state
        assert found["kept"] == [None, None, None]
    more = {**model, "kept": [x, 1.5, "text", np.ones(1)]}
    with pytest.raises(ValueError, match=r"like has a parameter at state\.kept\[3\], where the file has neither"):
        optirs.load(saved(tmp_path, state=state), more)
    none = {"w": np.ones(3), "v": None}
    assert optirs.load(saved(tmp_path, state=optirs.setup(lambda path, x: None, none)), none).state == dict.fromkeys(
        "wv"
    )


def test_files_of_others(tmp_path: Path) -> None:
    model = {"w": np.ones(2)}
    path = tmp_path / "file"
    save_file({"model.w": np.ones(2)}, path)
    with pytest.raises(ValueError, match=r"was not written by optirs\.save"):
        optirs.load(path, model)
    save_file({"model.w": np.ones(2)}, path, metadata={"optirs": "1"})
    with pytest.raises(ValueError, match=r"was not written by optirs\.save"):
        optirs.load(path, model)
    for junk in (b"", b"PK\x03\x04" * 10, b"\x80\x04" * 100, b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 50, bytes(1000)):
        path.write_bytes(junk)
        with pytest.raises(ValueError, match=r"safetensors file|was not written"):
            optirs.load(path, model)
    with pytest.raises(FileNotFoundError):
        optirs.load(tmp_path / "none", model)
    with pytest.raises(IsADirectoryError):
        optirs.load(tmp_path, model)
