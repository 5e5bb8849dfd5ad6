"""What fits is loaded into a model that differs, and a report says what; places may have other names."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from problems import bits

import optirs
from optirs import Affine, Chain, Dense, KeyPath, Xoshiro


def model(n: int = 3) -> Any:
    """A model in which every array is its own."""
    return {
        "encoder": {"W": np.full((2, 3), n + 0.25), "b": np.full(2, n + 0.5)},
        "head": [np.full(4, n + 0.75), np.asfortranarray(np.full((2, 2), n + 1.0))],
    }


def saved(path: Path, tree: Any, rule: optirs.Rule | None = None) -> Path:
    """A file of a model and its state after a step."""
    state = optirs.setup(rule or optirs.Adam(0.1), tree)
    state, tree = optirs.update(state, tree, tree)
    optirs.save(path / "file", model=tree, state=state, epoch=2)
    return path / "file"


def texts(paths: list[KeyPath]) -> list[str]:
    assert all(type(path) is KeyPath for path in paths)
    return [str(path) for path in paths]


def four(report: Any) -> list[list[str]]:
    return [texts(getattr(report, name)) for name in ("loaded", "missing", "unexpected", "mismatched")]


ALL = ["encoder.W", "encoder.b", "head[0]", "head[1]"]


def test_the_report_of_a_whole_model(tmp_path: Path) -> None:
    path = saved(tmp_path, model())
    for found in (optirs.load(path), optirs.load(path, model()), optirs.load(path, model(), strict=False)):
        assert four(found.report) == [ALL, [], [], []]
        assert str(found.report) == "4 loaded, 0 missing, 0 unexpected, 0 mismatched"
    assert four(optirs.Checkpoint(None, None, {}).report) == [[], [], [], []]


def test_what_fits_is_loaded(tmp_path: Path) -> None:
    path = saved(tmp_path, model())
    whole = optirs.load(path)
    like = model(7)
    like["encoder"]["W"] = np.full((2, 5), 7.0)
    like["encoder"]["c"] = np.full(3, 8.0)
    like["head"][1] = like["head"][1].astype(np.float32, order="K")
    del like["encoder"]["b"]
    before = [x.copy() for _, x in optirs.trainables(like, path=True)]
    with pytest.warns(UserWarning, match="3 parameters of like have no state") as caught:
        found = optirs.load(path, like, strict=False)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert four(found.report) == [["head[0]"], ["encoder.c"], ["encoder.b"], ["encoder.W", "head[1]"]]
    assert str(found.report).splitlines() == [
        "1 loaded, 1 missing, 1 unexpected, 2 mismatched",
        "missing: encoder.c",
        "unexpected: encoder.b",
        "mismatched: encoder.W (model.encoder.W has shape (2, 3) in the file, (2, 5) in like), "
        "head[1] (model.head[1] has dtype float64 in the file, float32 in like)",
    ]
    assert bits(found.model["head"][0]) == bits(whole.model["head"][0])
    for a, b in ((found.model["encoder"], like["encoder"]), (found.model["head"][1:], like["head"][1:])):
        assert bits(optirs.trainables(a)) == bits(optirs.trainables(b))
        assert not any(np.shares_memory(x, y) for x, y in zip(optirs.trainables(a), optirs.trainables(b), strict=True))
    assert found.model["head"][1].flags.f_contiguous
    assert [bits(x) for x in optirs.trainables(like)] == [bits(x) for x in before]
    assert found.state == {"encoder": {"W": None, "c": None}, "head": [whole.state["head"][0], None]}
    assert found.metadata == {"epoch": 2}
    found.state["encoder"] = optirs.setup(optirs.Adam(0.1), found.model["encoder"])
    optirs.update_(found.state, found.model, {"encoder": {"W": np.ones((2, 5))}})
    for strict in (like, model() | {"more": np.ones(1)}):
        with pytest.raises(ValueError, match=r"in the file|the file has"):
            optirs.load(path, strict)


def test_one_parameter_without_a_state(tmp_path: Path) -> None:
    path = saved(tmp_path, {"a": np.ones(1)})
    with pytest.warns(UserWarning, match=r"1 parameter of like has no state in the file that fits.*optirs\.setup"):
        optirs.load(path, {"a": np.ones(1), "b": np.ones(1)}, strict=False)


def test_a_model_alone_does_not_warn(tmp_path: Path) -> None:
    optirs.save(tmp_path / "file", model={"a": np.ones(1)})
    found = optirs.load(tmp_path / "file", {"b": np.zeros(1)}, strict=False)
    assert four(found.report) == [[], ["b"], ["a"], []]
    assert found.state is None


def test_a_state_alone(tmp_path: Path) -> None:
    state = optirs.setup(optirs.Momentum(), {"a": np.ones(1), "b": np.ones(2)})
    optirs.save(tmp_path / "file", state=state)
    with pytest.warns(UserWarning, match="2 parameters of like have no state"):
        found = optirs.load(tmp_path / "file", {"a": np.ones(1), "b": np.ones(3), "c": np.ones(1)}, strict=False)
    assert four(found.report) == [["a"], ["c"], [], ["b"]]
    assert found.state == {"a": state["a"], "b": None, "c": None}
    assert found.model is None


def test_what_has_no_leaf_by_the_rule_is_not_missing(tmp_path: Path) -> None:
    tree = {"a": np.ones(1), "b": np.ones(2)}
    optirs.save(
        tmp_path / "file",
        model=tree,
        state=optirs.setup(lambda path, _: None if path == ("a",) else optirs.Adam(), tree),
    )
    found = optirs.load(tmp_path / "file", tree, strict=False)
    assert found.state["a"] is None
    assert four(found.report) == [["a", "b"], [], [], []]


def test_layers_that_differ(tmp_path: Path) -> None:
    rng = Xoshiro(1)
    relu = Chain(Dense.glorot(2, 3, "relu", rng=rng), Affine.random(3, 3, rng=rng), Affine.random(3, 1, rng=rng))
    like = Chain(Dense.glorot(2, 3, "tanh", rng=rng), Dense.glorot(3, 3, rng=rng), Affine.random(3, 1, rng=rng))
    with pytest.warns(UserWarning, match="4 parameters"):
        found = optirs.load(saved(tmp_path, relu), like, strict=False)
    names = [f"layers[{i}].{name}" for i in range(3) for name in "Wb"]
    assert four(found.report) == [names[4:], [], [], names[:4]]
    assert "layers[0].W (model.layers[0] has activation relu in the file, tanh in like)" in str(found.report)
    assert found.model[0] == like[0]
    assert found.model[1] == like[1]
    assert found.state.layers[0].W is None
    assert found.state.layers[2].W is not None


def test_ties_that_differ(tmp_path: Path) -> None:
    x = np.arange(6.0).reshape(2, 3)
    path = saved(tmp_path, {"a": x, "b": x.T, "c": np.ones(2)})
    with pytest.warns(UserWarning, match="2 parameters"):
        found = optirs.load(path, {"a": x, "b": np.zeros((3, 2)), "c": np.zeros(2)}, strict=False)
    assert four(found.report) == [["c"], [], [], ["a", "b"]]
    found = optirs.load(path, {"a": x, "c": np.zeros(2)}, strict=False)  # what is there of the ties fits
    assert four(found.report) == [["a", "c"], [], [], []]
    assert found.state["a"] is not None
    with pytest.warns(UserWarning, match="1 parameter of like"):
        found = optirs.load(path, {"b": np.zeros((3, 2)), "c": np.zeros(2)}, strict=False)
    assert bits(found.model["b"]) == bits(optirs.load(path).model["b"])
    assert found.state["b"] is None  # its state lies as the array at `a`


def test_a_long_report(tmp_path: Path) -> None:
    optirs.save(tmp_path / "file", model=[np.ones(1)] + [np.ones(2) for _ in range(50)])
    report = optirs.load(tmp_path / "file", [np.ones(1)], strict=False).report
    assert len(report.unexpected) == 50
    assert str(report).endswith("[20], and 30 more")


RENAMES: dict[str, tuple[Any, Any]] = {
    "a place": (
        {"encoder.W": "encoder.weight"},
        lambda m: {**m, "encoder": {"weight": m["encoder"]["W"], "b": m["encoder"]["b"]}},
    ),
    "a prefix": ({"encoder": "backbone"}, lambda m: {"backbone": m["encoder"], "head": m["head"]}),
    "the longest prefix": (
        {"head": "tail", "head[1]": "last"},
        lambda m: {"encoder": m["encoder"], "tail": m["head"][:1], "last": m["head"][1]},
    ),
    "positions": ({"head[0]": "head[1]", "head[1]": "head[0]"}, lambda m: {**m, "head": m["head"][::-1]}),
    "exchanged": (
        {"encoder.W": "head[1]", "head[1]": "encoder.W"},
        lambda m: {"encoder": {"W": m["head"][1], "b": m["encoder"]["b"]}, "head": [m["head"][0], m["encoder"]["W"]]},
    ),
    "into a node": ({"": "model"}, lambda m: {"model": m}),
    "out of a node": ({"encoder": "", "head": "head"}, lambda m: {**m["encoder"], "head": m["head"]}),
    "into a list": ({"": "[0]"}, lambda m: [m]),
    "what is not there": ({"nothing": "else", "enc": "x", "head[10]": "y"}, lambda m: m),
    "a function": (
        lambda text: text.replace("encoder", "backbone"),
        lambda m: {"backbone": m["encoder"], "head": m["head"]},
    ),
    "a function of arrays": (
        {"encoder.W": "w", "encoder.b": "b", "head[0]": "h", "head[1]": "i"}.__getitem__,
        lambda m: {"w": m["encoder"]["W"], "b": m["encoder"]["b"], "h": m["head"][0], "i": m["head"][1]},
    ),
}


@pytest.mark.parametrize("name", RENAMES)
def test_rename(name: str, tmp_path: Path) -> None:
    rename, moved = RENAMES[name]
    path = saved(tmp_path, model())
    whole = optirs.load(path)
    found = optirs.load(path, moved(model(9)), rename=rename)
    assert bits(optirs.trainables(found.model)) == bits(optirs.trainables(moved(whole.model)))
    assert found.state == moved(whole.state)
    assert not found.report.missing


def test_rename_of_layers(tmp_path: Path) -> None:
    """Class and activation move with the name."""
    path = saved(tmp_path, {"old": Dense.glorot(2, 3, "relu", rng=Xoshiro(1))})
    renames: list[Any] = [{"old": "new"}, lambda text: text.replace("old", "new")]
    for rename in renames:
        assert optirs.load(path, {"new": Dense.glorot(2, 3, "relu")}, rename=rename).model["new"].activation == "relu"
        with pytest.raises(ValueError, match=r"^model\.new has activation relu in the file, tanh in like"):
            optirs.load(path, {"new": Dense.glorot(2, 3, "tanh")}, rename=rename)


def test_rename_and_not_strict(tmp_path: Path) -> None:
    path = saved(tmp_path, model())
    with pytest.warns(UserWarning, match="1 parameter of like"):
        found = optirs.load(
            path, {"trunk": model()["encoder"], "new": np.ones(1)}, strict=False, rename={"encoder": "trunk"}
        )
    assert four(found.report) == [["trunk.W", "trunk.b"], ["new"], ["head[0]", "head[1]"], []]


def test_rename_of_ties(tmp_path: Path) -> None:
    x = np.arange(6.0).reshape(2, 3)
    path = saved(tmp_path, {"a": x, "b": x.T})
    found = optirs.load(path, {"c": x, "b": x.T}, rename={"a": "c"})
    assert np.shares_memory(found.model["c"], found.model["b"])
    assert found.state["c"] is found.state["b"]


def test_places_without_a_leaf_are_renamed(tmp_path: Path) -> None:
    tree = {"a": np.ones(1), "b": np.ones(2)}
    state = optirs.setup(lambda path, _: None if path == ("a",) else optirs.Adam(), tree)
    optirs.save(tmp_path / "file", model=tree, state=state)
    renames: list[Any] = [{"a": "c"}, {"a": "c", "b": "b"}.__getitem__]
    for rename in renames:
        found = optirs.load(tmp_path / "file", {"c": np.ones(1), "b": np.ones(2)}, rename=rename)
        assert found.state == {"c": None, "b": state["b"]}


def fails(text: str) -> str:
    raise ZeroDivisionError(text)


WRONG: list[tuple[Any, Any, type[Exception], str]] = [
    (
        {"encoder.W": "head[0]"},
        model(),
        ValueError,
        "rename takes both model.encoder.W and model.head[0] to model.head[0]",
    ),
    ({"encoder": 3}, model(), TypeError, "rename maps text to text, got 3"),
    ({("encoder",): "a"}, model(), TypeError, "rename maps text to text, got ('encoder',)"),
    (["encoder"], model(), TypeError, "rename must be a dict or a function, got list"),
    (lambda text: None, model(), TypeError, "rename maps text to text, got None"),
    (fails, model(), ZeroDivisionError, "encoder.W"),
    ({"encoder": "a"}, None, TypeError, "rename says where things stand in like, and there is none"),
    ({"encoder": "a"}, model(), ValueError, "like has an array at model.encoder.W, the file has none"),
]


@pytest.mark.parametrize(("rename", "like", "error", "text"), WRONG)
def test_wrong_renames(rename: Any, like: Any, error: Any, text: str, tmp_path: Path) -> None:
    path = saved(tmp_path, model())
    with pytest.raises(error, match=re.escape(text)):
        optirs.load(path, like, rename=rename)
