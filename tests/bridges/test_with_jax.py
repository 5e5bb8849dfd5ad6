"""What is JAX's own in `with_jax`: compilation, precision, what varies and what does not (`make peers`)."""

import gc
import os
import subprocess
import sys
import weakref
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import optirs

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]


@pytest.fixture
def jnp():
    return pytest.importorskip("jax.numpy")


@optirs.functor(children=("w",))
class Slotted:
    __slots__ = ("power", "w")

    def __init__(self, w, power):
        self.w, self.power = w, power


@optirs.functor(trainable=("w",))
@dataclass
class Field:
    w: np.ndarray
    fixed: Any = None
    power: int = 1


def counting(f):
    """The function, and a list that grows whenever JAX traces it."""
    traced = []

    def counted(*arguments):
        traced.append(arguments)
        return f(*arguments)

    return counted, traced


def test_compiled_once_for_a_structure(jnp):
    f, traced = counting(lambda model, x: jnp.sum(model["w"] * x) + 0 * model["n"])
    gradient = optirs.with_jax(f)
    model = {"w": np.ones(3), "n": 1, "name": "a", "f": jnp.tanh, "unhashable": {1, 2}}
    state = optirs.setup(optirs.Adam(), model)
    for _ in range(5):
        _, grad = gradient(model, np.ones(3))
        state, model = optirs.update(state, model, grad)
    assert len(traced) == 1
    gradient(model, np.ones((2, 3)))
    gradient({**model, "w": np.ones(2)}, np.ones(2))
    assert len(traced) == 3
    assert "with_jax(" in repr(gradient)


def test_a_penalty_is_compiled_once(jnp):
    """And so is the question whether the loss depends on the model."""

    def f(model, x):
        flat, restructure = optirs.destructure(model)
        return sum(jnp.sum(p**2) for p in optirs.trainables(restructure(flat * x)))

    f, traced = counting(f)
    gradient = optirs.with_jax(f)
    model = {"w": np.ones(3), "tied": np.ones((2, 3)), "own": jnp.ones(2)}
    model["again"] = model["tied"].T
    trained = optirs.train(gradient, model, [(1.0,)] * 5, optirs.Descent(0.25), epochs=2)
    assert len(traced) == 1
    np.testing.assert_array_equal(trained.model["again"], np.full((3, 2), 2.0**-10))
    assert trained.history[0] == 9


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (Field(np.full(2, 2.0), power=1), Field(np.full(2, 2.0), power=3)),
        (Slotted(np.full(2, 2.0), 1), Slotted(np.full(2, 2.0), 3)),
    ],
)
def test_what_is_no_array_belongs_to_the_structure(jnp, a, b):
    f, traced = counting(lambda model: jnp.sum(model.w**model.power))
    gradient = optirs.with_jax(f)
    for model in (a, b, a, b):
        loss, grad = gradient(model)
        assert loss == 2 * 2**model.power
        np.testing.assert_array_equal(grad.w, model.power * 2.0 ** (model.power - 1))
    assert len(traced) == 2


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ({"x": [np.ones(2)]}, {"x": (np.ones(2),)}),
        ({"x": [np.ones(2)], "empty": []}, {"x": [np.ones(2)], "empty": {}}),
        ({"x": [np.ones(2)], "n": 1}, {"x": [np.ones(2)], "n": True}),
        ({"x": [np.ones(2)], "n": 1}, {"x": [np.ones(2)], "n": 1.0}),
        ({"x": [np.ones(2)], "n": [{1}]}, {"x": [np.ones(2)], "n": [{1}]}),
        ({"x": [np.ones(2)], "y": np.ones(2)}, {"x": [np.ones(2)], "y": np.ones(2, int)}),
    ],
)
def test_structures_that_differ(jnp, a, b):
    f, traced = counting(lambda model: jnp.sum(model["x"][0]))
    gradient = optirs.with_jax(f)
    for model in (a, b, a, b):
        gradient(model)
    assert len(traced) == 2
    assert type(traced[0][0]["x"]) is type(a["x"])
    assert type(traced[1][0]["x"]) is type(b["x"])


def test_ties_belong_to_the_structure(jnp):
    gradient = optirs.with_jax(lambda model: jnp.sum(model[0] * model[1]))
    W = np.array([[1.0, 2.0], [3.0, 4.0]])
    for second, expected in ((W, 2 * W), (W.T, 2 * W.T), (W.copy(), W), (W, 2 * W)):
        np.testing.assert_array_equal(gradient([W, second])[1][0], expected)


def test_arrays_that_are_not_trained_may_change(jnp):
    f, traced = counting(lambda model: jnp.sum(model.w * model.fixed[0] * model.fixed[1]))
    gradient = optirs.with_jax(f)
    fixed = np.array([3, 4])
    model = Field(np.ones(2), [fixed, jnp.ones(2)])
    assert gradient(model)[0] == 7
    fixed[0] = 5
    assert gradient(model)[0] == 9
    assert gradient(Field(np.ones(2), [fixed, 2 * jnp.ones(2)]))[0] == 18
    assert len(traced) == 1


def test_numbers_in_the_batch_vary_and_switches_do_not(jnp):
    def f(model, data, number, switch):
        return jnp.sum(model["w"] * data["x"][0]) * number if switch else jnp.sum(model["w"])

    f, traced = counting(f)
    gradient = optirs.with_jax(f)
    model = {"w": np.ones(2)}
    for number in (1, 2, 3, 4.0, np.float32(5), np.float32(6)):
        assert gradient(model, {"x": [np.ones(2)]}, number, True)[0] == 2 * number
    assert len(traced) == 3
    assert gradient(model, {"x": [jnp.ones(2)]}, 1, False)[0] == 2
    assert len(traced) == 4


def test_random_keys(jnp):
    import jax

    f, traced = counting(lambda model, key: jnp.sum(model["w"] * jax.random.uniform(key, (2,))))
    gradient = optirs.with_jax(f)
    losses = {gradient({"w": np.ones(2, "f")}, jax.random.key(i))[0] for i in range(4)}
    assert (len(losses), len(traced)) == (4, 1)


def test_what_cannot_be_compiled(jnp):
    def f(model):
        w = model["w"]
        return jnp.sum(w**2) if w[0] > 0 else jnp.sum(w)

    for w, expected in (([1.0, 2.0], [2, 4]), ([-1.0, 2.0], [1, 1])):
        np.testing.assert_array_equal(optirs.with_jax(f, jit=False)({"w": np.array(w)})[1]["w"], expected)
    with pytest.raises(Exception, match="traced array") as caught:
        optirs.with_jax(f)({"w": np.ones(2)})
    assert "optirs.with_jax(f, jit=False) does not compile f" in caught.value.__notes__


@pytest.mark.parametrize("jit", [True, False])
def test_the_precision_is_that_of_the_model(jnp, jit):
    seen = []

    def f(model, x):
        seen.append((model["w"].dtype.name, x.dtype.name))
        return jnp.sum(model["w"] * x)

    gradient = optirs.with_jax(f, jit=jit)
    x = np.full(2, 1 + 2**-40)
    assert gradient({"w": np.ones(2)}, x)[0] == x.sum()
    assert gradient({"w": np.ones(2, "f")}, x)[0] == 2
    assert gradient({"w": np.ones(2, "f"), "v": np.ones(2)}, x)[0] == x.sum()
    assert seen == [("float64", "float64"), ("float32", "float32"), ("float32", "float64")]
    assert jnp.ones(2).dtype == np.float32


def test_the_model_is_not_kept_alive(jnp):
    class Array(np.ndarray):
        """Of NumPy's own arrays there are no weak references in all versions."""

    gradient = optirs.with_jax(lambda model, x: jnp.sum(model["w"] * x * model["i"]))
    model = {"w": np.ones(3).view(Array), "i": np.ones(3, int).view(Array)}
    kept = [weakref.ref(a) for a in model.values()]
    gradient(model, np.ones(3))
    del model
    gc.collect()
    assert [a() for a in kept] == [None, None]


def test_the_rust_affine_under_vmap(jnp):
    import jax

    model = optirs.Affine.random(3, 2, rng=optirs.Xoshiro(1))
    x = np.random.default_rng(1).normal(size=(5, 3)).astype("f")
    rows = optirs.with_jax(lambda model, x: jnp.sum(jax.vmap(model)(x) ** 2))(model, x)
    whole = optirs.with_jax(lambda model, x: jnp.sum(model(x) ** 2))(model, x)
    assert rows[0] == pytest.approx(whole[0], rel=1e-6)
    np.testing.assert_allclose(rows[1].W, whole[1].W, rtol=1e-5)


def test_the_rust_affine_in_a_deep_network(jnp):
    """Callbacks of a computation that is spread over threads must not wait for each other."""
    rng = np.random.default_rng(1)
    model = [optirs.Affine(rng.normal(size=(300, 300)).astype("f") / 17, np.zeros(300, "f")) for _ in range(6)]
    x = rng.normal(size=(200, 300)).astype("f")

    def f(model, x):
        for layer in model:
            x = jnp.tanh(layer(x)) + jnp.tanh(x @ layer.W.T)
        return jnp.mean(x**2)

    for jit in (True, False):
        gradient = optirs.with_jax(f, jit=jit)
        losses = [gradient(model, x)[0] for _ in range(10)]
        assert len(set(losses)) == 1


ON_ONE_CPU = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax.numpy as jnp
import numpy as np
import optirs
model = [optirs.Affine(np.eye(600, dtype="f"), np.zeros(600, "f")) for _ in range(3)]
x = np.ones((64, 600), "f")
for jit in (True, False):
    gradient = optirs.with_jax(lambda m, x: jnp.mean(m[2](m[1](m[0](x)))), jit=jit)
    for _ in range(5):
        loss, grad = gradient(model, x)
    assert loss == 1, loss
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot bind processes to CPUs")
def test_the_rust_affine_on_one_cpu(jnp):
    """A callback would wait for ever there."""
    done = subprocess.run([sys.executable, "-c", ON_ONE_CPU], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
