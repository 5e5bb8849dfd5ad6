"""Files that earlier versions wrote are read like those of today; `files/NAME_FORMAT.safetensors` holds them."""

import json
import re
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import bits, draw, generator
from safetensors import safe_open
from safetensors.numpy import load_file

import optirs
from optirs.files import _archive

FILES = Path(__file__).parent
METADATA = {"epoch": 3, "loss": [0.5, float("inf")], "pair": (1, "a"), "key": {1: b"\x00"}, "rule": optirs.Adam(0.5)}

Pair = namedtuple("Pair", "first second")


@optirs.functor(children=("weight", "mean"), trainable=("weight",))
class Norm:
    def __init__(self, n: int) -> None:
        self.weight = np.ones(n)
        self.mean = np.arange(n) + 0.5


@optirs.functor
@dataclass(frozen=True)
class Block:
    inner: Any
    norm: Any


def tree() -> Any:
    """A model with every kind of node and many types of arrays."""
    rng = generator("file")
    x = draw(rng, (3, 2), "float32")
    return {
        "layers": [Block(draw(rng, (2,), "float16"), Norm(2)), (x, [])],
        "pair": Pair(draw(rng, (), "float64"), OrderedDict(b=draw(rng, (2,), "complex128"), a=None)),
        "tied": x.T,
        "same": x,
        "order": np.asfortranarray(draw(rng, (2, 3), "float64")),
        "swapped": draw(rng, (2,), "float32").astype(">f4"),
        "count": np.arange(5),
        "words": np.array(["a", "bc"]),
        "name": "model",
        0: {(1, "a b"): draw(rng, (0, 2), "bfloat16")},
    }


def layers() -> Any:
    """A model of layers alone."""
    rng = optirs.Xoshiro(1)
    return optirs.Chain(optirs.Dense.glorot(3, 4, "tanh", rng=rng), optirs.Affine.random(4, 2, rng=rng))


def stepped(rule: optirs.Rule, model: Any) -> Any:
    """State and model after three steps."""
    state = optirs.setup(rule, model)
    for _ in range(3):
        state, model = optirs.update(state, model, ones(state))
    return state, model


def ones(state: Any) -> Any:
    """A gradient of ones for every Leaf, at its first place."""
    seen = set[int]()
    values = []
    for _, leaf, _ in optirs.trees.tree.leaves(state, whole=True):
        first = isinstance(leaf, optirs.Leaf) and id(leaf) not in seen
        seen.add(id(leaf))
        values.append(np.ones(leaf.shape, "float32") if first else None)
    return optirs._core.unflatten(state, values, True, True)


def arrays(tree: Any) -> list[Any]:
    return [leaf for _, leaf, _ in optirs.trees.tree.leaves(tree, whole=True) if isinstance(leaf, np.ndarray)]


LIKES = {"tree_1": tree, "layers_1": layers, "state_1": layers}


@pytest.mark.parametrize("name", LIKES)
def test_files_of_earlier_versions(name: str) -> None:
    """Every array of the file, as any reader of safetensors finds it, is at its place."""
    like = LIKES[name]()
    path = FILES / f"{name}.safetensors"
    entries = load_file(path)
    found = optirs.load(path, like)
    expected = {}
    for root, tree_ in (("model", found.model), ("state", found.state)):
        for key, leaf, _ in optirs.trees.tree.leaves(tree_, whole=True) if tree_ is not None else ():
            place = str(optirs.KeyPath((root, *key)))
            expected |= dict(flattened(place, leaf.state)) if isinstance(leaf, optirs.Leaf) else {place: leaf}
    seen = 0
    for place, x in entries.items():
        seen += 1
        got = expected[place]
        if got.dtype == np.complex128:
            got = np.stack([got.real, got.imag], -1)
        if x.dtype == np.uint8:
            assert x.tobytes() == got.tobytes()
        else:
            assert bits(np.ascontiguousarray(got.astype(x.dtype))) == bits(np.ascontiguousarray(x))
    assert seen > 3
    assert found.report.loaded
    assert not found.report.missing


def flattened(place: str, state: Any) -> Any:
    """The arrays of the state of a Leaf, by name."""
    if isinstance(state, np.ndarray):
        yield place, state
    if isinstance(state, dict | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        for key, value in items:
            yield from flattened(place + (f".{key}" if isinstance(key, str) else f"[{key}]"), value)


def test_a_tree_of_an_earlier_version() -> None:
    found = optirs.load(FILES / "tree_1.safetensors", tree())
    model, state = found.model, found.state
    assert found.metadata == METADATA
    rule = optirs.OptimiserChain(optirs.ClipNorm(1.0), optirs.AccumGrad(2), optirs.Adam(0.01))
    assert state["same"].rule == rule
    assert state["same"] is state["layers"][1][0]
    assert (state["same"].state[1]["count"], state["same"].state[2]["t"]) == (1, 1)
    assert (state["pair"].first.frozen, state["order"].frozen) == (True, False)
    assert model["same"] is model["layers"][1][0]
    assert np.shares_memory(model["tied"], model["same"])
    assert model["order"].flags.f_contiguous
    assert model["swapped"].dtype.str == ">f4"
    assert model["words"].tolist() == ["a", "bc"]
    assert model["pair"].second["b"].dtype == np.complex128
    gradient = {"same": np.ones((3, 2))}
    optirs.update_(state, model, gradient)
    assert state["same"].state[2]["t"] == 2


def test_files_of_earlier_versions_do_not_know_the_structure() -> None:
    for name in LIKES:
        with pytest.raises(
            ValueError, match="was written by an earlier version, without the structure: load needs like"
        ):
            optirs.load(FILES / f"{name}.safetensors")


def test_files_of_earlier_versions_into_other_models() -> None:
    path = FILES / "layers_1.safetensors"
    like = {"layers": [{"W": np.zeros((4, 3), "f4"), "c": np.zeros(1)}]}
    with pytest.raises(ValueError, match=r"like has an array at model\.layers\[0\]\.c, the file has none"):
        optirs.load(path, like)
    with pytest.warns(UserWarning, match="1 parameter of like has no state"):
        found = optirs.load(path, like, strict=False)
    assert [str(p) for p in found.report.loaded] == ["layers[0].W"]
    assert [str(p) for p in found.report.unexpected] == ["layers[0].b", "layers[1].W", "layers[1].b"]
    assert found.report.unexpected[0] == ("layers", 0, "b")
    assert found.state["layers"][0]["W"].rule == optirs.Momentum(0.1)
    renamed = optirs.load(path, {"net": layers()}, rename={"": "net"})
    assert bits(renamed.model["net"][0].W) == bits(found.model["layers"][0]["W"])


@pytest.fixture
def few_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the header had room for very few entries."""
    monkeypatch.setattr(_archive, "ENTRIES", 3)


@pytest.mark.usefixtures("few_entries")
@pytest.mark.parametrize("name", ["tree", "layers"])
def test_arrays_in_blocks(name: str, tmp_path: Path) -> None:
    """The form of files of many arrays."""
    make = tree if name == "tree" else layers
    state, model = stepped(optirs.Adam(0.1), make())
    optirs.save(tmp_path / "file", model=model, state=state, epoch=3)
    found = optirs.load(tmp_path / "file", make())
    assert bits(arrays(found.model)) == bits(arrays(model))
    assert [x.strides for x in arrays(found.model) if x.size] == [x.strides for x in arrays(model) if x.size]
    assert optirs.digest(found.state, found.model) == optirs.digest(state, model)
    assert found.metadata == {"epoch": 3}
    if name == "layers":
        found = optirs.load(tmp_path / "file")
        assert optirs.digest(found.state, found.model) == optirs.digest(state, model)
    assert all(key.startswith("optirs.") for key in load_file(tmp_path / "file"))
    entries = in_blocks(tmp_path / "file")
    place = "layers[0].W" if name == "layers" else "order"
    assert bits(np.ascontiguousarray(entries[f"model.{place}"])) == bits(
        np.ascontiguousarray(optirs.getkeypath(model, keys(place)))
    )
    assert f"state.{place}.m" in entries


def keys(place: str) -> tuple[Any, ...]:
    return ("layers", 0, "W") if place.startswith("layers") else (place,)


def in_blocks(path: Path) -> dict[str, Any]:
    """The arrays of a file, read as the page on saving says."""
    blocks = load_file(path)
    index = json.loads(blocks["optirs.index"].tobytes())
    entries, start = {}, dict.fromkeys(blocks, 0)
    for name, i in zip(index["names"], index["arrays"]["of"], strict=True):
        kind = index["arrays"]["kinds"][i]
        block, size = f"optirs.{kind['code']}", prod(kind["shape"])
        entries[name] = blocks[block][start[block] : start[block] + size].reshape(kind["shape"])
        start[block] += size
    assert all(start[block] == len(x) for block, x in blocks.items() if block != "optirs.index")
    return entries


@pytest.mark.usefixtures("few_entries")
def test_every_damaged_byte_of_blocks_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "file"
    optirs.save(path, model=[np.ones(2), np.ones(2, "f4"), np.ones(3, "i1"), np.ones(1)])
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is damaged"):
            optirs.load(path)
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=f"^{re.escape(str(path))} is damaged"):
            optirs.load(path)


def test_many_arrays(tmp_path: Path) -> None:
    """To 10^5 an entry each; names that do not fit into the header, or more arrays, in blocks."""
    path = tmp_path / "file"
    for count, width, entries in ((1000, 1, True), (100_001, 1, False), (1000, 60_000, False)):
        model = {f"{i:0{width}d}x" if width > 1 else f"p{i}": np.full(1, i, np.float32) for i in range(count)}
        optirs.save(path, model=model)
        found = optirs.load(path).model
        assert list(found) == list(model)
        assert all(found[key] == model[key] for key in (*list(model)[:3], *list(model)[-3:]))
        with safe_open(path, "np") as file:
            assert (len(file.keys()) == count) == entries
        path.unlink()
