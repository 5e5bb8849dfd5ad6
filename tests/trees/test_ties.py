"""Ties: two places, one parameter."""

import copy
import pickle

import numpy as np
import pytest

import optirs

HALF = optirs.Descent(0.5)
W = np.arange(6.0).reshape(2, 3)


def tied_models():
    a, b, c = W.copy(), W.copy(), W.copy()
    yield {"x": a, "y": a}, False
    yield {"x": b, "y": b[:]}, False
    yield {"x": c, "y": c.T}, True


@pytest.fixture(params=[0, 1, 2], ids=["same", "view", "transpose"])
def tied(request):
    return list(tied_models())[request.param]


def is_tied(x, y):
    return np.shares_memory(x, y) and x.size == y.size


def test_one_leaf_in_the_orientation_of_the_first_place(tied):
    model, _ = tied
    state = optirs.setup(optirs.Adam(), model)
    assert state["x"] is state["y"]
    assert state["x"].state["m"].shape == (2, 3)
    assert [str(p) for p, _ in optirs.trainables(model, path=True)] == ["x"]


@pytest.mark.parametrize("step", [optirs.update, optirs.update_])
def test_gradients_are_summed_and_the_tie_survives(tied, step):
    model, transposed = tied
    gx, gy = np.ones((2, 3)), np.arange(6.0).reshape(2, 3) * 2
    state, new = step(optirs.setup(HALF, model), model, {"x": gx, "y": gy.T if transposed else gy})
    np.testing.assert_array_equal(new["x"], W - 0.5 * (gx + gy))
    np.testing.assert_array_equal(new["y"].T if transposed else new["y"], new["x"])
    assert is_tied(new["x"], new["y"])
    assert state["x"] is state["y"]
    state, new = step(state, new, {"x": None, "y": gy.T if transposed else gy})
    np.testing.assert_array_equal(new["x"], W - 0.5 * (gx + 2 * gy))


def test_each_place_counts_also_for_one_gradient_object():
    x, g = np.zeros(2), np.ones(2)
    model = [x, x, x]
    _, new = optirs.update(optirs.setup(HALF, model), model, [g, g, g])
    assert (new[0] == -1.5).all()
    assert new[0] is new[1] is new[2]
    assert (g == 1).all()


@pytest.mark.parametrize("copied", [lambda t: pickle.loads(pickle.dumps(t)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_copying_a_state_keeps_its_ties(tied, copied):
    model, transposed = tied
    state = copied(optirs.setup(optirs.Adam(), model))
    assert state["x"] is state["y"]
    g = np.ones((2, 3))
    state, new = optirs.update(state, model, {"x": g, "y": g.T if transposed else g})
    assert state["x"] is state["y"]
    assert is_tied(new["x"], new["y"])


def test_ties_survive_adjust(tied):
    state = optirs.setup(HALF, tied[0])
    new = optirs.adjust(state, 0.25)
    assert new["x"] is new["y"] is not state["x"]


def test_ties_survive_destructure(tied):
    model, transposed = tied
    flat, restructure = optirs.destructure(model)
    np.testing.assert_array_equal(flat, np.arange(6.0))
    new = restructure(flat * 2)
    assert is_tied(new["x"], new["y"])
    np.testing.assert_array_equal(new["y"].T if transposed else new["y"], W * 2)
    g = np.ones((2, 3))
    np.testing.assert_array_equal(restructure.gradient({"x": g, "y": g.T if transposed else g}), np.full(6, 2.0))
    np.testing.assert_array_equal(restructure.gradient({"y": g.T if transposed else g}), np.ones(6))


def test_every_step_of_a_square_transpose():
    square = np.arange(4.0).reshape(2, 2)
    model = [square, square.T]
    _, new = optirs.update(optirs.setup(HALF, model), model, [None, np.array([[0, 1.0], [0, 0]])])
    np.testing.assert_array_equal(new[0], [[0, 1], [1.5, 3]])
    np.testing.assert_array_equal(new[1], new[0].T)


def test_full_transpose_of_three_dimensions():
    x = np.zeros((2, 3, 4))
    model = [x, x.T]
    assert len(optirs.trainables(model)) == 1
    g = np.arange(24.0).reshape(4, 3, 2)
    _, new = optirs.update(optirs.setup(HALF, model), model, [None, g])
    np.testing.assert_array_equal(new[0], -0.5 * g.T)
    with pytest.raises(ValueError, match="share memory"):
        optirs.setup(HALF, [x, x.transpose(1, 0, 2)])


def overlapping():
    x = np.arange(12.0)
    yield x[:8], x[4:]
    yield x, x.reshape(3, 4)
    yield x, x[::-1]
    yield x, x.view(np.float32)
    yield x[::2], x[::3]
    yield x, x[:6]
    yield x.reshape(3, 4), x.reshape(4, 3).T


@pytest.mark.parametrize("arrays", list(overlapping()), ids=lambda a: f"{a[0].shape}-{a[1].shape}")
def test_other_overlap_names_both_places(arrays):
    model = {"layers": [{"W": arrays[0]}], "head": arrays[1]}
    text = r"layers\[0\]\.W and head share memory"
    for act in (lambda: optirs.setup(HALF, model), lambda: optirs.trainables(model), lambda: optirs.destructure(model)):
        with pytest.raises(ValueError, match=text):
            act()
    state = optirs.setup(HALF, {"layers": [{"W": arrays[0].copy()}], "head": arrays[1].copy()})
    before = arrays[0].copy()
    for act in (optirs.update, optirs.update_):
        with pytest.raises(ValueError, match=text):
            act(state, model, None)
    np.testing.assert_array_equal(arrays[0], before)


@pytest.mark.parametrize("step", [optirs.update, optirs.update_])
def test_interleaved_views_are_fine(step):
    x = np.arange(12.0).reshape(3, 4)
    model = {"even": x[:, ::2], "odd": x[:, 1::2]}
    expected = {k: v - 0.5 for k, v in model.items()}
    _, new = step(optirs.setup(HALF, model), model, {k: np.ones((3, 2)) for k in model})
    for k in model:
        np.testing.assert_array_equal(new[k], expected[k])


@pytest.mark.parametrize("step", [optirs.update, optirs.update_])
def test_state_and_model_disagree_about_ties(step):
    x, y = np.ones((2, 2)), np.ones((2, 2))
    tied, free = {"a": x, "b": x}, {"a": x.copy(), "b": y}
    with pytest.raises(ValueError, match="a and b are one parameter in the state"):
        step(optirs.setup(HALF, tied), free, {"a": x})
    with pytest.raises(ValueError, match="a and b are one parameter in the model, but two in the state"):
        step(optirs.setup(HALF, free), tied, {"a": x})
    with pytest.raises(ValueError, match="a and b are one parameter in the model, but two in the state"):
        step(optirs.setup(HALF, free), {"a": x, "b": x.T}, None)
    assert (x == 1).all()
    assert (y == 1).all()


def test_a_tie_in_another_orientation_than_at_setup():
    x = np.arange(6.0).reshape(2, 3)
    state = optirs.setup(HALF, [x, x])
    y = np.arange(4.0).reshape(2, 2)
    with pytest.raises(ValueError, match=r"one parameter|shape"):
        optirs.update(state, [x, x.T[:2, :2]], None)
    with pytest.raises(ValueError, match="shape"):
        optirs.update(state, [y, y], None)


def test_wrong_shape_at_a_transposed_place_names_it():
    x = np.zeros((2, 3))
    model = {"a": x, "b": x.T}
    with pytest.raises(ValueError, match=r"gradient at b has shape \(2, 3\), the parameter has \(3, 2\)"):
        optirs.update(optirs.setup(HALF, model), model, {"b": np.ones((2, 3))})


def of_length_one():
    z = np.arange(3.0)
    yield z.reshape(3, 1), z[:, None]
    yield z[:, None], z.reshape(3, 1)
    yield z[None], z.reshape(1, 3)
    yield z.reshape(3, 1), z[None]
    yield z[None], z.reshape(3, 1)
    yield z.reshape(1, 3, 1), z[None, :, None].T
    strided = np.arange(6.0)[::2]
    yield strided[:, None], np.lib.stride_tricks.as_strided(strided, (3, 1), (16, 800))
    yield np.lib.stride_tricks.as_strided(strided, (1, 3), (800, 16)), strided[:, None]


@pytest.mark.parametrize("arrays", list(of_length_one()), ids=lambda a: f"{a[0].strides}-{a[1].strides}")
@pytest.mark.parametrize("step", [optirs.update, optirs.update_])
def test_strides_of_axes_of_length_one_mean_nothing(arrays, step):
    x, y = model = list(arrays)
    before = x.copy()
    state = optirs.setup(HALF, model)
    assert state[0] is state[1]
    flat, restructure = optirs.destructure(model)
    assert len(flat) == 3
    assert [a.shape for a in restructure(flat)] == [x.shape, y.shape]
    _, new = step(state, model, [np.ones(x.shape), np.ones(y.shape)])
    np.testing.assert_array_equal(new[0], before - 1)
    assert new[1].shape == y.shape
    assert is_tied(new[0], new[1])
    fixed = optirs.functor(children=("W",), trainable=())(type("Fixed", (), {}))()
    fixed.W = y
    _, new = step(optirs.setup(HALF, [x, fixed]), [x, fixed], [np.ones(x.shape), None])
    assert is_tied(new[0], new[1].W)
    with pytest.raises(ValueError, match="one parameter in the model"):
        step(optirs.setup(HALF, [x.copy(), y.copy()]), model, None)


def test_empty_arrays_share_nothing():
    x = np.ones(4)
    model = [x, x[:0], x[2:2]]
    state = optirs.setup(HALF, model)
    assert optirs.update(state, model, [np.ones(4), [], []])[1][0].tolist() == [0.5] * 4


@optirs.functor(children=("encoder", "decoder"), trainable=("encoder",))
class Half:
    def __init__(self, encoder, decoder):
        self.encoder, self.decoder = encoder, decoder


def half_trained(other):
    x, free = np.ones((2, 3)), np.zeros(2)
    return Half(x, {"kept": [free], "tied": (other(x), 3)})


OTHERS = pytest.mark.parametrize(
    "other", [lambda x: x, lambda x: x[:], lambda x: x.T], ids=["same", "view", "transpose"]
)


@OTHERS
@pytest.mark.parametrize("step", [optirs.update, optirs.update_])
def test_a_parameter_follows_to_where_it_is_not_trained(other, step):
    model = half_trained(other)
    state = optirs.setup(HALF, model)
    assert state.decoder is None
    junk = {"encoder": np.ones((2, 3)), "decoder": {"tied": [np.ones(9), 1], "unknown": 1}}
    for expected in (0.5, 0.0):
        state, new = step(state, model, junk)
        assert (new.encoder == expected).all()
        assert (new.decoder["tied"][0] == expected).all()
        assert new.decoder["tied"][0].shape == model.decoder["tied"][0].shape
        assert is_tied(new.encoder, new.decoder["tied"][0])
        assert new.decoder["kept"] is model.decoder["kept"]
        assert new.decoder["tied"][1] == 3
        if step is optirs.update:
            assert (model.encoder == expected + 0.5).all()
            assert (model.decoder["tied"][0] == expected + 0.5).all()
            assert new.decoder is not model.decoder
        model = new
    optirs.freeze_(state)
    _, new = optirs.update(state, model, junk)
    assert new.encoder is not model.encoder
    assert is_tied(new.encoder, new.decoder["tied"][0])


@OTHERS
def test_destructure_follows_to_where_it_is_not_trained(other):
    model = half_trained(other)
    flat, restructure = optirs.destructure(model)
    new = restructure(np.arange(6.0))
    assert len(flat) == 6
    assert (new.encoder == [[0, 1, 2], [3, 4, 5]]).all()
    assert (new.decoder["tied"][0] == other(new.encoder)).all()
    assert is_tied(new.encoder, new.decoder["tied"][0])
    assert new.decoder["kept"][0] is model.decoder["kept"][0]
    assert (model.encoder == 1).all()


def test_a_rule_function_is_asked_once_for_a_parameter_that_stands_elsewhere_too():
    x = np.ones(2)
    state = optirs.setup(lambda path, _: HALF if path == ("a",) else None, {"a": x, "b": np.ones(2), "c": x})
    assert state["c"] is state["a"]
    assert state["b"] is None


def test_part_of_a_parameter_in_an_untrained_place():
    x = np.ones((2, 3))
    fixed = optirs.functor(children=("W",), trainable=())(type("Fixed", (), {}))()
    fixed.W = {"row": x[0]}
    with pytest.raises(ValueError, match=r"\[0\] and \[1\]\.W\.row share memory"):
        optirs.setup(HALF, [x, fixed])
    fixed.W = None
    state = optirs.setup(HALF, [x, fixed])
    for other in ({"row": x[0]}, [x.view(np.int64)], [x[:, :1]]):
        fixed.W = other
        for step in (optirs.update, optirs.update_):
            with pytest.raises(ValueError, match=r"\[0\] and \[1\]\.W.* share memory"):
                step(state, [x, fixed], [np.ones((2, 3)), None])
        assert (x == 1).all()
    fixed.W = [x[0:0]]
    _, new = optirs.update(state, [x, fixed], [np.ones((2, 3)), None])
    assert new[1].W is fixed.W


@pytest.mark.parametrize("writeable", [True, False])
def test_an_array_that_shares_elements_with_itself(writeable):
    x = np.lib.stride_tricks.as_strided(np.zeros(5), (3, 3), (8, 8), writeable=writeable)
    state = optirs.setup(HALF, x)
    with pytest.raises(ValueError, match="shares elements with itself" if writeable else "read-only"):
        optirs.update_(state, x, np.ones((3, 3)))
    assert (x == 0).all()
    assert (optirs.update(state, x, np.ones((3, 3)))[1] == -0.5).all()


def test_strides_that_do_not_nest_but_miss_each_other():
    x = np.lib.stride_tricks.as_strided(np.zeros(32), (2, 3), (3 * 8, 2 * 8))  # elements 0, 2, 4, 3, 5, 7
    optirs.update_(optirs.setup(HALF, x), x, np.ones((2, 3)))
    assert (x == -0.5).all()
