"""Dense layers and chains: their formulas in float64, what stands in a tree, and what is refused."""

import copy
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import ACTIVATIONS as DEFINITIONS
from networks import layer

import optirs
from optirs.layers.dense import ACTIVATIONS

EPSILON = float(np.finfo(np.float32).eps)


def rows(batch: int, n: int) -> np.ndarray:
    return np.random.default_rng([batch, n]).uniform(-1, 1, (batch, n)).astype(np.float32)


def test_every_activation_has_a_definition() -> None:
    assert set(ACTIVATIONS) == set(DEFINITIONS)


@pytest.mark.parametrize("name", DEFINITIONS)
def test_activations_follow_their_definitions(name: str) -> None:
    z = np.concatenate([np.linspace(-20, 20, 40001), [0.0, -0.0, 1e-30, -1e-30]]).astype(np.float32)
    one = optirs.Dense(np.ones((1, 1), np.float32), np.zeros(1, np.float32), name)
    found = one(z[:, None])[:, 0]
    exact = DEFINITIONS[name](z.astype(np.float64))
    # gelu's tail is a product with a gate whose argument has been rounded: its error is one of z, not of y.
    scale = np.abs(z) + EPSILON if name == "gelu" else np.abs(exact) + 1e-40
    assert np.max(np.abs(found - exact) / scale) <= 2.5 * EPSILON


@pytest.mark.parametrize("name", DEFINITIONS)
def test_inputs_of_a_thousand_and_more(name: str) -> None:
    one = optirs.Dense(np.ones((1, 1), np.float32), np.zeros(1, np.float32), name)
    z = np.array([[1000.0], [-1000.0], [1e30], [-1e30]], np.float32)
    y, back = one.pullback(z)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(y, DEFINITIONS[name](z))
    slopes = back(np.ones_like(z))[1]
    left = {"identity": 1}.get(name, 0)
    right = 0 if name in ("tanh", "sigmoid") else 1
    np.testing.assert_array_equal(slopes[:, 0], [right, left, right, left])
    assert np.isnan(one([math.nan]))


@pytest.mark.parametrize("name", DEFINITIONS)
@given(batch=st.integers(0, 9), n_in=st.integers(0, 9), n_out=st.integers(0, 9))
def test_any_shape(name: str, batch: int, n_in: int, n_out: int) -> None:
    dense, x = layer(n_in, n_out, name), rows(batch, n_in)
    y, back = dense.pullback(x)
    W, b = dense.W.astype(np.float64), dense.b.astype(np.float64)
    np.testing.assert_allclose(y, DEFINITIONS[name](x @ W.T + b), rtol=1e-6, atol=2e-6)
    np.testing.assert_array_equal(y, dense(x))
    dy = rows(batch, n_out)[::-1]
    gradient, dx = back(dy)
    assert (gradient.W.shape, gradient.b.shape, dx.shape) == (W.shape, b.shape, x.shape)
    assert {array.dtype for array in (y, gradient.W, gradient.b, dx)} == {np.dtype(np.float32)}
    if name == "relu":
        return  # its kink is no place for differences
    # The derivative of sum(dy * y) in a direction of all arguments at once, by differences in float64.
    moves = [np.random.default_rng(i).uniform(-1, 1, a.shape) for i, a in enumerate((W, b, x))]

    def value(h: float) -> float:
        (dW, db, move) = (h * m for m in moves)
        return float((dy * DEFINITIONS[name]((x + move) @ (W + dW).T + b + db)).sum())

    expected = (value(1e-5) - value(-1e-5)) / 2e-5
    found = sum(float((m * g).sum()) for m, g in zip(moves, (gradient.W, gradient.b, dx), strict=True))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_the_slope_of_relu_is_a_step() -> None:
    dense = optirs.Dense(np.eye(3, dtype=np.float32), np.zeros(3, np.float32), "relu")
    y, back = dense.pullback([[-2.0, 0.0, 3.0]])
    y[:] = -1  # back does not depend on what becomes of y
    np.testing.assert_array_equal(back([[5.0, 5.0, 5.0]])[1], [[0, 0, 5]])


def test_a_dense_layer_without_activation_is_an_affine_one() -> None:
    dense = layer(7, 5, "identity")
    affine, x, dy = optirs.Affine(dense.W, dense.b), rows(11, 7), rows(11, 5)
    (y, back), (z, affine_back) = dense.pullback(x), affine.pullback(x)
    assert y.tobytes() == z.tobytes()
    (g, dx), (h, dz) = back(dy), affine_back(dy)
    assert [a.tobytes() for a in (g.W, g.b, dx)] == [a.tobytes() for a in (h.W, h.b, dz)]


def test_glorot() -> None:
    dense = optirs.Dense.glorot(30, 20, "relu", rng=optirs.Xoshiro(7))
    limit = math.sqrt(6 / 50)
    r = optirs.Xoshiro(7).rand(20, 30)
    np.testing.assert_allclose(dense.W, (2 * r.astype(float) - 1) * limit, rtol=1e-6, atol=1e-8)
    assert dense.W.dtype == dense.b.dtype == np.float32
    assert 0.99 * limit < np.abs(dense.W).max() <= limit * (1 + EPSILON)
    assert not dense.b.any()
    assert dense.activation == "relu"
    assert optirs.Dense.glorot(0, 0).W.shape == (0, 0)
    assert (optirs.Dense.glorot(4, 3).W != optirs.Dense.glorot(4, 3).W).any()


def test_other_types_are_converted() -> None:
    dense = layer(3, 2, "tanh")
    wide = optirs.Dense(dense.W.astype(float), np.asfortranarray(dense.b), "tanh")
    x = rows(4, 3)
    assert wide(x.astype(float)).tobytes() == dense(x).tobytes()
    assert wide(np.asfortranarray(x)).tobytes() == dense(x).tobytes()
    assert optirs.Chain(wide, layer(2, 1, "relu"))(x.tolist()).tobytes() == (
        optirs.Chain(dense, layer(2, 1, "relu"))(x).tobytes()
    )


def test_a_row_is_a_batch_of_one() -> None:
    chain = optirs.Chain(layer(3, 4, "tanh"), layer(4, 2, "gelu"))
    x = rows(1, 3)
    np.testing.assert_array_equal(chain(x[0]), chain(x)[0])
    y, back = chain.pullback(x[0])
    gradient, dx = back(y)
    assert (y.shape, dx.shape, gradient[1].W.shape) == ((2,), (3,), (2, 4))


def test_chains_are_sequences() -> None:
    a, b, c = layer(3, 4, "tanh"), layer(4, 5, "relu"), layer(5, 2, "identity")
    chain = optirs.Chain(a, b, c)
    assert (len(chain), chain[0], chain[-1], list(chain)) == (3, a, c, [a, b, c])
    assert chain.layers == (a, b, c)
    assert isinstance(chain[1:], optirs.Chain)
    assert chain[1:].layers == (b, c)
    with pytest.raises(IndexError):
        chain[3]
    x = rows(6, 3)
    np.testing.assert_array_equal(chain(x), c(b(a(x))))
    np.testing.assert_array_equal(chain(x), optirs.Chain(optirs.Chain(a, b), optirs.Chain(), c)(x))
    assert repr(optirs.Chain()) == "Chain()"
    assert repr(chain).count("Dense(") == 3


def test_an_empty_chain_changes_nothing() -> None:
    x = rows(2, 3)
    y, back = optirs.Chain().pullback(x)
    gradient, dx = back(x)
    assert len(gradient) == 0
    for same in (y, dx, optirs.Chain()(x), optirs.Chain()(x.tolist())):
        np.testing.assert_array_equal(same, x)


def test_in_a_tree() -> None:
    chain = optirs.Chain(layer(3, 4, "tanh"), optirs.Chain(layer(4, 2, "gelu")))
    state = optirs.setup(lambda path, _: optirs.Adam() if path[-1] == "W" else None, chain)
    assert isinstance(state, optirs.Chain)
    assert isinstance(state[0], optirs.Dense)
    assert state[0].b is None
    assert isinstance(state[1][0].W, optirs.Leaf)
    assert "Leaf(Adam" in repr(state)
    paths = [str(path) for path, _ in optirs.trainables(chain, path=True)]
    assert paths == ["layers[0].W", "layers[0].b", "layers[1].layers[0].W", "layers[1].layers[0].b"]
    y, back = chain.pullback(rows(5, 3))
    state, new = optirs.update(state, chain, back(y)[0])
    assert new[0].activation == "tanh"
    assert new[0].b is chain[0].b
    assert (new[1][0].W != chain[1][0].W).any()
    flat, restructure = optirs.destructure(chain)
    assert restructure(flat)[1][0].activation == "gelu"
    for copied in (copy.deepcopy(chain), pickle.loads(pickle.dumps(chain))):
        np.testing.assert_array_equal(copied(rows(5, 3)), chain(rows(5, 3)))


@pytest.mark.parametrize(
    ("error", "text", "make"),
    [
        (TypeError, "Dense: W must be an array", lambda: optirs.Dense([[1.0]], np.ones(1))),
        (ValueError, r"Dense: W has shape \(3,\), it must be \(n_out, n_in\)", lambda: optirs.Dense(np.ones(3), None)),
        (ValueError, "one b per row", lambda: optirs.Dense(np.ones((2, 3)), np.ones(3))),
        (ValueError, "no activation 'swish'; there are: identity, relu", lambda: layer(2, 2, "swish")),
        (TypeError, "activation must be a name, got ufunc", lambda: optirs.Dense(np.eye(2), np.ones(2), np.tanh)),
        (ValueError, "no activation 'x'", lambda: optirs.Dense.glorot(2, 3, "x")),
        (TypeError, "Dense.glorot: rng must be an optirs.Xoshiro", lambda: optirs.Dense.glorot(2, 3, rng=1)),
        (ValueError, "negative", lambda: optirs.Dense.glorot(-2, 3)),
        (TypeError, "Chain: layer 1 must be callable .* got ufunc", lambda: optirs.Chain(layer(2, 2, "relu"), np.tanh)),
        (TypeError, "Chain: layer 0 .* got Dense", lambda: optirs.Chain(optirs.Dense)),
        (ValueError, r"Dense: x has shape \(3, 4\), W \(2, 3\)", lambda: layer(3, 2, "relu")(rows(3, 4))),
        (TypeError, "Dense: x must be an array of real numbers", lambda: layer(3, 2, "relu")("no")),
        (
            ValueError,
            r"Dense: dy has shape \(3, 1\), the output has \(3, 2\)",
            lambda: layer(3, 2, "relu").pullback(rows(3, 3))[1](rows(3, 1)),
        ),
        (
            ValueError,
            r"layers\[1\].W has shape \(2, 5\), the layer before gives rows of 4",
            lambda: optirs.Chain(layer(3, 4, "relu"), layer(5, 2, "relu"))(rows(3, 3)),
        ),
        (
            ValueError,
            r"x has shape \(3, 4\), the model takes \(3,\) or \(batch, 3\)",
            lambda: optirs.Chain(layer(3, 4, "relu"), layer(4, 2, "relu"))(rows(3, 4)),
        ),
    ],
)
def test_what_is_refused(error: type[Exception], text: str, make: Callable[[], object]) -> None:
    with pytest.raises(error, match=text):
        make()


def test_fields_that_were_changed_later_are_checked_again() -> None:
    dense = layer(3, 2, "relu")
    chain = optirs.Chain(dense)
    dense.activation = "sin"
    for call in (dense, chain):
        with pytest.raises(ValueError, match='no activation "sin"; there are'):
            call(rows(4, 3))
    dense.activation = "relu"
    dense.b = np.ones(5)
    with pytest.raises(ValueError, match=r"layers\[0\].b has shape \(5,\)"):
        chain(rows(4, 3))
    chain.layers = (chain,)
    with pytest.raises(RecursionError):
        chain(rows(4, 3))


def test_layers_and_their_states_compare_by_content() -> None:
    def made(seed: int) -> optirs.Chain:
        rng = optirs.Xoshiro(seed)
        return optirs.Chain(optirs.Dense.glorot(3, 2, "relu", rng=rng), optirs.Affine.random(2, 1, rng=rng))

    model, rule = made(1), optirs.Adam()
    assert model == made(1) != made(2)
    state = optirs.setup(rule, model)
    assert state == optirs.setup(rule, made(2)) == copy.deepcopy(state)
    stepped, _ = optirs.update(state, model, model)
    assert stepped != state
    assert optirs.Dense(model[0].W, model[0].b, "tanh") != model[0] != optirs.Affine(model[0].W, model[0].b)
    with pytest.raises(TypeError, match="unhashable"):
        hash(model)
