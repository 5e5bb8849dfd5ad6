"""What is PyTorch's own in `with_torch`: memory, graphs, compilation (`make peers`)."""

import numpy as np
import pytest

import optirs

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_shared(torch):
    import ml_dtypes

    seen = {}

    def f(model, x, kept):
        seen.update(model, x=x, kept=kept)
        return sum((w.abs() * 1.0).sum() for w in model.values())

    model = {
        "f16": np.ones(3, "float16"),
        "bf16": np.ones(3, ml_dtypes.bfloat16),
        "f32": np.ones((2, 3), "f").T,
        "f64": np.ones((4, 6))[::2, 1::3],
        "c64": np.ones((), "complex64"),
    }
    x, kept = np.ones(3), torch.ones(3)
    optirs.with_torch(f)(model, x, kept)
    for key, array in (*model.items(), ("x", x)):
        assert seen[key].data_ptr() == address(array), key
    assert seen["kept"] is kept
    assert [seen[key].requires_grad for key in ("f16", "c64", "x")] == [True, True, False]


def test_the_gradient_is_the_tensor_that_torch_made(torch):
    made = []

    def f(model):
        model["w"].register_hook(lambda g: made.append(g.data_ptr()))
        return (model["w"] ** 2).sum()

    _, grad = optirs.with_torch(f)({"w": np.ones(1000)})
    assert made == [address(grad["w"])]


def test_every_element_of_a_gradient_has_its_own_memory(torch):
    _, grad = optirs.with_torch(lambda model: model["w"].sum() + model["v"].conj().sum().real)(
        {"w": np.ones((2, 3)), "v": np.ones(2, complex)}
    )
    grad["w"][0, 0] = 5
    grad["v"][0] = 5
    np.testing.assert_array_equal(grad["w"], [[5, 1, 1], [1, 1, 1]])
    np.testing.assert_array_equal(grad["v"], [5, 1])


def test_no_two_gradients_share_memory(torch):
    sizes = {"a": 2, "v": 2, "w": (2, 2), "u": (2, 2), "empty": (2, 0)}
    model = {k: np.ones(n) for k, n in sizes.items()}

    def f(model):
        rows = torch.cat([torch.stack([model["a"], model["v"]]), model["empty"]], dim=1)
        return (rows + model["w"] + model["u"]).square().sum()

    for names in (sizes, reversed(sizes)):
        _, grad = optirs.with_torch(f)({k: model[k] for k in names})
        assert len(optirs.trainables(grad)) == len(sizes)
        for name in ("a", "v", "w", "u"):
            np.testing.assert_array_equal(grad[name], np.full(sizes[name], 6))
            grad[name][:] = 0
            np.testing.assert_array_equal(grad[name], 0)


def test_sparse_gradients(torch):
    f = lambda model, i: torch.nn.functional.embedding(i, model["table"], sparse=True).sum()  # noqa: E731
    _, grad = optirs.with_torch(f)({"table": np.ones((4, 2), "f")}, np.array([1, 1, 3]))
    np.testing.assert_array_equal(grad["table"], [[0, 0], [2, 2], [0, 0], [1, 1]])


def test_modes_of_torch(torch):
    gradient = optirs.with_torch(lambda model: (model["w"] ** 2).sum())
    with torch.no_grad():
        np.testing.assert_array_equal(gradient({"w": np.ones(2)})[1]["w"], [2, 2])
    seen = []
    optirs.with_torch(lambda model: seen.append(torch.is_grad_enabled()) or model["w"].sum()).loss({"w": np.ones(2)})
    assert seen == [False]


def test_a_loss_that_depends_on_nothing(torch):
    for f in (lambda model: model["w"].detach().sum(), lambda model: torch.tensor(1.0)):
        with pytest.raises(ValueError, match=r"with_torch: .* does not depend on any parameter"):
            optirs.with_torch(f)({"w": np.ones(2)})


def test_a_loss_of_other_tensors(torch):
    """A module's own parameters have a graph, too, but it leads nowhere near the model."""
    layer = torch.nn.Linear(3, 1)
    model = {name: p.detach().numpy().copy() for name, p in layer.named_parameters()}
    gradient = optirs.with_torch(lambda model, x: (layer(x) ** 2).mean())
    with pytest.raises(ValueError, match=r"with_torch: .* does not depend on any parameter"):
        optirs.train(gradient, model, [(torch.ones(8, 3),)], optirs.Adam())
    _, grad = optirs.with_torch(lambda model, x: (layer(x) * model["bias"]).mean())(model, torch.ones(8, 3))
    assert grad["weight"] is None


def test_the_parameters_cannot_be_written(torch):
    model = {"w": np.ones(2)}
    with pytest.raises(RuntimeError, match="in-place"):
        optirs.with_torch(lambda model: model["w"].add_(1).sum())(model)
    np.testing.assert_array_equal(model["w"], 1)


def test_modules_beside_the_model(torch):
    """A module of PyTorch is a leaf: used, not trained."""
    layer = torch.nn.Linear(3, 2)
    _, grad = optirs.with_torch(lambda model, x: layer(x * model["gain"]).sum())(
        {"gain": np.ones(3, "f"), "layer": layer}, np.ones((5, 3), "f")
    )
    np.testing.assert_allclose(grad["gain"], 5 * layer.weight.detach().numpy().sum(axis=0), rtol=1e-5)
    assert grad["layer"] is None
    assert layer.weight.grad is None


def test_all_parameters_in_a_compiled_function(torch):
    def f(model):
        flat, restructure = optirs.destructure(model)
        return (flat**2).sum() + sum((p**2).sum() for p in optirs.trainables(restructure(2 * flat)))

    W = np.arange(6.0).reshape(2, 3)
    _, grad = optirs.with_torch(f, compile=True)({"W": W, "again": W.T})
    np.testing.assert_allclose(grad["W"], 10 * W)


def test_the_rust_affine_under_transforms(torch):
    layer = optirs.Affine.random(3, 2, rng=optirs.Xoshiro(1))
    x = np.random.default_rng(1).normal(size=(5, 3)).astype("f")
    rows = torch.from_numpy(x)
    np.testing.assert_allclose(torch.func.vmap(layer)(rows), layer(x), rtol=1e-5)
    np.testing.assert_allclose(torch.func.vmap(layer, in_dims=1)(rows.T), layer(x), rtol=1e-5)
    np.testing.assert_allclose(torch.func.grad(lambda x: layer(x).sum())(rows[0]), layer.W.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(torch.func.jacrev(layer)(rows[0]), layer.W, rtol=1e-5)
    squares = torch.func.vmap(torch.func.grad(lambda x: (layer(x) ** 2).sum()))(rows)
    np.testing.assert_allclose(squares, 2 * layer(x) @ layer.W, rtol=1e-5)


def test_the_rust_affine_under_vmap_of_an_empty_batch(torch):
    layer = optirs.Affine.random(3, 2, rng=optirs.Xoshiro(1))
    W, b = torch.from_numpy(layer.W).requires_grad_(), torch.from_numpy(layer.b)
    y = torch.func.vmap(optirs.affine_forward, in_dims=(None, None, 0))(W, b, torch.zeros(0, 3))
    assert y.shape == (0, 2)
    y.sum().backward()
    assert (W.grad == 0).all()
    assert torch.func.vmap(layer, in_dims=1)(torch.zeros(4, 0, 3)).shape == (0, 4, 2)
    slopes = torch.func.vmap(torch.func.grad(lambda x: (layer(x) ** 2).sum()))(torch.zeros(0, 3))
    assert slopes.shape == (0, 3)
    with pytest.raises(ValueError, match="affine"):
        torch.func.vmap(layer)(torch.zeros(0, 4))


def test_compiled(torch):
    model = {"affine": optirs.Affine.random(3, 2, rng=optirs.Xoshiro(1)), "w": np.ones((2, 2), "f"), "n": 3}
    f = lambda model, x: (torch.tanh(model["affine"](x)) @ model["w"] * model["n"]).square().sum()  # noqa: E731
    x = np.random.default_rng(1).normal(size=(5, 3)).astype("f")
    compiled = optirs.with_torch(f, compile=True)
    (loss, grad), (expected_loss, expected) = compiled(model, x), optirs.with_torch(f)(model, x)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    np.testing.assert_allclose(grad["w"], expected["w"], rtol=1e-5)
    np.testing.assert_allclose(grad["affine"].W, expected["affine"].W, rtol=1e-4)
    assert compiled.loss(model, x) == pytest.approx(loss, rel=1e-5)
    assert repr(compiled).endswith("compile=True)")
