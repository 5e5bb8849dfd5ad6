"""What one could take for a parameter though it is not trained is said: at `setup`, or when it gets a gradient."""

import linecache
import sys
import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import optirs

HALF = optirs.Descent(0.5)
Pair = namedtuple("Pair", "a b")


class Foreign:
    """As an array of another library: what its class, its type and its values are."""

    def __init__(self, values, dtype=None):
        self.values = np.asarray(values)
        self.dtype = str(self.values.dtype) if dtype is None else dtype

    def __array__(self, dtype=None, copy=None):
        return self.values


class OnDevice(Foreign):
    """One that NumPy cannot read."""

    def __array__(self, dtype=None, copy=None):
        raise TypeError("on a device")

    def __dlpack__(self, **options):
        raise BufferError("on a device")

    def __ne__(self, other):
        return self.values != other

    __hash__ = None  # type: ignore[assignment]


@optirs.functor
@dataclass
class Norm:
    gain: Any
    bias: Any = 0.0
    epsilon: float = 1e-5


@optirs.functor(trainable=("w",))
@dataclass
class Half:
    w: Any
    b: Any


@optirs.functor(children=("w", "b"), trainable=lambda layer: ("w", "b") if layer.bias else ("w",))
class ByInstance:
    def __init__(self, w, b, bias):
        self.w, self.b, self.bias = w, b, bias


NUMBERS = [
    (0.0, "a number (float), which is not trained; np.asarray(x) makes it one that is"),
    (3, "a number (int), which is not trained; np.asarray(x, float) makes it one that is"),
    (1j, "a number (complex), which is not trained; np.asarray(x) makes it one that is"),
    (Fraction(1, 2), "a number (fractions.Fraction), which is not trained; np.asarray(x, float)"),
    (Decimal("0.5"), "a number (decimal.Decimal), which is not trained; np.asarray(x, float)"),
    (np.array(0.5) * 0, "a NumPy scalar (numpy.float64), which is not trained; arithmetic with 0-d arrays returns"),
    (np.float32(1), "a NumPy scalar (numpy.float32), which is not trained; arithmetic with 0-d arrays returns"),
    (np.int64(1), "and np.asarray(x, float) keeps them arrays"),
    (np.longdouble(1), "and np.asarray(x, float) keeps them arrays"),
    (np.clongdouble(1), "and np.asarray(x, complex) keeps them arrays"),
    (ml_dtypes.bfloat16(1), "a NumPy scalar (ml_dtypes.bfloat16)"),
    (np.zeros((), np.longdouble), "an array of longdouble there, which is not trained; x.astype('float64') is"),
    (np.zeros(2, np.clongdouble), "an array of clongdouble there, which is not trained; x.astype('complex128') is"),
    (np.zeros(2, ml_dtypes.float8_e4m3fn), "an array of float8_e4m3fn there"),
    (np.array([0.5, Fraction(1, 3)], object), "an array of object there"),
    (Foreign(np.ones(2)), f"a tensor ({__name__}.Foreign), which is not trained; np.array(x) makes one"),
    (OnDevice(np.ones(2)), f"a tensor ({__name__}.OnDevice)"),
]


def trained(b, gradient, way):
    """Steps a model with `b` in it, in one of the ways there are."""
    model = {"w": np.ones(2), "b": b}
    grad = {"w": np.ones(2), "b": gradient}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="setup does not train", category=UserWarning)
        state = optirs.setup(HALF, model)
    if way == "train":
        return optirs.train(lambda model, x: (1.0, grad), model, (np.ones(1),), state=state).model
    if way == "restructure":
        return optirs.destructure(model)[1].gradient(grad)
    return getattr(optirs, way)(state, model, grad)[1]


WAYS = ["update", "update_", "train", "restructure"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("b", "text"), NUMBERS, ids=lambda x: type(x).__name__)
def test_a_gradient_of_what_is_not_trained(b, text, way):
    for gradient in (1.0, np.ones(3), [0, 1], np.float32(np.nan), Foreign([2.0]), 2**70, OnDevice([1.0]), True):
        with pytest.warns(UserWarning, match="is not used") as caught:
            trained(b, gradient, way)
        assert len(caught) == 1
        message = str(caught[0].message)
        assert message.startswith("the gradient at b is not used: the model has ")
        assert text in message
        assert caught[0].filename == __file__


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("b", [b for b, _ in NUMBERS], ids=lambda b: type(b).__name__)
def test_no_gradient_is_no_matter(b, way):
    for gradient in (None, 0.0, 0, -0.0, 0j, np.zeros(3), [0, [0]], [], Foreign(0.0), OnDevice([0.0]), False):
        trained(b, gradient, way)
    for no_number in (
        "text",
        object(),
        print,
        {"a": 1},
        [1, "x"],
        np.array(["a"]),
        np.zeros(2, "V4"),
        SimpleNamespace(),
    ):
        trained(b, no_number, way)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "b",
    [
        "text",
        abs,
        lambda: 1,
        None,
        True,
        np.True_,
        np.ones(2, int),
        np.ones(2, bool),
        np.array(["a"]),
        object(),
        np.str_(),
    ],
    ids=lambda b: type(b).__name__,
)
def test_what_nobody_trains_is_silent(b, way):
    for gradient in (1.0, np.ones(2), [1.0, 2.0]):
        trained(b, gradient, way)


def test_every_place_is_named():
    model = {"layers": [Norm(np.ones(1), 0.0), (0.0, Pair(np.ones(1), 2.0))], "rest": OrderedDict(scale=np.float64(1))}
    grad = {"layers": [{"gain": [1.0], "bias": 1.0}, [1.0, Pair(None, 1.0)]], "rest": {"scale": 1.0}}
    with pytest.warns(UserWarning, match="is not used") as caught:
        optirs.update(optirs.setup(HALF, model), model, grad)
    places = [str(w.message).split(" is not used")[0].removeprefix("the gradient at ") for w in caught]
    assert places == ["layers[0].bias", "layers[1][0]", "layers[1][1].b", "rest.scale"]


def test_the_top():
    with pytest.warns(UserWarning, match="setup found no trainable parameters"):
        state = optirs.setup(HALF, 0.5)
    with pytest.warns(UserWarning, match="the gradient at the top is not used"):
        optirs.update(state, 0.5, 1.0)


@pytest.mark.parametrize(
    ("numbers", "gradient"),
    [
        ([0.0, 0.0], np.ones(2)),
        ((0.0, 0.0), np.ones(2)),
        ([[0.0], [1, 2]], np.ones((2, 2))),
        ([0.0, 0.0], [1.0]),
        ({"a": 0.0}, 1.0),
        (Norm(0.0), np.ones(1)),
        (Pair(0.0, 0.0), 1.0),
    ],
    ids=repr,
)
def test_a_gradient_for_a_container_of_numbers(numbers, gradient):
    model = {"w": np.ones(1), "b": numbers}
    state = optirs.setup(HALF, model)
    with pytest.warns(UserWarning, match="the gradient at b is not used: the model has no array there, but a number"):
        optirs.update(state, model, {"w": [1.0], "b": gradient})
    optirs.update(state, model, {"w": [1.0], "b": 0 * np.asarray(gradient)})


def test_a_gradient_for_a_container_of_other_things():
    for odd in ([np.ones(2, int)], ["text", None], Half(np.ones(1, int), 1.0)):
        model = {"w": np.ones(1), "b": odd}
        optirs.update(optirs.setup(HALF, model), model, {"w": [1.0], "b": np.ones(2)})


def test_what_is_declared_untrained_is_silent():
    for layer in (Half(np.ones(1), 0.5), ByInstance(np.ones(1), 0.5, False), Half(np.ones(1), Foreign([1.0]))):
        state = optirs.setup(HALF, layer)
        optirs.update_(state, layer, {"w": [1.0], "b": 1.0})
        optirs.update(state, layer, SimpleNamespace(w=[1.0], b=[1.0]))
    layer = ByInstance(np.ones(1), 0.5, True)
    with pytest.warns(UserWarning, match="the gradient at b is not used"):
        optirs.update(optirs.setup(HALF, layer), layer, {"w": [1.0], "b": 1.0})


def test_arrays_that_are_left_alone_or_frozen_are_silent():
    model = {"base": np.ones(1), "head": np.ones(1)}
    state = optirs.setup(lambda path, _: None if path[0] == "base" else HALF, model)
    optirs.update(state, model, {"base": [1.0], "head": [1.0]})
    state = optirs.setup(HALF, model)
    optirs.freeze_(state["base"])
    optirs.update(state, model, {"base": [1.0], "head": [1.0]})


def test_defaults_of_the_class_of_a_gradient_are_no_gradients():
    layer = Norm(np.ones(1), np.zeros(1), 1e-3)
    state = optirs.setup(HALF, layer)
    optirs.update(state, layer, Norm(np.ones(1), np.ones(1)))
    with pytest.warns(UserWarning, match="the gradient at epsilon is not used"):
        optirs.update(state, layer, Norm(np.ones(1), np.ones(1), 2.0))


@pytest.mark.parametrize("way", ["update", "update_", "train"])
def test_a_warning_that_is_an_error_leaves_everything_as_it_was(way):
    model = {"w": np.ones(2), "b": 0.0, "z": np.ones(2)}
    state = optirs.setup(optirs.Momentum(0.5), model)
    kept = dict(model)
    grad = {"w": np.ones(2), "b": 1.0, "z": np.ones(2)}
    act = {
        "update": lambda: optirs.update(state, model, grad),
        "update_": lambda: optirs.update_(state, model, grad),
        "train": lambda: optirs.train(lambda *_: (1.0, grad), model, (np.ones(1),), state=state),
    }[way]
    with pytest.raises(UserWarning, match="the gradient at b is not used"):
        act()
    assert all(model[k] is kept[k] for k in model)
    assert model["w"].tolist() == model["z"].tolist() == [1, 1]
    assert not any(state[k].state["velocity"].any() for k in "wz")


def test_an_error_of_structure_comes_first():
    model = {"b": 0.0, "w": np.ones(2)}
    state = optirs.setup(HALF, model)
    with pytest.raises(ValueError, match="gradient at the top has 'unknown'"):
        optirs.update(state, model, {"b": 1.0, "unknown": 1.0})


PROGRAM = """
import numpy as np
import optirs
model = {"w": np.ones(1), "b": 0.0, "c": 1.0}
state = optirs.setup(optirs.Descent(), model)
for _ in range(500):
    state, model = optirs.update(state, model, {"w": [1.0], "b": 1.0})
for _ in range(500):
    optirs.update_(state, model, {"w": [1.0], "b": 1.0, "c": 2.0})
optirs.train(lambda m, x: (1.0, {"w": [1.0], "b": 1.0}), model, (np.ones(1),), optirs.Descent(), epochs=500)
"""


def test_python_says_it_once_for_every_place_and_line(monkeypatch):
    heard = []
    monkeypatch.setattr(warnings, "showwarning", lambda *w, **_: heard.append((w[3], str(w[0]).split()[3])))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        exec(compile(PROGRAM, "program.py", "exec"), {"__name__": "program"})
    assert heard == [(7, "b"), (9, "b"), (9, "c"), (10, "b")]


def test_the_compiled_loop_leaves_longdouble_to_the_one_that_warns():
    layer = optirs.Affine(np.ones((1, 1), np.float32), np.zeros(1, np.longdouble))
    data = np.ones((4, 1), np.float32), np.full((4, 1), 3, np.float32)
    with pytest.warns(UserWarning, match="the gradient at b is not used: the model has an array of longdouble"):
        optirs.train(optirs.supervised(optirs.mse), layer, data, HALF, epochs=3)
    integers = optirs.Affine(np.ones((1, 1), np.float32), np.zeros(1, int))
    optirs.train(optirs.supervised(optirs.mse), integers, data, optirs.Descent(0.1), epochs=3)


def test_a_parameter_that_has_become_a_scalar_says_how_to_stay_an_array():
    model = {"s": np.array(1.0)}
    state = optirs.setup(HALF, model)
    model["s"] = model["s"] * 2
    with pytest.raises(TypeError, match=r"model at s is float64, the state has a Leaf there; .*np\.asarray\(x\) keeps"):
        optirs.update(state, model, {"s": 1.0})


def message_of_setup(model):
    with pytest.warns(UserWarning, match="setup does not train") as caught:
        state = optirs.setup(HALF, model)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    return str(caught[0].message), state


def test_setup_names_tensors():
    text, state = message_of_setup({"w": [Foreign(np.ones(2)), np.ones(2)], "b": Foreign(1j)})
    assert state["w"][0] is None
    assert isinstance(state["w"][1], optirs.Leaf)
    assert text.startswith(
        f"setup does not train w[0], b ({__name__}.Foreign): only NumPy arrays are trained; np.array(x)"
    )
    text, _ = message_of_setup([np.ones(1), *(Foreign(np.ones(2)) for _ in range(5))])
    assert text.startswith("setup does not train [1], [2], [3] and 2 more (")
    text, _ = message_of_setup(Foreign(np.ones(2)))
    assert text.startswith("setup found no trainable parameters in this model; setup does not train the top (")


def test_setup_names_objects_that_hold_tensors():
    class Module:
        def __init__(self):
            self.parts = {"inner": SimpleNamespace(weight=Foreign(np.ones(2)))}

    text, _ = message_of_setup({"w": np.ones(1), "net": Module()})
    assert text.startswith(f"setup does not train net ({__name__}.")
    assert f"Module, which holds {__name__}.Foreign): put NumPy arrays into a dict" in text
    text, _ = message_of_setup({"w": np.ones(1), "net": [Module(), Module()]})
    assert text.startswith("setup does not train net[0], net[1] (")


def test_setup_is_silent_where_nothing_could_be_trained():
    class Opaque:
        """Its arrays are not trained: it is not registered."""

        def __init__(self):
            self.W, self.me, self.index = np.ones(2), self, Foreign(np.ones(2, int))

    class Rude:
        dtype = property(lambda self: 1 / 0)

        def __array__(self):
            raise AssertionError("it is not asked for its values")

    endless: Any = SimpleNamespace()
    endless.more = [endless, {"again": endless}]
    odd = [Opaque(), Rude(), endless, Foreign(np.ones(2, int)), np.tanh, sys, Opaque, abs, 2.5, np.float64(1), b"", {1}]
    for rule in (HALF, lambda path, x: HALF):
        optirs.setup(rule, {"w": np.ones(1), "odd": odd, "half": Half(np.ones(1), Foreign([1.0]))})
        for leaf in odd:
            optirs.setup(rule, [np.ones(1), leaf])


def test_train_points_at_the_line_that_called_it():
    with pytest.warns(UserWarning, match="setup does not train") as caught:
        optirs.train(lambda m, x: (1.0, None), [np.ones(1), Foreign([1.0])], (np.ones(1),), HALF)
    assert "optirs.train(" in linecache.getline(caught[0].filename, caught[0].lineno)


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
def test_tensors_and_modules_of_torch():
    torch = pytest.importorskip("torch")
    text, state = message_of_setup({"w": torch.ones(3), "b": np.ones(2)})
    assert text.startswith("setup does not train w (torch.Tensor): ")
    assert ".detach().cpu().numpy()" in text
    assert "with_torch" in text
    for gradient in (
        torch.ones(3),
        torch.ones(3, requires_grad=True),
        torch.eye(3).to_sparse(),
        torch.ones(3, device="meta"),
    ):
        with pytest.warns(UserWarning, match=r"the gradient at w is not used: .* a tensor \(torch.Tensor\)"):
            optirs.update(state, {"w": torch.ones(3), "b": np.ones(2)}, {"w": gradient, "b": np.ones(2)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optirs.update(state, {"w": torch.ones(3), "b": np.ones(2)}, {"w": torch.zeros(3), "b": np.ones(2)})
        for silent in (torch.ones(3, dtype=torch.int64), torch.nn.ReLU(), torch.relu, torch.float32, torch.Generator()):
            optirs.setup(HALF, [np.ones(1), silent])
    text, _ = message_of_setup(
        [np.ones(1), torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.nn.Parameter(torch.ones(1))]
    )
    assert "torch.nn.modules.container.Sequential, which holds torch.nn.parameter.Parameter" in text


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
def test_arrays_of_jax():
    jnp = pytest.importorskip("jax.numpy")
    import jax

    text, _ = message_of_setup({"w": jnp.ones(3), "b": np.ones(2)})
    assert text.startswith("setup does not train w (")
    assert "np.array(x)" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for silent in (jax.random.key(0), jax.random.PRNGKey(0), jnp.arange(3), jax.jit(jnp.tanh), jnp.tanh):
            optirs.setup(HALF, [np.ones(1), silent])
        model = {"w": np.ones(2), "n": np.arange(2)}
        loss = jax.grad(lambda m: jnp.sum(m["w"] * m["n"]), allow_int=True)
        optirs.update(optirs.setup(HALF, model), model, loss(model))
