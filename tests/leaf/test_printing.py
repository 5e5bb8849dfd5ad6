"""States print, compare and are copied, whatever class their nodes are of, and show None for what is not trained."""

import copy
import pickle
import pprint
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import optirs

RULE = optirs.Momentum(0.5)
LEAF = "Leaf(Momentum(eta=0.5, rho=0.9), float64 (2,))"


@optirs.functor(children=("w",))
@dataclass
class Named:
    w: Any
    name: str
    sizes: tuple[int, ...] = (1, 2)
    notes: list[str] = field(default_factory=list)
    late: Any = field(init=False)
    kind: ClassVar[str] = "layer"


@optirs.functor(children=("w",))
@dataclass(frozen=True, slots=True)
class Frozen:
    w: Any
    name: str = "f"


@dataclass
@optirs.functor(children=("w",))
class FirstRegistered:
    w: Any
    name: str


@optirs.functor(children=("w",))
class Slots:
    __slots__ = ("name", "w")

    def __init__(self, w):
        self.w, self.name = w, "s"

    def __repr__(self):
        return f"Slots({self.name}, {self.w!r})"


@optirs.functor(children=("w",))
class ByDefault:
    """What its class has a default for would show through."""

    name = "default"

    def __init__(self, w):
        self.w, self.name, self.note = w, "own", "n"


@optirs.functor(children=("w",))
class Summed:
    """Prints what a state has not."""

    def __init__(self, w):
        self.w, self.note = w, "n"

    def __repr__(self):
        return f"Summed of {self.w.sum()}"

    def __str__(self):
        return f"summed, {self.note}"


@optirs.functor(children=("w", "v"))
class Inheriting(Summed):
    def __init__(self, w):
        super().__init__(w)
        self.v = None


def steps(state, model):
    """The state as all that returns one makes it."""
    yield state
    yield optirs.update(state, model, None)[0]
    yield optirs.update_(optirs.setup(RULE, model), model, None)[0]
    yield optirs.adjust(state, 0.5)
    yield optirs.thaw_(optirs.freeze_(optirs.setup(RULE, model)))
    yield copy.copy(state)
    yield copy.deepcopy(state)
    yield pickle.loads(pickle.dumps(state))
    yield optirs.train(lambda *_: (1.0, None), model, (np.ones(1),), RULE).state
    yield optirs.setup(lambda path, x: RULE, model)


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda w: Named(w, "n"), f"Named(w={LEAF}, name=None, sizes=None, notes=None, late=None)"),
        (Frozen, f"Frozen(w={LEAF}, name=None)"),
        (lambda w: FirstRegistered(w, "n"), f"FirstRegistered(w={LEAF}, name=None)"),
        (Slots, f"Slots(None, {LEAF})"),
        (Summed, f"Summed(w={LEAF})"),
        (Inheriting, f"Inheriting(w={LEAF}, v=None)"),
        (lambda w: optirs.Dense(w[None], np.zeros(1), "relu"), None),
    ],
)
def test_states_print(make, shown):
    model = make(np.zeros(2))
    for state in steps(optirs.setup(RULE, model), model):
        assert shown is None or repr(state) == shown
        assert repr([state, {"deep": state}]) == f"[{state!r}, {{'deep': {state!r}}}]"
        assert str(state) == repr(state)
        assert f"{type(model).__name__}(" in pprint.pformat(state)
        assert "Leaf" in pprint.pformat({"a": [state]})


def test_rich_prints_states():
    pretty = pytest.importorskip("rich.pretty")
    for make in (Frozen, Slots, Summed, lambda w: Named(w, "n")):
        text = pretty.pretty_repr(optirs.setup(RULE, [make(np.zeros(2))]), max_width=200)
        assert LEAF in text
        assert "error" not in text


def test_models_print_as_before():
    assert repr(Summed(np.zeros(2))) == "Summed of 0.0"
    assert str(Summed(np.zeros(2))) == "summed, n"
    assert repr(Slots(1)) == "Slots(s, 1)"
    with pytest.raises(AttributeError, match="sum"):  # an error of the class's own is shown
        repr(Summed([1.0]))


@pytest.mark.parametrize("make", [lambda w: Named(w, "n"), Frozen, lambda w: FirstRegistered(w, "n"), Slots, ByDefault])
def test_a_state_shows_none_for_what_is_not_trained(make):
    model = make(np.zeros(2))
    for state in steps(optirs.setup(RULE, model), model):
        assert type(state) is type(model)
        assert isinstance(state.w, optirs.Leaf)
        assert state.name is None
        assert not hasattr(state, "note")
    _, new = optirs.update(optirs.setup(RULE, model), model, None)
    assert new.name == model.name is not None


def test_the_activation_of_a_layer():
    model = optirs.Chain(optirs.Dense.glorot(2, 4, "relu"), optirs.Dense.glorot(4, 1))
    for state in steps(optirs.setup(RULE, model), model):
        assert [layer.activation for layer in state] == [None, None]
        assert "activation=None" in repr(state)
        assert isinstance(state[0].W, optirs.Leaf)
        assert state[0].W.rule.eta == 0.5
    assert model[0].activation == "relu"


def test_the_activation_in_files(tmp_path):
    model = optirs.Chain(optirs.Dense.glorot(2, 4, "relu"))
    state = optirs.setup(RULE, model)
    optirs.save(tmp_path / "f", model=model, state=state)
    found = optirs.load(tmp_path / "f", like=model)
    assert found.state == state
    assert found.state[0].activation is None
    assert found.model[0].activation == "relu"


@pytest.mark.parametrize("make", [lambda w: Named(w, "n"), Frozen, lambda w: FirstRegistered(w, "n")])
def test_states_of_dataclasses_are_equal_by_what_they_hold(make):
    model = make(np.zeros(2))
    state = optirs.setup(RULE, model)
    assert state == optirs.setup(RULE, model)
    assert state != optirs.setup(optirs.Momentum(0.25), model)
    assert state != optirs.update(state, model, {"w": np.ones(2)})[0]
    assert state == copy.deepcopy(state)
    assert [state] == [pickle.loads(pickle.dumps(state))]


def test_states_of_layers_are_equal_however_they_were_made():
    model = optirs.Dense.glorot(2, 4, "relu")
    state = optirs.setup(RULE, model)
    for other in steps(state, model):
        assert other == state


def test_attributes_that_are_properties():
    @optirs.functor(children=("w",))
    class Computed:
        def __init__(self, w):
            self.w = w
            vars(self)["size"] = 3

        @property
        def size(self):
            return len(self.w)

    state = optirs.setup(RULE, Computed(np.zeros(2)))
    assert isinstance(state.w, optirs.Leaf)
    assert optirs.update(state, Computed(np.zeros(2)), {"w": np.ones(2)})[1].size == 2


def test_fields_as_attrs_declares_them():
    @optirs.functor(children=("w",))
    class Defined:
        """As `attrs.define(slots=False)` makes it."""

        __attrs_attrs__ = (SimpleNamespace(name="w"), SimpleNamespace(name="name"))

        def __init__(self, w):
            self.w, self.name = w, "d"

        def __eq__(self, other):
            return (self.w, self.name) == (other.w, other.name)

        __hash__ = None  # type: ignore[assignment]

    model = Defined(np.zeros(2))
    state = optirs.setup(RULE, model)
    assert state.name is None
    assert state == optirs.setup(RULE, model) == copy.deepcopy(state)
    assert optirs.update(state, model, None)[1].name == "d"
