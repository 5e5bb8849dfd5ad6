"""What is accepted as a gradient, and the errors of what is not."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest

import optirs

HALF = optirs.Descent(0.5)
Pair = namedtuple("Pair", "a b")
Other = namedtuple("Other", "b a")


@optirs.functor
@dataclass
class Layer:
    W: np.ndarray
    b: object = None

    def method(self):
        """Not a field."""


class Tensor:
    def __init__(self, values):
        self.values = np.asarray(values)


class ByArray(Tensor):
    def __array__(self, dtype=None, copy=None):
        return self.values


class ByDlpack(Tensor):
    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


class Recording(ByDlpack):
    """As a torch tensor that requires grad."""

    def __dlpack__(self, **options):
        raise BufferError("Can't export tensors that require gradient")

    def detach(self):
        return ByDlpack(self.values)


class Slots:
    __slots__ = ("W",)


def model():
    return {"layers": [Layer(np.ones((2, 3)), np.ones(2))], "pair": Pair(np.ones(1), (np.ones(1),)), "s": np.array(1.0)}


def step(gradient, tree=None):
    tree = model() if tree is None else tree
    return optirs.update(optirs.setup(HALF, tree), tree, gradient)[1]


def failing(error, text, gradient, tree=None):
    tree = model() if tree is None else tree
    state = optirs.setup(optirs.Momentum(0.5), tree)
    before = repr((tree, state, [leaf.state for leaf in (state["layers"][0].W, state["s"])]))
    for act in (optirs.update, optirs.update_):
        with pytest.raises(error, match=text):
            act(state, tree, gradient)
    assert repr((tree, state, [leaf.state for leaf in (state["layers"][0].W, state["s"])])) == before


@pytest.mark.parametrize(
    "gradient",
    [
        None,
        {},
        {"layers": None},
        {"layers": [None]},
        {"layers": [{}]},
        {"layers": [Layer(None)]},
        {"pair": {}},
        {"pair": (None, [None])},
    ],
    ids=repr,
)
def test_none_and_missing_mean_no_step(gradient):
    tree = model()
    state, new = optirs.update(optirs.setup(optirs.Adam(), tree), tree, gradient)
    assert state["layers"][0].W.state["t"] == 0
    assert state["pair"].a.state["t"] == 0
    assert (new["layers"][0].W == 1).all()
    assert new["s"] == 1


@pytest.mark.parametrize(
    "fields",
    [dict, OrderedDict, lambda d: SimpleNamespace(**d), lambda d: Layer(**d)],
    ids=["dict", "ordered", "look-alike", "same"],
)
def test_some_fields_of_a_class_will_do(fields):
    new = step({"layers": [fields({"W": np.ones((2, 3))})]})["layers"][0]
    assert (new.W == 0.5).all()
    assert (new.b == 1).all()


def test_look_alike_objects():
    slots = Slots()
    slots.W = np.ones((2, 3))
    assert (step({"layers": [slots]})["layers"][0].W == 0.5).all()
    derived = type("Derived", (Layer,), {})(np.ones((2, 3)))
    assert (step({"layers": [derived]})["layers"][0].W == 0.5).all()


def test_lists_and_tuples_are_interchangeable():
    x = [np.ones(1), (np.ones(1), np.ones(1))]
    for gradient in (([1.0], [[1.0], None]), [[1.0], ([1.0], None)], Pair([1.0], ([1.0], None))):
        new = step(gradient, x)
        assert type(new) is list
        assert type(new[1]) is tuple
        assert (new[0], *new[1]) == (0.5, 0.5, 1)


def test_named_tuples_go_by_name_or_by_position():
    for gradient in (Pair([1.0], None), ([1.0], None), [[1.0], None], {"a": [1.0]}, Other(None, [1.0])):
        new = step({"pair": gradient})["pair"]
        assert (new.a, new.b[0]) == (0.5, 1)


@pytest.mark.parametrize(
    ("gradient", "text"),
    [
        ({"z": None}, "gradient at the top has 'z', which the model lacks"),
        ({"layers": [{"z": 1}]}, r"gradient at layers\[0\] has 'z', which the model lacks"),
        ({"layers": [SimpleNamespace(z=1)]}, r"gradient at layers\[0\] has 'z', which the model lacks"),
        ({"pair": {"c": 1}}, "gradient at pair has 'c', which the model lacks"),
        ({"layers": []}, "gradient at layers has length 0, the model has 1"),
        ({"pair": (None, None, None)}, "gradient at pair has length 3, the model has 2"),
    ],
)
def test_unknown_keys_and_other_lengths(gradient, text):
    failing(ValueError, text, gradient)


@pytest.mark.parametrize(
    "odd",
    [np.ones(2), 1.0, np.float32(1), "W", [1], object(), print, lambda: 1, ByArray(1), ByDlpack(1)],
    ids=lambda o: type(o).__name__,
)
def test_what_stands_for_no_class(odd):
    failing(TypeError, r"gradient at layers\[0\] is \w+, the model has Layer", {"layers": [odd]})


def test_what_stands_for_no_container():
    failing(TypeError, "gradient at layers is ndarray, the model has list", {"layers": np.ones(1)})
    failing(TypeError, "gradient at layers is dict, the model has list", {"layers": {0: None}})
    failing(TypeError, "gradient at the top is list, the model has dict", [None, None, None])


def test_gradients_without_a_leaf_are_ignored():
    tree = {"a": np.ones(1), "n": 3, "off": {"x": np.ones(2)}, "ints": [np.ones(2, int)]}
    state = optirs.setup(lambda path, _: None if path[0] == "off" else HALF, tree)
    for odd in (np.ones(7), "text", object(), [1, 2, 3]):
        _, new = optirs.update(state, tree, {"a": [1.0], "off": odd, "ints": odd})
        assert new["a"] == 0.5
        assert new["off"]["x"] is tree["off"]["x"]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint64", "bool", "longdouble", ">f4"])
@pytest.mark.parametrize("param", ["float16", "float32", "float64", "complex64", "complex128"])
def test_arrays_of_any_real_type(dtype, param):
    new = step([np.ones(3, dtype)], [np.ones(3, param)])
    assert new[0].dtype == param
    assert (new[0] == 0.5).all()


@pytest.mark.parametrize("convert", [list, tuple, ByArray, ByDlpack, Recording])
def test_lists_and_tensors(convert):
    x = np.ones(3, np.float32)
    for values in ([1.0, 2.0, 3.0], [1, 2, 3]):
        np.testing.assert_array_equal(step([convert(values)], [x])[0], [0.5, 0, -0.5])
    np.testing.assert_array_equal(step([[[1, 2], [3, 4]]], [np.zeros((2, 2))])[0], [[-0.5, -1], [-1.5, -2]])


@pytest.mark.parametrize("number", [1, 1.0, np.float64(1), np.int8(1), True, np.array(1), ByArray(1)])
def test_a_number_for_a_0d_parameter(number):
    new = step({"s": number})["s"]
    assert isinstance(new, np.ndarray)
    assert new == 0.5


@pytest.mark.parametrize(
    "values",
    [2**70, -(2**70), [[2**70, 1], [True, 2.5]], [2**64, np.float32(1)], [2**70, 1j]],
    ids=["number", "negative", "nested", "scalar", "complex"],
)
def test_python_ints_beyond_64_bits(values):
    wanted = np.asarray(values, complex if values == [2**70, 1j] else float)
    x = np.zeros_like(wanted)
    np.testing.assert_array_equal(step(values, x), wanted * -0.5)
    np.testing.assert_array_equal(optirs.apply(HALF, None, x, values)[1], wanted * 0.5)


def test_an_int_that_no_float_holds():
    failing(ValueError, "^gradient at s has an int that is beyond the range of float64$", {"s": 10**400})
    failing(ValueError, "^gradient at pair.a has an int that is beyond", {"pair": ([10**400], None)})
    failing(TypeError, "gradient at s has type complex128, the parameter is float64", {"s": [2**70, 1j]})
    with pytest.raises(ValueError, match="Descent: the gradient has an int that is beyond the range of float64"):
        optirs.apply(HALF, None, np.zeros(1), [-(10**400)])


def test_shape_errors():
    text = r"^gradient at layers\[0\]\.W has shape \(3,\), the parameter has \(2, 3\)$"
    failing(ValueError, text, {"layers": [{"W": np.ones(3)}]})
    failing(ValueError, text, {"s": 1.0, "layers": [{"W": [1, 2, 3]}]})
    failing(ValueError, r"gradient at s has shape \(1,\), the parameter has \(\)", {"s": np.ones(1)})
    failing(ValueError, r"gradient at pair\.a has shape \(\), the parameter has \(1,\)", {"pair": (1.0, None)})
    with pytest.raises(ValueError, match=r"gradient at the top has shape \(2,\), the parameter has \(3,\)"):
        step(np.ones(2), np.ones(3))


@pytest.mark.parametrize(
    "odd", ["x", object(), {"a": 1}, [None], [2**70, None], np.array(["a"]), ["a"], [[1], [1, 2]], print]
)
def test_what_is_no_array_of_numbers(odd):
    failing(TypeError, "gradient at s is no array of numbers", {"s": odd})


@pytest.mark.parametrize("odd", [1j, np.array(1j), np.complex64(1)])
def test_complex_gradients_of_real_parameters(odd):
    failing(TypeError, "gradient at s has type complex.*, the parameter is float64", {"s": odd})


@pytest.mark.parametrize("error", [KeyError, RuntimeError, KeyboardInterrupt, MemoryError])
def test_gradients_that_raise(error):
    class Raising:
        def __getattr__(self, name):
            raise error("raised")

    class Converting(ByArray):
        def __array__(self, dtype=None, copy=None):
            raise error("raised")

    expected = (error, TypeError) if error is RuntimeError else error
    failing(expected, "raised", {"s": Converting(1), "pair": ([1.0], None)})
    failing(error, "raised", {"layers": [Raising()]})


def test_arguments_in_another_order():
    tree = model()
    state = optirs.setup(HALF, tree)
    text = r"update takes \(state, model, gradient\)"
    for arguments in ((tree, state, tree), (tree, tree, state), ({}, state, tree), (None, tree, state)):
        for act in (optirs.update, optirs.update_):
            with pytest.raises(TypeError, match=text):
                act(*arguments)
    with pytest.raises(TypeError, match=r"state at layers\[0\]\.W is ndarray, not a Leaf"):
        optirs.update(tree, tree, tree)
    for rule in (optirs.Adam(), optirs.Adam):
        for act in (optirs.update, optirs.update_):
            with pytest.raises(
                TypeError, match=rf"{text}, and the first is the rule .*Adam.*optirs\.setup\(rule, model\)"
            ):
                act(rule, tree, tree)


@pytest.mark.parametrize("act", [optirs.update, optirs.update_])
@pytest.mark.parametrize("tree", [model(), np.ones(3), [np.ones(2)]], ids=["nested", "array", "list"])
def test_a_state_in_the_place_of_the_model_or_the_gradient(tree, act):
    state = optirs.setup(HALF, tree)
    takes = r"update takes \(state, model, gradient\), but the"
    for gradient in (tree, state, None):
        with pytest.raises(TypeError, match=rf"^model at .* is a Leaf: {takes} second argument is a state$"):
            act(state, state, gradient)
    with pytest.raises(TypeError, match=rf"^gradient at .* is a Leaf: {takes} third argument is a state$"):
        act(state, tree, state)


@pytest.mark.parametrize("act", [optirs.update, optirs.update_])
def test_a_state_of_another_model_in_a_wrong_place(act):
    x = [np.ones(2)]
    state, other = optirs.setup(HALF, x), optirs.setup(HALF, {"x": x})
    takes = r"^update takes \(state, model, gradient\), but the"
    with pytest.raises(TypeError, match=rf"{takes} second argument is a state, too$"):
        act(state, other, x)
    with pytest.raises(TypeError, match=rf"{takes} third argument is a state, too$"):
        act(state, x, other)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda t: t.pop("s"), ValueError, "state at the top has 's', which the model lacks"),
        (lambda t: t.update(z=1), ValueError, "model at the top has 'z', which the state lacks"),
        (lambda t: t["layers"].append(1), ValueError, "model at layers has length 2, the state has 1"),
        (lambda t: t.update(layers=3), ValueError, "model at layers is int, the state has list"),
        (lambda t: t.update(layers=[{}]), ValueError, r"model at layers\[0\] is dict, the state has Layer"),
        (lambda t: t.update(s=1.0), TypeError, "model at s is float, the state has a Leaf there"),
        (lambda t: t.update(s=np.float32(1)), TypeError, "model at s is float32, the state has a Leaf there"),
        (lambda t: t.update(s=np.array(1, "f")), TypeError, "parameter at s is float32, its Leaf is float64"),
        (lambda t: t.update(s=np.ones(1)), ValueError, r"parameter at s has shape \(1,\), its Leaf has \(\)"),
        (lambda t: t.update(pair=Other(1, 2)), ValueError, "model at pair is Other, the state has Pair"),
    ],
)
@pytest.mark.parametrize("act", [optirs.update, optirs.update_])
def test_model_and_state_differ(change, error, text, act):
    tree = model()
    state = optirs.setup(HALF, tree)
    change(tree)
    with pytest.raises(error, match=text):
        act(state, tree, None)


def test_why_a_tensor_cannot_be_read() -> None:
    class Broken:
        def __dlpack__(self, **options):
            raise RuntimeError("on another device")

        def __dlpack_device__(self):
            return 1, 0

    model = [np.ones(2)]
    with pytest.raises(TypeError, match=r"gradient at \[0\] is no array of numbers, but Broken \(on another device\)$"):
        optirs.update(optirs.setup(optirs.Descent(), model), model, [Broken()])
