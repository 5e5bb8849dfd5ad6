"""Equal trees have one digest, others have others."""

import os
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from problems import DTYPES, draw, generator

import optirs
from optirs import Affine, Chain, Dense, Xoshiro, digest


def network(activation: str = "relu") -> Any:
    rng = Xoshiro(1)
    return Chain(Dense.glorot(3, 4, activation, rng=rng), Affine.random(4, 2, rng=rng))


def stepped(rule: optirs.Rule, model: Any, steps: int = 2) -> Any:
    state = optirs.setup(rule, model)
    for _ in range(steps):
        state, model = optirs.update(state, model, model)
    return state, model


def test_form() -> None:
    state, model = stepped(optirs.Adam(), network())
    found = digest(state, model)
    assert len(found) == 64
    assert set(found) <= set("0123456789abcdef")
    assert len({found, digest(None, model), digest(state, None)}) == 3


X = np.arange(6.0).reshape(2, 3)


def variants() -> dict[str, Any]:
    """Models that all differ."""
    y = X.copy()
    moved = X.copy()
    moved[1, 1] = np.nextafter(moved[1, 1], 9)
    negative = X.copy()
    negative[0, 0] = -0.0
    return {
        "the first": {"a": X, "b": y},
        "one bit": {"a": moved, "b": y},
        "the sign of zero": {"a": negative, "b": y},
        "exchanged": {"a": y + 1, "b": X},
        "shape": {"a": X.reshape(3, 2), "b": y},
        "transposed": {"a": X.T, "b": y},
        "type": {"a": X.astype("f4"), "b": y},
        "type of the same bytes": {"a": X.view(np.int64), "b": y},
        "key": {"A": X, "b": y},
        "kind of key": {0: X, 1: y},
        "list": [X, y],
        "tie": {"a": X, "b": X},
        "tie transposed": {"a": X, "b": X.T},
        "one more": {"a": X, "b": y, "c": np.zeros(0)},
        "one more that is empty": {"a": X, "b": y, "c": np.zeros((0, 1))},
        "one less": {"a": X},
        "nested": {"m": {"a": X, "b": y}},
        "value": {"a": X, "b": y, "n": 1},
        "other value": {"a": X, "b": y, "n": 2},
        "value of another type": {"a": X, "b": y, "n": 1.0},
        "True": {"a": X, "b": y, "n": True},
        "layer": Affine(X.astype("f4"), np.zeros(2, "f4")),
        "dense": Dense(X.astype("f4"), np.zeros(2, "f4")),
        "activation": Dense(X.astype("f4"), np.zeros(2, "f4"), "tanh"),
    }


def test_what_differs() -> None:
    digests = {name: digest(None, model) for name, model in variants().items()}
    assert len(set(digests.values())) == len(digests), digests


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_order_does_not_count(dtype: str) -> None:
    x = draw(generator("digest", dtype), (3, 4, 2), dtype)
    others = [np.asfortranarray(x), np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, 0)), 0, 1), x[::-1].copy()[::-1]]
    wide = np.zeros((6, 8, 4), x.dtype)[::2, ::2, ::2]
    wide[...] = x
    swapped = [] if dtype == "bfloat16" else [x.astype(x.dtype.newbyteorder("S"))]
    shift = np.zeros(x.nbytes + 1, np.uint8)[1:].view(x.dtype).reshape(x.shape)
    shift[...] = x
    for other in (*others, wide, shift, *swapped):
        assert digest(None, [other]) == digest(None, [x])
        (a, b) = (optirs.setup(optirs.Rprop() if "complex" not in dtype else optirs.Adam(), [y]) for y in (x, other))
        assert digest(a, None) == digest(b, None)


def test_nans_count_as_one() -> None:
    def many(dtype: str, bits: list[int], word: str) -> Any:
        return np.array(bits, word).view(dtype)

    for dtype, word, bits in (
        ("float16", "u2", [0x7E00, 0xFE00, 0x7C01]),
        ("float32", "u4", [0x7FC00000, 0xFFC00000, 0x7F800001]),
        ("float64", "u8", [0x7FF8 << 48, 0xFFF8 << 48, (0x7FF0 << 48) + 1]),
        (ml_dtypes.bfloat16, "u2", [0x7FC0, 0xFFC0, 0x7F81]),
    ):
        first, *rest = (digest(None, [many(dtype, [b] * 3, word)]) for b in bits)
        assert set(rest) == {first}
        assert digest(None, [many(dtype, [bits[0]] * 2 + [0], word)]) != first
    infinite = [digest(None, [np.array([x])]) for x in (np.inf, -np.inf, np.nan)]
    assert len(set(infinite)) == 3
    (payload,) = np.array([0xFFF8000000000123], np.uint64).view(np.float64).tolist()
    assert digest(None, [X, float("nan")]) == digest(None, [X, payload])
    assert digest(None, [X, np.float64(payload), complex(payload, 1)]) == digest(
        None, [X, np.float64("nan"), complex(float("nan"), 1)]
    )
    a = np.array([complex(np.nan, 1)])
    b = a.copy()
    b.view(np.uint64)[0] ^= 1 << 63
    assert digest(None, [a]) == digest(None, [b])
    assert digest(None, [a]) != digest(None, [np.array([complex(1, np.nan)])])


def test_nans_at_the_ends_of_chunks() -> None:
    """Elements are never cut in two."""

    def model(single: int, double: int) -> Any:
        x, y = np.full(600_001, single, np.uint32), np.full(300_001, double, np.uint64)
        return [np.zeros(3, np.int8), x.view(np.float32), np.zeros(1, np.int8), y.view(np.float64)]

    one = digest(None, model(0x7FC00000, 0x7FF8 << 48))
    assert digest(None, model(0xFFC00123, (0xFFF8 << 48) + 9)) == one
    assert digest(None, model(0x7F800000, 0x7FF8 << 48)) != one


def test_equal_trees_in_other_words() -> None:
    first = digest(None, {"a": X, "b": [1, X[0].copy()]})
    assert digest(None, {"b": [1, X[0].copy()], "a": X}) == first
    assert digest(None, OrderedDict(b=(1, X[0].copy()), a=X)) == first
    shared = [X]
    assert digest(None, [shared, shared]) == digest(None, [[X], [X]])
    tied = {"a": X, "b": X.T, "c": np.ones(1)}
    assert digest(None, tied) == digest(None, {key: tied[key] for key in "cba"})
    assert digest(None, [X, abs]) == digest(None, [X, print])


def test_states() -> None:
    model = network()
    found = {}
    for name, rule in {
        "Adam": optirs.Adam(),
        "another eta": optirs.Adam(0.5),
        "another rule": optirs.NAdam(),
        "chain": optirs.OptimiserChain(optirs.Adam()),
    }.items():
        found[name] = digest(optirs.setup(rule, model), model)
        assert digest(optirs.setup(rule.replace(), network()), network()) == found[name]
    state = optirs.setup(optirs.Adam(), model)
    found["frozen"] = digest(optirs.freeze_(state), model)
    assert digest(optirs.thaw_(state), model) == found["Adam"]
    zero = optirs.update(state, model, Chain(*(type(layer)(layer.W * 0, layer.b * 0) for layer in model)))[0]
    found["count"] = digest(zero, model)
    found["moments"] = digest(optirs.update(state, model, model)[0], model)
    found["without a Leaf"] = digest(optirs.setup(lambda path, x: optirs.Adam() if "W" in path else None, model), model)
    assert len(set(found.values())) == len(found), found


def test_files_keep_it(tmp_path: Path) -> None:
    state, model = stepped(optirs.OptimiserChain(optirs.ClipNorm(), optirs.Adam()), network())
    optirs.save(tmp_path / "file", model=model, state=state)
    for found in (optirs.load(tmp_path / "file"), optirs.load(tmp_path / "file", network())):
        assert digest(found.state, found.model) == digest(state, model)


@dataclass(frozen=True)
class Own(optirs.Rule):
    eta: float = 0.1

    def init(self, x: Any) -> Any:
        return {"mean": np.zeros_like(x), 1: [None, float("nan"), "text", np.float32(1)]}

    def apply(self, state: Any, x: Any, dx: Any) -> Any:
        return state, dx


PROGRAM = """
from dataclasses import dataclass
from typing import Any
import numpy as np, optirs

@dataclass(frozen=True)
class Own(optirs.Rule):
    eta: float = 0.1
    def init(self, x):
        return {1: [None, -float("nan"), "text", np.float32(1)], "mean": np.zeros_like(x)}
    def apply(self, state, x, dx):
        return state, dx

@optirs.functor
@dataclass
class Block:
    W: Any
    f: Any

model = {"m": Block(np.asfortranarray(np.arange(6.0).reshape(2, 3)), print), "a": {"x": np.ones(2, np.float32)}}
print(optirs.digest(optirs.setup(Own(), model), model))
"""


@optirs.functor
@dataclass
class Block:
    W: Any
    f: Any


def test_every_process_has_the_same() -> None:
    """Hashes of strings differ between the two, and so do the modules of classes and the order of the keys."""
    model = {"a": {"x": np.ones(2, np.float32)}, "m": Block(np.arange(6.0).reshape(2, 3), abs)}
    expected = digest(optirs.setup(Own(), model), model)
    for seed in "12":
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


def test_it_does_not_change() -> None:
    """On every platform, and in every version: these were written down."""
    model = {"W": np.arange(6, dtype=np.float32).reshape(2, 3), "n": 1}
    assert digest(None, model) == "e185c1c7fb6a926cdd8d72be2e104d12bc3830e032ad102279004ade40e90450"
    with_state = "f72388e6745d07ab9c590aa0905856a63d189aa854d3a642a9de027906879974"
    assert digest(optirs.setup(optirs.Adam(), model), model) == with_state


W = np.ones(4)
REFUSED: list[tuple[Any, Any, str]] = [
    (None, None, "needs a state, a model or both"),
    (None, {"x": np.array([None])}, "model.x is a ndarray of object"),
    (None, {"x": np.ma.masked_array([1.0], [True])}, "model.x is a masked array with 1 of 1"),
    (None, 3, "model is a int"),
    (None, {object(): W}, "differs by run"),
    (None, {"a": W[1:], "b": W[:-1]}, "a and b share memory"),
    ([W], None, r"state\[0\] is a ndarray, not a Leaf"),
    (None, optirs.setup(optirs.Adam(), [W]), r"model\[0\] is a Leaf"),
]


@pytest.mark.parametrize(("state", "model", "text"), REFUSED)
def test_what_save_refuses(state: Any, model: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        digest(state, model)


def test_a_rule_that_cannot_be_saved() -> None:
    @dataclass
    class Mutable(optirs.Rule):
        def init(self, x: Any) -> Any:
            return None

    with pytest.raises(TypeError, match=r"state\[0\]\.rule is a Mutable"):
        digest(optirs.setup(Mutable(), [W]), None)
    contains: list[Any] = [W]
    contains.append(contains)
    with pytest.raises(RecursionError):
        digest(None, contains)
