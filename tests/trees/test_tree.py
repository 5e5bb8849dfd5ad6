"""Models: what is walked, what is trained, how it is rebuilt."""

import copy
import pickle
from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import FrozenInstanceError, dataclass, field

import ml_dtypes
import numpy as np
import pytest

import optirs
from optirs import KeyPath

HALF = optirs.Descent(0.5)
Pair = namedtuple("Pair", "a b")


def paths(model):
    return [str(path) for path, _ in optirs.trainables(model, path=True)]


def step(model, gradient):
    return optirs.update(optirs.setup(HALF, model), model, gradient)[1]


@optirs.functor
@dataclass
class Layer:
    W: np.ndarray
    b: object
    name: str = "layer"


@optirs.functor(children=("a", "c"), trainable=("a",))
class TwoThirds:
    def __init__(self, a, b, c):
        self.a, self.b, self.c = a, b, c


@optirs.functor(children=("on", "off"), trainable=lambda self: ["on"] if self.only else ["on", "off"])
class Switch:
    def __init__(self, only):
        self.only, self.on, self.off = only, np.ones(1), np.ones(1)


@optirs.functor
@dataclass(frozen=True, slots=True)
class Frozen:
    W: np.ndarray
    extra: int = 3

    def __post_init__(self):
        if isinstance(self.W, np.ndarray) and self.W[0] != 1:
            raise AssertionError("__post_init__ ran")


def test_fields_of_a_dataclass_are_children():
    assert paths({"layers": [Layer(np.ones(2), np.ones(1))]}) == ["layers[0].W", "layers[0].b"]


def test_children_and_trainable():
    model = TwoThirds(np.ones(2), np.ones(2), np.ones(2))
    assert paths(model) == ["a"]
    state = optirs.setup(HALF, model)
    assert isinstance(state, TwoThirds)
    assert isinstance(state.a, optirs.Leaf)
    assert state.c is None
    assert not hasattr(state, "b")
    new = step(model, {"a": np.ones(2), "c": np.ones(2)})
    assert (new.a == 0.5).all()
    assert new.b is model.b
    assert new.c is model.c


def test_trainable_as_a_function_of_the_instance():
    assert paths([Switch(True), Switch(False)]) == ["[0].on", "[1].on", "[1].off"]


def test_trainable_function_naming_no_child_is_an_error():
    @optirs.functor(children=("a",), trainable=lambda self: ["z"])
    class Wrong:
        a = np.ones(1)

    with pytest.raises(TypeError, match=r"trainable of Wrong at layers.*'z'"):
        optirs.setup(HALF, {"layers": Wrong()})


@pytest.mark.parametrize("names", [None, "a", 3, np.ones])
def test_trainable_function_without_names_is_an_error(names):
    @optirs.functor(children=("a",), trainable=lambda self: names)
    class Wrong:
        a = np.ones(1)

    with pytest.raises(TypeError, match=r"trainable of Wrong at layers returns .*, not names of children"):
        optirs.setup(HALF, {"layers": Wrong()})


@pytest.mark.parametrize("base", [dict, list, tuple, int, np.ndarray, ValueError])
def test_classes_that_hold_more_than_attributes_are_not_registered(base):
    with pytest.raises(TypeError, match=f"functor: Own derives from {base.__name__}, whose content is no attribute"):
        optirs.functor(children=("a",))(type("Own", (base,), {}))


@pytest.mark.parametrize("options", [{"children": "ab"}, {"children": ("a", "a")}, {"children": (1,)}, {}])
def test_bad_registration(options):
    with pytest.raises(TypeError):
        optirs.functor(**options)(type("Plain", (), {}))


def test_trainable_must_be_a_child():
    with pytest.raises(TypeError, match="not a child"):
        optirs.functor(children=("a",), trainable=("b",))(type("Plain", (), {}))
    with pytest.raises(TypeError, match="classes"):
        optirs.functor(3)


def test_unregistered_class_is_opaque_and_setup_warns():
    class Opaque:
        def __init__(self):
            self.W = np.ones(2)

    with pytest.warns(UserWarning, match="setup found no trainable parameters in this model"):
        state = optirs.setup(HALF, {"x": Opaque()})
    assert state == {"x": None}


def test_class_derived_from_a_registered_one_is_opaque():
    class Derived(Layer):
        pass

    assert paths([Derived(np.ones(1), np.ones(1)), Layer(np.ones(1), 0)]) == ["[1].W"]


def test_rebuilding_never_calls_init_or_post_init():
    calls = []

    @optirs.functor
    @dataclass
    class Counted:
        W: np.ndarray

        def __post_init__(self):
            calls.append(self)

    model = Counted(np.ones(2))
    model.note = "kept"
    assert len(calls) == 1
    new = step(model, {"W": np.ones(2)})
    assert len(calls) == 1
    assert type(new) is Counted
    assert new.note == "kept"
    assert (new.W == 0.5).all()
    assert (model.W == 1).all()


def test_frozen_dataclass_with_slots():
    model = Frozen(np.ones(2))
    new = step(model, Frozen(np.ones(2)))
    assert (new.W == 0.5).all()
    assert new.extra == 3
    with pytest.raises(FrozenInstanceError):
        new.W = 1


def test_attributes_in_slots_are_kept():
    @optirs.functor(children=("W",))
    class Slotted:
        __slots__ = ("W", "__secret", "note", "unset")

        def __init__(self):
            self.W, self.note, self.__secret = np.ones(1), "n", 5

        def secret(self):
            return self.__secret

    new = step(Slotted(), {"W": [1.0]})
    assert (new.note, new.secret()) == ("n", 5)
    assert not hasattr(new, "unset")


def test_init_false_fields_and_defaults():
    @optirs.functor
    @dataclass
    class Late:
        W: np.ndarray = field(init=False)

    model = Late()
    with pytest.raises(ValueError, match="Late at the top has no readable attribute W"):
        optirs.setup(HALF, model)
    model.W = np.ones(1)
    assert (step(model, {"W": [1.0]}).W == 0.5).all()


def test_a_child_that_cannot_be_set_names_the_place():
    @optirs.functor(children=("W",))
    class Fixed:
        W = property(lambda self: np.ones(2))

    tree = {"layers": [Fixed()]}
    text = r"^Fixed at layers\[0\] has no writable attribute W: AttributeError: .*property"
    with pytest.raises(ValueError, match=text) as caught:
        optirs.setup(optirs.Descent(), tree)
    assert isinstance(caught.value.__cause__, AttributeError)
    assert len(optirs.trainables(tree)) == 1


def test_dict_subclasses_keep_their_type():
    class Mine(dict):
        pass

    mine = Mine(w=np.ones(1))
    mine.note = "kept"
    model = {"o": OrderedDict(b=np.ones(1), a=np.ones(1)), "d": defaultdict(list, w=np.ones(1)), "m": mine}
    state = optirs.setup(HALF, model)
    state, new = optirs.update(state, model, {"o": {"a": [1.0]}, "d": {"w": [1.0]}, "m": {"w": [1.0]}})
    for tree in (state, new):
        assert [type(tree[k]) for k in "odm"] == [OrderedDict, defaultdict, Mine]
        assert list(tree["o"]) == ["b", "a"]
        assert tree["d"].default_factory is list
    assert new["m"].note == "kept"
    assert (new["o"]["a"], new["o"]["b"], new["m"]["w"]) == (0.5, 1, 0.5)
    assert len(model["d"]) == 1


def test_list_subclass_keeps_its_type():
    class Mine(list):
        pass

    new = step(Mine([np.ones(1)]), [[1.0]])
    assert type(new) is Mine
    assert new[0] == 0.5


def test_keys_of_a_named_tuple_are_its_field_names():
    model = Pair(np.ones(1), (np.ones(1), [np.ones(1)]))
    assert paths(model) == ["a", "b[0]", "b[1][0]"]
    assert optirs.getkeypath(model, ("b", 0)) is model.b[0]
    for gradient in (Pair(None, ([1.0], None)), (None, ([1.0], None)), {"b": [[1.0], None]}):
        new = step(model, gradient)
        assert isinstance(new, Pair)
        assert (new.a, new.b[0], new.b[1][0]) == (1, 0.5, 1)


def test_only_float_and_complex_arrays_are_trained():
    numeric = ["float16", "float32", "float64", "complex64", "complex128", ml_dtypes.bfloat16]
    others = [np.ones(2, int), np.ones(2, bool), 1.0, 2, "s", abs, np.float64(1), None, np.array(["a"]), {1, 2}]
    model = [np.ones(2, dtype) for dtype in numeric] + others
    assert [optirs.isnumeric(x) for x in model] == [True] * len(numeric) + [False] * len(others)
    assert len(optirs.trainables(model)) == len(numeric)
    _, new = optirs.update(optirs.setup(HALF, model), model, None)
    assert all(a is b for a, b in zip(new[len(numeric) :], others, strict=True))
    assert optirs.isnumeric(np.ones(1, ">f4"))
    assert not optirs.isnumeric(np.ones(1, np.longdouble))


def test_numpy_scalars_are_not_trained_and_0d_arrays_stay_arrays():
    model = {"scalar": np.float64(1), "array": np.array(1.0)}
    assert paths(model) == ["array"]
    new = step(model, {"array": 1.0})
    assert isinstance(new["array"], np.ndarray)
    assert new["array"].shape == ()
    assert new["array"] == 0.5
    assert isinstance(new["scalar"], np.float64)
    top = np.array(2.0)
    new = step(top, 1)
    assert isinstance(new, np.ndarray)
    assert new == 1.5


def test_key_path_text():
    assert str(KeyPath(("layers", 0, "W"))) == "layers[0].W"
    assert str(KeyPath(("a b", "c", -1, (1, 2), 1.5))) == "['a b'].c[-1][(1, 2)][1.5]"
    assert str(KeyPath()) == ""
    assert KeyPath(("a", 0)) == ("a", 0)
    assert hash(KeyPath(("a", 0))) == hash(("a", 0))
    assert eval(repr(KeyPath(("a", 0)))) == KeyPath(("a", 0))


def test_parts_and_sums_of_key_paths_are_key_paths():
    path = KeyPath(("layers", 0, "W"))
    for found, keys in [
        (path[:-1], ("layers", 0)),
        (path[1:], (0, "W")),
        (path + ("T",), ("layers", 0, "W", "T")),  # noqa: RUF005
        (("model",) + path, ("model", "layers", 0, "W")),  # noqa: RUF005
        (path + path[:0], path),
        (copy.copy(path), path),
        (pickle.loads(pickle.dumps(path)), path),
        (KeyPath(k for k in path), path),
    ]:
        assert type(found) is KeyPath
        assert found == keys
    assert path[0] == "layers"
    for wrong in (lambda: path + ["T"], lambda: ["model"] + path):  # noqa: RUF005
        with pytest.raises(TypeError):
            wrong()


def test_what_is_no_key_path():
    with pytest.raises(TypeError, match=r"the string 'layers': write KeyPath\(\('layers',\)\)$"):
        KeyPath("layers")
    for wrong in (None, 3):
        for take in (KeyPath, lambda path: optirs.getkeypath([1], path)):
            with pytest.raises(TypeError, match=f"takes a .*tuple of keys, got {type(wrong).__name__}$"):
                take(wrong)


def test_getkeypath():
    model = {"layers": [Layer(np.ones(2), Pair(1, np.zeros(3)))], 3: "x"}
    for path, array in optirs.trainables(model, path=True):
        assert isinstance(path, KeyPath)
        assert optirs.getkeypath(model, path) is array
    assert optirs.getkeypath(model, ()) is model
    assert optirs.getkeypath(model, (3,)) == "x"
    for path, place in [(("layers", 1), "layers"), (("layers", 0, "c"), r"layers\[0\]"), (("z",), "the top")]:
        with pytest.raises(KeyError, match=place):
            optirs.getkeypath(model, path)
    with pytest.raises(KeyError):
        optirs.getkeypath(model, (3, 0))
    state = optirs.setup(HALF, model)
    assert optirs.getkeypath(state, ("layers", 0, "W")) is state["layers"][0].W
    default = defaultdict(list)
    with pytest.raises(KeyError, match="defaultdict at the top has no 'new'"):
        optirs.getkeypath(default, ("new",))
    assert not default


def test_model_that_is_one_array_and_empty_models():
    assert paths(np.ones(2)) == [""]
    assert isinstance(optirs.setup(HALF, np.ones(2)), optirs.Leaf)
    for empty in ({}, [], (), None):
        with pytest.warns(UserWarning, match="no trainable"):
            state = optirs.setup(HALF, empty)
        assert optirs.update(state, empty, None) == (state, empty)
        assert optirs.trainables(empty) == []


def test_setup_wants_a_rule():
    with pytest.raises(TypeError, match=r"write Descent\(\)"):
        optirs.setup(optirs.Descent, [np.ones(1)])
    with pytest.raises(TypeError, match="rule, model"):
        optirs.setup([np.ones(1)], HALF)
